"""Errors and what they support: intervals, and tests against the reference encoders.

All systems of a table are scored on the same utterances against the same references, or refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nas_encoder.errors import DataError
from tools.benchmark.trained import Decoding, Trained, transcripts
from tools.results.bootstrap import Interval, paired_difference, rate_interval
from tools.results.matched_pairs import MatchedPairs, matched_pairs
from tools.results.scoring import FOLDED, Score, score, units

FEWEST = 30  # utterances below which the test's normal distribution is no approximation
_SHOWN = 3
NAMES = {"word": "WER", "char": "CER", "timit39": "PER"}


@dataclass(frozen=True)
class System:
    """A row of the table of one test set.

    Attributes:
        name: The training's name, with the way of decoding if it has several.
        trained: The training.
        decoding: The way of decoding.
        unit: What is counted.
        reference: Utterance -> its transcript.
        recognised: Utterance -> what was recognised.
        score: Its errors, aligned as sclite does.
    """

    name: str
    trained: Trained
    decoding: Decoding
    unit: str
    reference: Mapping[str, str]
    recognised: Mapping[str, str]
    score: Score


@dataclass(frozen=True)
class Versus:
    """A system against a reference system, on the same utterances.

    Attributes:
        reference: Name of the other.
        difference: Its rate minus the other's, with a bootstrap interval; below 0 it is better.
        test: The matched-pairs test; None of too few utterances.
        adjusted: Its p by Holm's method over all tests of the table.
    """

    reference: str
    difference: Interval
    test: MatchedPairs | None
    adjusted: float | None = None


def unit_of(trained: Sequence[Trained], corpus: str | None) -> str:
    """Return what is counted if nobody says it: phones of TIMIT, characters of such tokens.

    Raises:
        DataError: Some models have characters and some have not.
    """
    if corpus == "timit":
        return "timit39"
    kinds = {one.token_type == "char" for one in trained}
    if len(kinds) > 1:
        listed = ", ".join(f"{one.name} {one.token_type}" for one in trained)
        rule = "say with --unit what is counted (word, char): models have different tokens"
        raise DataError("benchmark", [f"{rule}: {listed}"])
    return "char" if kinds == {True} else "word"


def systems_of(
    found: Sequence[Trained], test: str, unit: str, references: Mapping[str, Path]
) -> list[System]:
    """Return the systems that decoded a test set, the best first.

    Args:
        found: All trainings.
        test: The test set.
        unit: See :func:`tools.results.scoring.score`.
        references: Test set -> the file with its references, instead of those found.

    Raises:
        DataError: A reference is missing, or systems have different utterances or references;
            all problems are listed.
    """
    read: list[tuple[str, Trained, Decoding, dict[str, str], dict[str, str]]] = []
    problems = []
    for one in found:
        own = [decoding for decoding in one.decodings if decoding.test == test]
        for decoding in own:
            name = f"{one.name} ({decoding.way})" if len(own) > 1 else one.name
            path = references.get(test, decoding.reference)
            if path is None:
                rule = f"the reference of '{test}' is not found; give it with --reference"
                problems.append(f"{name}: {rule} {test}=FILE")
                continue
            try:
                texts = _pair(path, decoding.recognised)
            except DataError as error:
                problems += [f"{name}: {error.subject}: {line}" for line in error.problems]
                continue
            read.append((name, one, decoding, *texts))
    if read:
        first, wanted = read[0][0], read[0][3]
        for name, _, _, reference, _ in read[1:]:
            problems += _mixed(first, wanted, name, reference, unit)
    scored = []
    for name, one, decoding, reference, recognised in read:
        try:
            counted = score(reference, recognised, unit, sclite=True)
            scored.append(System(name, one, decoding, unit, reference, recognised, counted))
        except DataError as error:
            problems += [f"{name}: {line}" for line in error.problems]
    if problems:
        raise DataError(f"test set '{test}'", problems)
    return sorted(scored, key=lambda system: (system.score.rate, system.name))


def _pair(reference: Path, recognised: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Read a reference and what was recognised; ids of .trn files are those of Kaldi's text."""
    beside = recognised.parents[1] / "text"
    keys = transcripts(beside) if recognised.suffix == ".trn" else {}
    pair = transcripts(reference, keys), transcripts(recognised, keys)
    return _same_ids(reference, pair[0]), _same_ids(recognised, pair[1])


def _same_ids(path: Path, texts: Mapping[str, str]) -> dict[str, str]:
    """Return transcripts by ids with dashes: data preparations write FELC0_SX1 or FELC0-SX1."""
    found = {key.replace("_", "-"): text for key, text in texts.items()}
    if len(found) < len(texts):
        raise DataError(str(path), ["has ids that differ in '_' and '-' alone"])
    return found


def _mixed(
    first: str, wanted: Mapping[str, str], name: str, reference: Mapping[str, str], unit: str
) -> list[str]:
    """Return how the references of two systems differ, in units that are scored."""
    if wanted.keys() != reference.keys():
        alone = sorted(wanted.keys() ^ reference.keys())
        shown = ", ".join(alone[:_SHOWN]) + (", ..." if len(alone) > _SHOWN else "")
        rule = f"was not decoded on the same utterances as {first}, {len(alone)} are of one only"
        return [f"{name}: {rule}: {shown}; mixed test sets cannot be compared"]
    other = [
        key for key in sorted(wanted) if units(wanted[key], unit) != units(reference[key], unit)
    ]
    if not other:
        return []
    key = other[0]
    rule = f"has other references than {first} for {len(other)} utterances, such as {key}"
    texts = f"'{reference[key][:60]}' and '{wanted[key][:60]}'"
    hint = "; phones of different sets need --unit timit39" if unit not in FOLDED else ""
    return [f"{name}: {rule}: {texts}{hint}"]


def compare(
    systems: Sequence[System], references: Sequence[str], seed: int
) -> dict[str, list[Versus]]:
    """Compare every system with the reference systems.

    Args:
        systems: The systems of a test set.
        references: Names of those that the others are compared with.
        seed: Of the bootstrap.

    Returns:
        System -> its comparisons, in the order of the references, not with itself.
    """
    by_name = {system.name: system for system in systems}
    found: dict[str, list[Versus]] = {system.name: [] for system in systems}
    for system in systems:
        for name in references:
            if name != system.name:
                other = by_name[name].score
                difference = paired_difference(system.score, other, seed)
                enough = len(other.utterances) >= FEWEST
                test = matched_pairs(system.score, other) if enough else None
                found[system.name].append(Versus(name, difference, test))
    return _holm(found)


def _holm(found: Mapping[str, Sequence[Versus]]) -> dict[str, list[Versus]]:
    """Adjust p for the number of tests (Holm 1979); a pair that is there twice is one test."""
    pairs: dict[frozenset[str], float] = {}
    for name, own in found.items():
        for versus in own:
            if versus.test is not None:
                pairs[frozenset((name, versus.reference))] = versus.test.p
    largest, adjusted = 0.0, {}
    for rank, (pair, p) in enumerate(sorted(pairs.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, (len(pairs) - rank) * p))
        adjusted[pair] = largest
    return {
        name: [
            Versus(v.reference, v.difference, v.test, adjusted.get(frozenset((name, v.reference))))
            for v in own
        ]
        for name, own in found.items()
    }


def interval_of(system: System, seed: int) -> Interval:
    """Return the error rate of a system with its bootstrap interval."""
    return rate_interval(system.score, seed)
