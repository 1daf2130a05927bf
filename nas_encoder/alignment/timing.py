"""The time of an output frame, measured on the model itself.

Feature frames are located by clicks in quiet audio: the frame of the greatest energy is the one
whose window is centred nearest to the click. Output frames are located by gradients: the feature
frames on which an output frame depends. For that pass, modules that mix time without changing the
frame rate (attention, recurrence, memories, squeeze-and-excitation, convolutions of stride 1) hand
their input on, so what remains is the path of the frames through the subsampling.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nas_encoder.alignment.model import CtcModel
from nas_encoder.errors import CheckpointError

_CLICKS, _SPACE, _QUIET = 80, 0.113, 1e-4  # seconds between clicks; amplitude of the noise
_SECONDS = (3.0, 12.0)  # of noise for the gradients: more, if an output frame sees it all
_FRAMES, _TURNS = 16, 4  # output frames looked at; the most that take turns
_BESIDE = 4  # feature frames by which a front end may look further to one side
# In names of classes of both toolkits and of ours.
_GLOBAL = ("Attention", "Convolution", "DepthwiseOverTime", "Memory", "SqueezeExcit")


@dataclass(frozen=True)
class Timing:
    """Where the output frames of a model lie in time.

    Attributes:
        sampling_rate: In Hz.
        hop: Samples between feature frames.
        first: Sample at the centre of feature frame 0.
        factor: Feature frames per output frame.
        centre: Centre of output frame 0 in feature frames.
        symmetric: Whether ``centre`` was measured. If False, an output frame sees so much more of
            one side that the middle of its own ``factor`` frames is taken instead.
    """

    sampling_rate: int
    hop: int
    first: float
    factor: int
    centre: float
    symmetric: bool

    @property
    def period(self) -> int:
        """Samples between output frames."""
        return self.hop * self.factor

    @property
    def seconds(self) -> float:
        """Seconds between output frames."""
        return self.period / self.sampling_rate

    def time(self, frame: float) -> float:
        """Return the centre of an output frame in seconds."""
        return (self.first + self.hop * self.centre + self.period * frame) / self.sampling_rate


def measure_timing(model: CtcModel) -> Timing:
    """Measure where a model's output frames lie.

    Raises:
        CheckpointError: Its features do not show clicks at regular frames, or its output frames
            are not at a constant rate: its times would be guesses.
    """
    hop, first = _feature_frames(model)
    factor, centre, symmetric = _output_frames(model)
    return Timing(model.sampling_rate, hop, first, factor, centre, symmetric)


def _feature_frames(model: CtcModel) -> tuple[int, float]:
    rate = model.sampling_rate
    generator = torch.Generator().manual_seed(0)
    # A spacing that is no multiple of usual hops, so that clicks meet frames at all phases.
    places = [rate + round(index * _SPACE * rate) + index % 7 for index in range(_CLICKS)]
    samples = _QUIET * torch.randn(places[-1] + rate, generator=generator)
    samples[places] = 0.5
    with torch.no_grad(), _features(model) as seen:
        model.log_probs(samples)
    features = seen[0].movedim(model.time_axis, 1)[0]  # (T, ...)
    energy = features.flatten(1).sum(dim=1).double()
    guess = len(samples) / len(energy)
    loudest = []
    for place in places:
        middle, reach = round(place / guess), int(_SPACE * rate / guess / 2)
        low = max(0, middle - reach)
        loudest.append(low + int(energy[low : middle + reach + 1].argmax()))
    for hop in sorted(range(max(1, int(guess) - 2), int(guess) + 4), key=lambda h: abs(h - guess)):
        starts = [place - hop * frame for place, frame in zip(places, loudest, strict=True)]
        begin, end = max(starts) - hop / 2 - 1, min(starts) + hop / 2 + 1
        if begin <= end:
            # Centred features begin at 0; what is measured is uncertain by some samples.
            return hop, 0.0 if begin <= 0 <= end else (begin + end) / 2
    raise CheckpointError(
        model.source,
        [
            "its features must show a click in the frame nearest to it at a constant hop, or no "
            f"time can be told; got {len(energy)} frames of {len(samples)} samples"
        ],
    )


def _output_frames(model: CtcModel) -> tuple[int, float, bool]:
    for seconds in _SECONDS:
        factor, frames, spans = _spans(model, seconds)
        if len(spans) < _FRAMES or factor < 1:
            raise CheckpointError(
                model.source, ["its output does not depend on its features: is it a trained model?"]
            )
        if min(low for _, low, _ in spans) > 0 and max(high for *_, high in spans) < frames - 1:
            break
    else:
        return factor, (factor - 1) / 2, False
    lows, highs = [], []
    for turn in range(_TURNS):
        lows.append(min(low - factor * frame for frame, low, _ in spans[turn::_TURNS]))
        highs.append(max(high - factor * frame for frame, _, high in spans[turn::_TURNS]))
    if max(lows) - min(lows) > _TURNS * factor or max(highs) - min(highs) > _TURNS * factor:
        raise CheckpointError(
            model.source,
            [
                f"its output frames must be {factor} feature frames apart; what they see moves "
                f"by other steps (first {lows}, last {highs})"
            ],
        )
    nominal = (factor - 1) / 2
    # After a part at a lower rate some frames see more of the past, which reaches them repeated.
    centres = [(low + high) / 2 for low, high in zip(lows, highs, strict=True)]
    centre = min(centres, key=lambda one: abs(one - nominal))
    if abs(centre - nominal) > factor + _BESIDE:
        return factor, nominal, False
    return factor, centre, True


def _spans(model: CtcModel, seconds: float) -> tuple[int, int, list[tuple[int, int, int]]]:
    """Return the factor, the feature frames, and (output frame, first, last that it sees)."""
    generator = torch.Generator().manual_seed(1)
    noise = 0.1 * torch.randn(round(seconds * model.sampling_rate), generator=generator)
    spans = []
    with torch.enable_grad(), _local(model.encoder), _features(model, leaf=True) as seen:
        scores = model.log_probs(noise)
        leaf = seen[0]
        frames = leaf.size(model.time_axis)
        middle = len(scores) // 2
        for frame in range(middle, min(middle + _FRAMES, len(scores))):
            weights = torch.randn(scores.size(1), generator=generator).to(scores)
            (gradient,) = torch.autograd.grad(
                (scores[frame] * weights).sum(), leaf, retain_graph=True
            )
            used = gradient.movedim(model.time_axis, 0).flatten(1).abs().sum(dim=1).nonzero()
            if len(used):
                spans.append((frame, int(used[0]), int(used[-1])))
    return round(frames / len(scores)), frames, spans


@contextmanager
def _features(model: CtcModel, leaf: bool = False) -> Iterator[list[Tensor]]:
    """Record the encoder's input; as a leaf, it is replaced by one that takes gradients."""
    seen: list[Tensor] = []

    def look(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        names = [name for name, value in kwargs.items() if torch.is_tensor(value)]
        name = None if args and torch.is_tensor(args[0]) else names[0]
        value = (args[0] if name is None else kwargs[name]).detach()
        seen.append(value.requires_grad_() if leaf else value)
        return ((seen[0], *args[1:]), kwargs) if name is None else (args, {**kwargs, name: seen[0]})

    hook = model.encoder.register_forward_pre_hook(look, with_kwargs=True)
    try:
        yield seen
    finally:
        hook.remove()


@contextmanager
def _local(encoder: nn.Module) -> Iterator[None]:
    """Let modules that mix time, and keep its rate, hand on their input."""
    hooks = []
    for module in encoder.modules():
        name = type(module).__name__
        convolution = isinstance(module, (nn.Conv1d, nn.Conv2d)) and max(module.stride) == 1
        mixes = any(word in name for word in _GLOBAL) and not name.endswith(("Layer", "Mixin"))
        if mixes or convolution or isinstance(module, nn.RNNBase):
            hooks.append(module.register_forward_hook(_hand_on, with_kwargs=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _hand_on(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    given = [value for value in (*args, *kwargs.values()) if _is_floating(value)]
    if not given:
        return output
    if isinstance(output, tuple):
        return (_like(output[0], given[0]), *output[1:])
    return _like(output, given[0])


def _is_floating(value: Any) -> bool:
    data = value.data if isinstance(value, nn.utils.rnn.PackedSequence) else value
    return bool(torch.is_tensor(data) and data.is_floating_point())


def _like(output: Any, given: Any) -> Any:
    """Return what was given in the output's form, or the output if it has another one."""
    if isinstance(output, nn.utils.rnn.PackedSequence):
        return output._replace(data=_like(output.data, given.data))
    if not torch.is_tensor(output) or output.dim() != given.dim():
        return output
    if output.shape == given.shape:
        return given
    if output.shape[:-1] == given.shape[:-1] and output.dim() <= 3:  # (B, T, D) to another width
        if output.size(-2) > 1 or output.dim() == 2:
            return given.mean(dim=-1, keepdim=True).expand(output.shape)
    return output
