"""Synthetic speech corpora in the folder layouts of public ones.

espeak-ng speaks sentences from this package's own grammars, for tests and demonstrations; no
result on them says anything about human speech.

:mod:`~tools.synth.english` and :mod:`~tools.synth.mandarin` write sentences,
:mod:`~tools.synth.voices` draws speakers, :mod:`~tools.synth.plan` decides who says what,
:mod:`~tools.synth.espeak` speaks, :mod:`~tools.synth.audio` resamples, trims and adds noise,
:mod:`~tools.synth.phones` labels phones, :mod:`~tools.synth.layouts` has a module for each folder
layout, and :mod:`~tools.synth.build` does it all.
"""
