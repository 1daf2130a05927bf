"""Reads the progress and the cost of an ESPnet training from its log while it is written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_STARTED = re.compile(r"INFO: (\d+)/(\d+)epoch started")
_RESULTS = re.compile(r"INFO: (\d+)epoch results: .*?\[valid\].*?cer_ctc=([0-9.]+|nan)")
_PERCENT = re.compile(r"(\d+)%\|")  # a tqdm bar


class LogWatch:
    """Follows one log.

    Every finished epoch becomes a row ``{session, epoch, cpu, wall, cer}``: the seconds of CPU
    and of wall time since the process began; the row of the epoch before the first one of a
    session marks where it began.

    Args:
        path: The log, which may not exist yet.
        rows: Those of earlier sessions.
        session: Number of this session, from 1.
    """

    def __init__(self, path: Path, rows: Iterable[Mapping[str, Any]] = (), session: int = 1):
        self.rows: list[dict[str, Any]] = [dict(row) for row in rows]
        self.session = session
        self.last_epoch: int | None = None
        self.percent: int | None = None
        self._path = path
        self._offset = path.stat().st_size if path.exists() else 0
        self._rest = b""

    def poll(self, cpu: float, wall: float) -> bool:
        """Read what is new; return whether there are new rows.

        Args:
            cpu: Seconds of CPU that the process has used up to now.
            wall: Seconds since it began.
        """
        try:
            with self._path.open("rb") as stream:
                stream.seek(self._offset)
                new = stream.read()
        except FileNotFoundError:
            return False
        self._offset += len(new)
        *lines, self._rest = re.split(rb"[\n\r]", self._rest + new)
        before = len(self.rows)
        for raw in lines:
            self._line(raw.decode("utf-8", "replace"), cpu, wall)
        return len(self.rows) > before

    def _line(self, line: str, cpu: float, wall: float) -> None:
        found = _STARTED.search(line)
        if found:
            self.last_epoch = int(found[2])
            mine = [row for row in self.rows if row["session"] == self.session]
            if not mine:
                self._add(int(found[1]) - 1, cpu, wall, None)
            return
        found = _RESULTS.search(line)
        if found:
            self._add(int(found[1]), cpu, wall, float(found[2]))
            return
        found = _PERCENT.search(line)
        if found:
            self.percent = int(found[1])

    def _add(self, epoch: int, cpu: float, wall: float, cer: float | None) -> None:
        row = {"session": self.session, "epoch": epoch, "cpu": cpu, "wall": wall, "cer": cer}
        self.rows.append(row)

    def status(self, wall: float) -> str:
        """Return the progress in some words, empty where nothing is known.

        Args:
            wall: Seconds since the process began.
        """
        if self.last_epoch is None:
            return "" if self.percent is None else f"{self.percent} %"
        mine = [row for row in self.rows if row["session"] == self.session]
        epoch = mine[-1]["epoch"] if mine else 0
        text = f"epoch {epoch}/{self.last_epoch}"
        if len(mine) > 1:
            each = (mine[-1]["wall"] - mine[0]["wall"]) / (epoch - mine[0]["epoch"])
            left = each * (self.last_epoch - epoch) - (wall - mine[-1]["wall"])
            text += f", {each:.1f} s each, {max(left, 0) / 60:.1f} min left"
            if mine[-1]["cer"] is not None:
                text += f", valid CER {100 * mine[-1]['cer']:.1f} %"
        return text


def epoch_seconds(rows: Iterable[Mapping[str, Any]], clock: str = "cpu") -> dict[int, float]:
    """Return what each epoch cost, in seconds.

    An epoch that was done twice, because the training was killed and resumed from a checkpoint
    before it, counts once, as it went the last time.

    Args:
        rows: Those of :class:`LogWatch`.
        clock: ``"cpu"`` or ``"wall"``.
    """
    cost: dict[int, float] = {}
    previous: Mapping[str, Any] | None = None
    for row in rows:
        if (
            previous is not None
            and previous["session"] == row["session"]
            and row["epoch"] == previous["epoch"] + 1
        ):
            cost[row["epoch"]] = row[clock] - previous[clock]
        previous = row
    return cost
