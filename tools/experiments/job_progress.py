"""Reads the progress of a search or a training, and its epochs' costs, from its output."""

from __future__ import annotations

import re

_STARTED = re.compile(r"INFO: (\d+)/(\d+)epoch started")
_RESULTS = re.compile(r"INFO: (\d+)epoch results: .*?\[valid\].*?cer_ctc=([0-9.]+|nan)")
_PERCENT = re.compile(r"(\d+)%\|")  # a tqdm bar


class Progress:
    """One session of a job; it understands ESPnet's lines about epochs and tqdm's bars.

    Args:
        epochs: Costs of the epochs of earlier sessions, ``{epoch: {"cpu": s, "wall": s}}``, to
            which new ones are added. An epoch that is repeated, because a killed training resumed
            from an earlier checkpoint, counts once, with its last costs.
    """

    def __init__(self, epochs: dict[str, dict[str, float]]) -> None:
        self.epochs = epochs
        self.begun = False
        self._last = 0
        self._walls: list[float] = []  # of this session's epochs
        self._cpu = self._wall = 0.0  # when the running epoch started

    def line(self, text: str, cpu: float, wall: float) -> str:
        """Process a line; return what it says about the progress, or an empty string.

        Args:
            text: The line, without its line break.
            cpu: CPU seconds that the process has used so far.
            wall: Seconds since its start.
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
