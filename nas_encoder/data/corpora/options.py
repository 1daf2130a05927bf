"""How a corpus is prepared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nas_encoder.data.mandarin import UNITS
from nas_encoder.data.phones import PHONE_SETS


@dataclass(frozen=True)
class PrepareOptions:
    """How a corpus is prepared.

    Attributes:
        jobs: Threads that read audio headers and write audio.
        phones: TIMIT's phone set: 61 (as transcribed; lhotse calls it 60, which is taken too), 48
            or 39 (Lee and Hon 1989).
        units: AISHELL: ``char`` (texts stay), or ``syllable`` or ``initial_final``, which texts
            become by the rules of :mod:`nas_encoder.data.mandarin`, as TIMIT's become phones.
        keep_sa: TIMIT: keep the two SA sentences that every speaker reads; by custom they are
            left out, because training and test would share them.
        subsets: LibriSpeech: split -> subsets, instead of the default (train = all train-*,
            dev = all dev-*, test = all test-*).
        sampling_rate: Hz at which all audio is written again, to ``audio/{split}/``. None: the
            manifests name the corpus's own files.
        partial: Whether a part of the corpus is meant: what differs from the published counts is
            told, and audio that cannot be read is left out, instead of being refused.
        lm_text: LibriSpeech: ``librispeech-lm-norm.txt.gz``, or the like, to be written to
            ``lm/text`` for the language models of ESPnet.
    """

    jobs: int = 1
    phones: int = 48
    units: str = "char"
    keep_sa: bool = False
    subsets: Mapping[str, Sequence[str]] = field(default_factory=dict)
    sampling_rate: int | None = None
    partial: bool = False
    lm_text: Path | None = None

    def choices(self, corpus: str) -> dict[str, Any]:
        """Return what a corpus's utterances and texts depend on, in plain types."""
        of_corpora = {"timit": ("phones", "keep_sa"), "aishell": ("units",)}
        chosen = {name: getattr(self, name) for name in of_corpora.get(corpus, ())}
        return chosen | {split: ",".join(names) for split, names in self.subsets.items()}

    def problems(self, corpus: str) -> list[str]:
        """Return every value that breaks a rule."""
        problems = []
        if self.jobs < 1:
            problems.append(f"jobs: must be at least 1, got {self.jobs}")
        if self.phones not in PHONE_SETS:
            known = ", ".join(map(str, PHONE_SETS))
            problems.append(f"phones: must be one of {known}, got {self.phones}")
        if self.units not in ("char", *UNITS):
            known = ", ".join(("char", *UNITS))
            problems.append(f"units: must be one of {known}, got {self.units!r}")
        elif self.units != "char" and corpus != "aishell":
            problems.append(f"units: {self.units} is for aishell, not {corpus}")
        if self.subsets and not self.subsets.get("train"):
            problems.append("subsets: a split 'train' is needed")
        if self.sampling_rate is not None and self.sampling_rate < 1:
            problems.append(f"sampling_rate: must be at least 1 Hz, got {self.sampling_rate}")
        if self.lm_text is not None and corpus != "librispeech":
            problems.append(f"lm_text: is for librispeech, not {corpus}")
        return problems
