"""Reads how far a search or a training is, and what its epochs cost, from what it prints."""

from __future__ import annotations

import re

_STARTED = re.compile(r"INFO: (\d+)/(\d+)epoch started")
_RESULTS = re.compile(r"INFO: (\d+)epoch results: .*?\[valid\].*?cer_ctc=([0-9.]+|nan)")
_PERCENT = re.compile(r"(\d+)%\|")  # a tqdm bar


class Progress:
    """One session of a job; it understands ESPnet's lines about epochs, and tqdm's bars.

    Args:
        epochs: What epochs of earlier sessions cost, ``{epoch: {"cpu": s, "wall": s}}``. It is
            added to; an epoch that is done twice, because the training was killed and went on
            from a checkpoint before it, counts once, as it went the last time.
    """

    def __init__(self, epochs: dict[str, dict[str, float]]) -> None:
        self.epochs = epochs
        self.begun = False
        self._last = 0
        self._walls: list[float] = []  # of this session's epochs
        self._cpu = self._wall = 0.0  # when the running epoch began

    def line(self, text: str, cpu: float, wall: float) -> str:
        """Take note of a line; return in some words what it says of the progress, or nothing.

        Args:
            text: What was printed, without the end of the line.
            cpu: Seconds of CPU that the process has used up to now.
            wall: Seconds since it began.
        """
        if found := _STARTED.search(text):
            if not self._last:
                self._cpu, self._wall = cpu, wall
            self._last, self.begun = int(found[2]), True
            return f"epoch {found[1]}/{found[2]} began"
        if found := _RESULTS.search(text):
            epoch, cer = int(found[1]), float(found[2])
            self.epochs[str(epoch)] = {"cpu": cpu - self._cpu, "wall": wall - self._wall}
            self._walls.append(wall - self._wall)
            self._cpu, self._wall = cpu, wall
            each = sum(self._walls) / len(self._walls)
            left = each * (self._last - epoch) / 60
            return (
                f"epoch {epoch}/{self._last}, {each:.1f} s each, {left:.1f} min left, "
                f"valid CER {100 * cer:.1f} %"
            )
        if found := _PERCENT.search(text):
            self.begun = True
            return f"{found[1]} %"
        return ""
