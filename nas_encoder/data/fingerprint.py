"""What a set of utterances is: its ids, lengths, texts and tokens, so that a change is told."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nas_encoder.data.manifests import text_of
from nas_encoder.data.tokens import TokenSet

Row = tuple[str, int, str, str]  # id, samples, digests of the text and of its tokens
SAME_DATA = "resume with the data that it began with, or begin anew with another --output"
_PARTS = ("lengths (in samples)", "texts", "tokens of texts")


@dataclass(frozen=True)
class Fingerprint:
    """The rows of a set, in its order."""

    rows: tuple[Row, ...]

    @classmethod
    def of(cls, cuts: Iterable[Any], tokens: TokenSet) -> Fingerprint:
        """Return that of cuts, whose texts are split into ``tokens``."""
        rows = []
        for cut in cuts:
            text = text_of(cut)
            split = "\x1f".join(tokens.split(text))
            rows.append((str(cut.id), int(cut.num_samples), _short(text), _short(split)))
        return cls(tuple(rows))

    def summary(self) -> dict[str, Any]:
        """Return the number of utterances and a digest of all, in plain types."""
        digest = hashlib.sha256(self._lines()).hexdigest()
        return {"utterances": len(self.rows), "sha256": digest}

    def pack(self) -> bytes:
        """Return the rows as compressed JSON lines."""
        return gzip.compress(self._lines(), mtime=0)

    @classmethod
    def unpack(cls, data: bytes, summary: Mapping[str, Any]) -> Fingerprint | None:
        """Read what :meth:`pack` returned; None if it is damaged, or not that of ``summary``."""
        try:
            lines = gzip.decompress(data).decode().splitlines()
            found = cls(tuple((*json.loads(line),) for line in lines))
            return found if found.summary() == summary else None
        except (OSError, EOFError, ValueError, TypeError, zlib.error):
            return None

    def _lines(self) -> bytes:
        return "".join(json.dumps(row) + "\n" for row in self.rows).encode()

    def changes(self, before: Fingerprint | None, summary: Mapping[str, Any]) -> list[str]:
        """Return what differs from a set of that ``summary``; its rows say more, if known."""
        if self.summary() == summary:
            return []
        if before is None:
            return [
                f"{summary.get('utterances')} utterances then, {len(self.rows)} now, of other "
                "lengths, texts or tokens"
            ]
        old, new = ({row[0]: row for row in found.rows} for found in (before, self))
        count, lines = len(before.rows), []
        if gone := [name for name in old if name not in new]:
            lines.append(f"{len(gone)} of {count} utterances are missing, first: {gone[0]}")
        if more := [name for name in new if name not in old]:
            lines.append(f"{len(more)} utterances are new, first: {more[0]}")
        both = [name for name in old if name in new]
        for part, what in enumerate(_PARTS, 1):
            other = [name for name in both if old[name][part] != new[name][part]]
            if part == 3:  # other texts have other tokens
                other = [name for name in other if old[name][2] == new[name][2]]
            if other:
                lines.append(f"{len(other)} of {count} {what} differ, first: {other[0]}")
        return lines or ["the order of the utterances differs"]


def data_changes(
    kept: Mapping[str, Mapping[str, Any]],
    rows: Mapping[str, bytes | None],
    now: Mapping[str, Fingerprint],
) -> list[str]:
    """Return one line for each change of the sets that a run began with.

    Args:
        kept: The recorded summaries, by set.
        rows: What :meth:`Fingerprint.pack` returned for each; None if it is not kept.
        now: The present sets.
    """
    problems: list[str] = []
    for name in dict.fromkeys([*kept, *now]):
        if name not in now or name not in kept:
            problems.append(f"{name}: is {'new' if name in now else 'missing'}")
            continue
        data = rows.get(name)
        before = None if data is None else Fingerprint.unpack(data, kept[name])
        problems += [f"{name}: {line}" for line in now[name].changes(before, kept[name])]
    return problems


def summaries(sets: Mapping[str, Fingerprint]) -> dict[str, dict[str, Any]]:
    """Return the summary of each set."""
    return {name: found.summary() for name, found in sets.items()}


def _short(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
