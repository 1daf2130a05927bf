"""Synthetic speech corpora in the folder layouts of public ones.

The audio is made by espeak-ng from sentences that this package's own grammars
write. It serves tests and demonstrations; no result on it says anything about
human speech.

Modules: :mod:`~tools.synth.english` and :mod:`~tools.synth.mandarin` write
sentences, :mod:`~tools.synth.voices` draws speakers, :mod:`~tools.synth.espeak`
speaks, :mod:`~tools.synth.audio` resamples, trims and adds noise,
:mod:`~tools.synth.phones` labels phones, :mod:`~tools.synth.layouts` holds one
module for each folder layout, :mod:`~tools.synth.plan` decides who says what
and :mod:`~tools.synth.build` does it.
"""
