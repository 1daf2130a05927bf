"""From samples as they arrive to the windows that a graph takes, as of a whole file.

What comes before the spectrum is done here: pre-emphasis, and the samples that both toolkits put
around an utterance. Every frame is under one window, and each holds what it holds in the whole
signal, so nothing depends on how the audio was cut.

Letters in shapes: N samples, M of a window, t frames of a window.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from nas_encoder.interchange.features import ESPnetFeatures, NeMoFeatures, reflect


@dataclass(frozen=True)
class SignalForm:
    """How windows are made.

    Attributes:
        frames: t.
        hop: Samples from frame to frame.
        points: Samples under a frame.
        around: Samples put before the signal and after it.
        reflected: Whether they are the signal's own, reflected, instead of zeros.
        more: Frames beside those that begin in whole hops from the first frame's end on.
        preemphasis: What is subtracted of the sample before; 0 for nothing.
    """

    frames: int
    hop: int
    points: int
    around: int
    reflected: bool
    more: int
    preemphasis: float

    @classmethod
    def of(cls, features: ESPnetFeatures | NeMoFeatures, frames: int) -> SignalForm:
        """Return the form of a model's features, for windows of so many frames."""
        if isinstance(features, ESPnetFeatures):
            own = features.options
            half = own.n_fft // 2 if own.center else 0
            return cls(frames, own.hop_length, own.n_fft, half, own.center, 1, 0.0)
        given = features.options
        half, factor = given.points // 2, given.preemph or 0.0
        return cls(frames, given.n_window_stride, given.points, half, False, 0, factor)

    @property
    def size(self) -> int:
        """M."""
        return (self.frames - 1) * self.hop + self.points

    def total(self, samples: int) -> int:
        """Return the frames of a whole signal."""
        if not samples:
            return 0
        spare = samples + 2 * self.around - self.points
        # Towards zero for ESPnet, which extends a short signal to one frame.
        whole = int(spare / self.hop) if self.more else spare // self.hop
        return max(0, whole + self.more)

    def least(self, frames: int) -> int:
        """Return of how many samples on a signal has so many frames, 1 or more."""
        return (frames - self.more) * self.hop + self.points - 2 * self.around


class Signal:
    """The signal of a stream.

    Args:
        form: How windows are made.

    Attributes:
        samples: N so far.
    """

    def __init__(self, form: SignalForm) -> None:
        self.form, self.samples = form, 0
        self._last = torch.zeros(1)  # the sample before
        self._given = 0  # frames
        self._ended = self._done = False
        self._ready = torch.zeros(0 if form.reflected else form.around)
        # To be reflected: all of a signal that is too short for it, later its last samples.
        self._edge = torch.zeros(0)

    @property
    def missing(self) -> int:
        """How many samples the next window still needs, at least 1."""
        form = self.form
        before = form.around if form.reflected and not len(self._ready) else 0
        ready = before + max(len(self._ready), len(self._edge) if before else 0)
        counted = form.least(self._given + form.frames) - self.samples
        return max(1, form.size - ready, counted)

    def push(self, samples: Tensor) -> None:
        """Take samples (N,)."""
        if self._ended or not len(samples):
            return
        form = self.form
        self.samples += len(samples)
        if form.preemphasis:
            before = torch.cat((self._last, samples[:-1]))
            self._last = samples[-1:].clone()
            samples = samples - form.preemphasis * before
        if form.reflected:
            begun = len(self._edge) > form.around
            self._edge = torch.cat((self._edge, samples))
            if not begun:
                if len(self._edge) <= form.around:
                    return
                samples = torch.cat((self._edge[1 : form.around + 1].flip(0), self._edge))
            self._edge = self._edge[-form.around - 1 :].clone()
        self._ready = torch.cat((self._ready, samples))

    def end(self) -> None:
        """Take what comes after the last sample."""
        if self._ended:
            return
        form, self._ended = self.form, True
        after = torch.zeros(form.around)
        if form.reflected and self.samples:
            if self.samples > form.around:
                after = self._edge[:-1].flip(0)
            else:
                length = torch.tensor([self.samples])
                after = reflect(self._edge[None], length, form.around)[0]
        self._ready = torch.cat((self._ready, after))

    def windows(self) -> Iterator[tuple[Tensor, int]]:
        """Yield the windows (M,) that are complete and not yet given, with their valid frames.

        After the end, the last one is that with fewer than t, which may be none.
        """
        form, start = self.form, 0
        while not self._done:
            window, valid = self._ready[start : start + form.size], form.frames
            if self._ended:
                valid = min(valid, form.total(self.samples) - self._given)
                self._done = valid < form.frames
                window = torch.nn.functional.pad(window, (0, form.size - len(window)))
            # Of a hop longer than what is around, a frame may be complete and not count yet.
            elif len(window) < form.size or self.samples < form.least(self._given + valid):
                break
            self._given += valid
            start += form.frames * form.hop
            yield window, valid
        # A copy, so that what was given is not kept.
        self._ready = self._ready[start:].clone()
