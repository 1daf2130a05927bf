"""How large the published corpora are, and whether a copy is.

Utterances, hours and speakers: LibriSpeech by Panayotov et al. 2015, table 1 and icefall's
statistics of its cuts (which give dev-other 5.1 and test-other 5.3 hours, the table the reverse),
AISHELL-1 by Bu et al. 2017 and icefall's statistics; of its 141,925 audio files, 325 have no
transcript and do not count. TIMIT by its documentation (630 speakers of 10 sentences each).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lhotse.recipes.timit import get_speakers

from nas_encoder.data.corpora.reading import Count, Reading, some
from nas_encoder.errors import DataError

logger = logging.getLogger(__name__)

PUBLISHED: dict[str, dict[str, Count]] = {
    "aishell": {
        "train": Count(120_098, 150.85, 340),
        "dev": Count(14_326, 18.1, 40),
        "test": Count(7_176, 10.03, 20),
    },
    "librispeech": {
        "train-clean-100": Count(28_539, 100.6, 251),
        "train-clean-360": Count(104_014, 363.6, 921),
        "train-other-500": Count(148_688, 496.9, 1166),
        "dev-clean": Count(2_703, 5.4, 40),
        "dev-other": Count(2_864, 5.1, 33),
        "test-clean": Count(2_620, 5.4, 40),
        "test-other": Count(2_939, 5.3, 33),
        "train-clean-5": Count(1_519, 5.3, 28),
        "dev-clean-2": Count(1_089, 2.0, None),
    },
    # With the SA sentences. Without, 3,696, 400 and 192 utterances; 3.14, 0.34 and 0.16 hours.
    "timit": {
        "train": Count(4_620, 3.94, 462),
        "dev": Count(500, None, 50),
        "test": Count(240, None, 24),
    },
}
"""Corpus -> part -> its size."""

# Relative and absolute difference that is left open by published figures, and by a description.
_PUBLISHED_HOURS, _DESCRIBED_HOURS = (0.02, 0.06), (0.0, 0.0002)
_SYNTHETIC = "corpus.json"  # written by tools/synth_corpus.py beside what it makes
REMEDY = (
    "complete the copy; if a part is meant, say so with --partial (PrepareOptions.partial), and "
    "results are not those of the published corpus"
)


@dataclass(frozen=True)
class CountReport:
    """A copy compared with what it should be.

    Attributes:
        source: A key of :data:`SOURCES`.
        expected: Part -> what it should hold; no entry where that is not known.
        found: Part -> what it holds.
        problems: How they differ.
    """

    source: str
    expected: Mapping[str, Count] = field(default_factory=dict)
    found: Mapping[str, Count] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain types for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [SOURCES[self.source]]
        for part, found in self.found.items():
            want, own = asdict(self.expected.get(part, Count(0, None, None))), asdict(found)
            shown = [
                f"{own[name]:{form}} {name}" + (f" of {want[name]:{form}}" if want[name] else "")
                for name, form in (("utterances", ",d"), ("hours", ".2f"), ("speakers", ",d"))
            ]
            lines.append(f"  {part}: {', '.join(shown)}")
        return "\n".join(lines)


SOURCES = {
    "published": "the counts are those of the published corpus",
    "partial": "a PART of the published corpus, as asked for: results are not comparable",
    "synthetic": "a SYNTHETIC corpus of this layout, whole: results say nothing about the real one",
    "synthetic part": "a PART of a SYNTHETIC corpus of this layout, as asked for",
    "uncounted": "no published counts",
}
"""What a copy was found to be."""


def compare(corpus: str, root: Path, reading: Reading, partial: bool) -> CountReport:
    """Compare a corpus that was read with the published one, or with its own description.

    Args:
        corpus: Its name.
        root: Where it was read.
        reading: What was found.
        partial: Whether differences are expected; they are then logged.

    Raises:
        DataError: The corpus is not whole, with every difference.
    """
    synthetic = _description(corpus, root)
    if corpus not in PUBLISHED and synthetic is None:
        return CountReport("uncounted", found=reading.counts, problems=tuple(reading.problems))
    expected = PUBLISHED.get(corpus, {}) if synthetic is None else _described(synthetic)
    names = _published_names(corpus) if synthetic is None else _described_names(synthetic)
    hours = _PUBLISHED_HOURS if synthetic is None else _DESCRIBED_HOURS
    problems = [
        line
        for part in reading.counts
        for line in _differences(part, expected.get(part), reading, names.get(part, set()), hours)
    ]
    problems += reading.problems
    expected = {part: count for part, count in expected.items() if part in reading.counts}
    if problems and not partial:
        what = "the published corpus" if synthetic is None else "the synthetic corpus made here"
        raise DataError(f"corpus {corpus}, {root}: this is not {what}", [*problems, REMEDY])
    for line in problems:
        logger.warning("%s: %s", corpus, line)
    if synthetic is None:
        source = "partial" if problems else "published"
    else:
        source = "synthetic part" if problems else "synthetic"
    return CountReport(source, expected, reading.counts, tuple(problems))


def _differences(
    part: str,
    expected: Count | None,
    reading: Reading,
    names: set[str],
    open_hours: tuple[float, float],
) -> list[str]:
    if expected is None:
        return [f"{part}: is no part of this corpus as it was made"]
    lines, found = [], reading.counts[part]
    lack = expected.utterances - found.utterances
    if lack:
        how = f"{lack:,d} lack" if lack > 0 else f"{-lack:,d} too many"
        text = f"{expected.utterances:,d} utterances expected, {found.utterances:,d} found ({how})"
        lines.append(f"{part}: {text}{_such_as(reading.examples.get(part, []))}")
    if expected.speakers is not None and expected.speakers != found.speakers:
        text = f"{expected.speakers:,d} speakers expected, {found.speakers or 0:,d} found"
        lines.append(f"{part}: {text}{_such_as(sorted(names - reading.speakers[part]))}")
    if expected.hours is not None and not lack:
        hours, (relative, absolute) = found.hours or 0.0, open_hours
        if abs(expected.hours - hours) > max(relative * expected.hours, absolute):
            lines.append(f"{part}: {expected.hours:.2f} hours expected, {hours:.2f} found")
    return lines


def _such_as(examples: list[str]) -> str:
    return f"; {some(examples)}" if examples else ""


def _published_names(corpus: str) -> dict[str, set[str]]:
    if corpus != "timit":
        return {}
    dev, test = ({name.upper() for name in names} for names in get_speakers())
    return {"dev": dev, "test": test}


def _description(corpus: str, root: Path) -> dict[str, Any] | None:
    """Return the description of a synthetic corpus of this layout, beside its folder or in it."""
    for folder in (root, root.parent):
        try:
            found = json.loads((folder / _SYNTHETIC).read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            logger.warning("%s is not read: %s", folder / _SYNTHETIC, error)
            continue
        synthetic = isinstance(found, dict) and found.get("synthetic") is True
        if synthetic and found["arguments"]["layout"] == corpus:
            return dict(found)
    return None


def _described(description: Mapping[str, Any]) -> dict[str, Count]:
    return {
        name: Count(split["utterances"], split["hours"], len(split["speakers"]))
        for name, split in description["splits"].items()
    }


def _described_names(description: Mapping[str, Any]) -> dict[str, set[str]]:
    return {name: set(split["speakers"]) for name, split in description["splits"].items()}
