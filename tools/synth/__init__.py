"""Synthetic speech corpora in the folder layouts of public ones.

espeak-ng speaks sentences from this package's own grammars, for tests and demonstrations; no
result on them says anything about human speech. :mod:`~tools.synth.build` does it all.
"""
