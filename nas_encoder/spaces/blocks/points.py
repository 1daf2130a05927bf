"""Known encoders as points of the space, at any size.

Each function returns the architecture of one encoder. ``hidden`` counts the units of a hidden
layer, ``kernel`` frames, ``blocks`` residual blocks. The two toolkits' own and DFSMN-SAN are exact:
with copied weights they give the same outputs (``norm_eps`` 1e-12 for ESPnet's). Of Squeezeformer
and Efficient Conformer it is the order of the modules and the schedule of rates and widths; their
docstrings say what differs.

All raise ConfigError if the sizes do not fit each other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from inspect import signature
from types import SimpleNamespace
from typing import Any

from nas_encoder.common.problems import show
from nas_encoder.errors import ConfigError
from nas_encoder.genotype import Genotype
from nas_encoder.spaces.blocks.architecture import BlockArchitecture, Stage
from nas_encoder.spaces.blocks.front_parts import Conv2dFront, DepthwiseFront, StackFront
from nas_encoder.spaces.blocks.part import Part
from nas_encoder.spaces.blocks.parts import (
    Convolution,
    FeedForward,
    Memory,
    Parallel,
    SelfAttention,
)


def checked(architecture: BlockArchitecture) -> BlockArchitecture:
    """Return an architecture; ConfigError with all problems if it breaks a rule."""
    return BlockArchitecture.from_dict(architecture, "architecture")


def transformer(
    width: int = 256,
    heads: int = 4,
    hidden: int = 2048,
    blocks: int = 12,
    factor: int = 4,
    channels: int | None = None,
) -> BlockArchitecture:
    """Return ESPnet's Transformer (Karita et al. 2019), with absolute positions.

    ``channels`` are of the front end; None, here and below, for ``width``.
    """
    modules = (
        SelfAttention(heads, positions="none"),
        FeedForward(hidden / width, activation="relu"),
    )
    return _espnet(Stage(width, 1, blocks, modules, final_norm=False), factor, channels, "absolute")


def conformer(
    width: int = 256,
    heads: int = 4,
    hidden: int = 2048,
    blocks: int = 12,
    kernel: int = 31,
    factor: int = 4,
    channels: int | None = None,
) -> BlockArchitecture:
    """Return ESPnet's Conformer (Gulati et al. 2020; Guo et al. 2021), with macaron halves."""
    stage = Stage(width, 1, blocks, _conformer(heads, hidden / width, kernel))
    return _espnet(stage, factor, channels)


def branchformer(
    width: int = 256,
    heads: int = 4,
    mlp_hidden: int = 2048,
    blocks: int = 24,
    kernel: int = 31,
    factor: int = 4,
    channels: int | None = None,
) -> BlockArchitecture:
    """Return ESPnet's Branchformer (Peng et al. 2022) with ``merge_method: concat``."""
    module = Parallel(heads, expansion=mlp_hidden / width, kernel=kernel, merge_kernel=0)
    return _espnet(Stage(width, 1, blocks, (module,)), factor, channels)


def e_branchformer(
    width: int = 256,
    heads: int = 4,
    hidden: int = 1024,
    mlp_hidden: int = 1024,
    blocks: int = 12,
    kernel: int = 31,
    merge_kernel: int = 31,
    factor: int = 4,
    channels: int | None = None,
) -> BlockArchitecture:
    """Return ESPnet's E-Branchformer (Kim et al. 2023), with macaron halves as in its recipes."""
    half = FeedForward(hidden / width, 0.5)
    middle = Parallel(heads, expansion=mlp_hidden / width, kernel=kernel, merge_kernel=merge_kernel)
    return _espnet(Stage(width, 1, blocks, (half, middle, half)), factor, channels)


def _espnet(
    stage: Stage, factor: int, channels: int | None, positions: str = "none"
) -> BlockArchitecture:
    front = Conv2dFront(factor, channels or stage.width, padded=False)
    return checked(BlockArchitecture(front, True, positions, (stage,), final_norm=True))


def nemo_conformer(
    width: int = 176,
    heads: int = 4,
    hidden: int = 704,
    blocks: int = 16,
    kernel: int = 31,
    factor: int = 4,
    channels: int | None = None,
    window: int = 0,
    scale: bool = True,
) -> BlockArchitecture:
    """Return NeMo's Conformer with ``subsampling: striding``.

    ``window`` is ``att_context_size: [window, window]``, 0 for all frames; ``scale`` is
    ``xscaling``.
    """
    modules = _conformer(heads, hidden / width, kernel, window)
    front = Conv2dFront(factor, channels or width)
    return checked(BlockArchitecture(front, scale, stages=(Stage(width, 1, blocks, modules),)))


def fast_conformer(
    width: int = 176,
    heads: int = 4,
    hidden: int = 704,
    blocks: int = 16,
    kernel: int = 9,
    factor: int = 8,
    channels: int = 256,
    window: int = 0,
    scale: bool = True,
) -> BlockArchitecture:
    """Return NeMo's FastConformer (Rekesh et al. 2023): ``subsampling: dw_striding``."""
    modules = _conformer(heads, hidden / width, kernel, window)
    front = DepthwiseFront(factor, channels)
    return checked(BlockArchitecture(front, scale, stages=(Stage(width, 1, blocks, modules),)))


def dfsmn_san(
    width: int = 512,
    hidden: int = 1152,
    blocks: int = 10,
    attention_after: Collection[int] = (5, 10),
    heads: int = 8,
    back: int = 10,
    ahead: int = 10,
    stride: int = 1,
    factor: int = 4,
    context: int = 4,
) -> BlockArchitecture:
    """Return our DFSMN-SAN (:mod:`nas_encoder.baselines.dfsmn_san`) without persistent memory.

    ``attention_after`` are the blocks, counted from 1, that a self-attention layer follows.
    """
    unknown = sorted(set(attention_after) - set(range(1, blocks + 1)))
    if unknown:
        raise ConfigError("attention_after", [f"must be blocks 1 to {blocks}, got {unknown}"])
    memory: tuple[Part, ...] = (Memory(back, ahead, stride, hidden / width),)
    attention = SelfAttention(heads, positions="none")
    stages: list[Stage] = []
    since = 0
    for number in sorted({*attention_after}):
        if number - since > 1:
            stages.append(Stage(width, 1, number - since - 1, memory, final_norm=False))
        stages.append(Stage(width, 1, 1, (*memory, attention), final_norm=False))
        since = number
    if since < blocks:
        stages.append(Stage(width, 1, blocks - since, memory, final_norm=False))
    front = StackFront(factor, context)
    return checked(BlockArchitecture(front, stages=tuple(stages), final_norm=True))


def squeezeformer(
    width: int = 256,
    heads: int = 4,
    hidden: int = 1024,
    blocks: int = 16,
    reduce_at: int = 7,
    recover_at: int = 15,
    kernel: int = 31,
    channels: int | None = None,
) -> BlockArchitecture:
    """Return Squeezeformer's order and schedule (Kim et al. 2022): norms after the modules.

    Blocks after the first ``reduce_at``, up to ``recover_at``, have half the rate; then the
    stream of before is added. 7 and 15 of 16 are the paper's, 5 and 11 of 12 WeNet's. Not in the
    space: the learned scale and shift before each module, and the layer norm after the front end.
    """
    if not 0 < reduce_at < recover_at < blocks:
        rule = f"must rise from 1 to {blocks - 1} (blocks - 1), got {reduce_at} and {recover_at}"
        raise ConfigError("reduce_at and recover_at", [rule])
    feed_forward = FeedForward(hidden / width)
    modules = (SelfAttention(heads), feed_forward, Convolution(kernel, glu=False), feed_forward)
    counts = ((reduce_at, 1), (recover_at - reduce_at, 2), (blocks - recover_at, 1))
    stages = tuple(
        Stage(width, rate, count, modules, norm="after", final_norm=False) for count, rate in counts
    )
    front = DepthwiseFront(4, channels or width)
    return checked(BlockArchitecture(front, scale=True, stages=stages))


def efficient_conformer(
    widths: Sequence[int] = (120, 168, 240),
    blocks: Sequence[int] = (5, 5, 5),
    reductions: Sequence[int] = (1, 2, 2),
    heads: int = 4,
    expansion: float = 4.0,
    kernel: int = 15,
    channels: int | None = None,
) -> BlockArchitecture:
    """Return Efficient Conformer's schedule (Burchi and Vielzeuf 2021): wider where slower.

    Published are rates of 2, 4 and 8 input frames. The front ends here begin at 4, so by default
    the first two stages are twice as slow and the output has the published rate. Not in the
    space: grouped attention; between stages a depthwise convolution halves the rate, where the
    paper strides the attention and the convolution of a block.

    Args:
        widths: Of each stage.
        blocks: Likewise.
        reductions: Frames of the front end per frame, likewise.
        heads: Of all attention.
        expansion: Of all feed-forward modules.
        kernel: Of all convolutions.
        channels: Of the front end; None for the first width.
    """
    if not len(widths) == len(blocks) == len(reductions):
        given = f"{len(widths)}, {len(blocks)} and {len(reductions)}"
        rule = f"widths, blocks and reductions must have one number for each stage, have {given}"
        raise ConfigError("efficient_conformer", [rule])
    stages = tuple(
        Stage(width, rate, count, _conformer(heads, expansion, kernel))
        for width, rate, count in zip(widths, reductions, blocks, strict=True)
    )
    front = Conv2dFront(4, channels or widths[0])
    return checked(BlockArchitecture(front, stages=stages))


def hourglass(
    width: int = 96,
    blocks: Sequence[int] = (2, 4, 1),
    expansion: float = 3.0,
    taps: int = 5,
    reduction: int = 2,
    channels: int = 16,
) -> BlockArchitecture:
    """Return FSMN memory with feed-forward, the middle stage slower: our own, made by hand.

    Small and fast, to be what a search starts from; nobody has published it.

    Args:
        width: Of all stages.
        blocks: Of the first stage, the middle and the last.
        expansion: Of all feed-forward modules.
        taps: Frames back, and as many ahead, that memories see.
        reduction: Frames of the front end per frame of the middle.
        channels: Of the front end.
    """
    if len(blocks) != 3:
        raise ConfigError("hourglass", [f"blocks must be three numbers, got {show(blocks)}"])
    modules = (Memory(taps, taps), FeedForward(expansion))
    rates = (1, reduction, 1)
    stages = tuple(
        Stage(width, rate, count, modules) for rate, count in zip(rates, blocks, strict=True)
    )
    return checked(BlockArchitecture(Conv2dFront(4, channels), stages=stages))


def _conformer(heads: int, expansion: float, kernel: int, window: int = 0) -> tuple[Part, ...]:
    half = FeedForward(expansion, 0.5)
    return (half, SelfAttention(heads, window), Convolution(kernel), half)


POINTS: dict[str, Callable[..., BlockArchitecture]] = {
    function.__name__: function
    for function in (
        transformer,
        conformer,
        branchformer,
        e_branchformer,
        nemo_conformer,
        fast_conformer,
        dfsmn_san,
        squeezeformer,
        efficient_conformer,
        hourglass,
    )
}


def point(name: str, **sizes: Any) -> Genotype:
    """Return a known encoder as a genotype of its name.

    Args:
        name: One of :data:`POINTS`.
        **sizes: Arguments of its function.

    Raises:
        ConfigError: There is no such encoder, or the sizes do not fit.
    """
    if name not in POINTS:
        raise ConfigError("point", [f"unknown encoder {name!r}; known: {', '.join(POINTS)}"])
    known = signature(POINTS[name]).parameters
    problems = [
        f"{key}: unknown size of '{name}'; known: {', '.join(known)}"
        for key in sizes
        if key not in known
    ]
    problems += [
        f"{key}: must be a number, a list of them or true or false, got {show(value)}"
        for key, value in sizes.items()
        if key in known and not _are_sizes(value)
    ]
    if problems:
        raise ConfigError(name, problems)
    source = str(POINTS[name].__doc__).partition("\n")[0].removeprefix("Return ")
    kind = "handwritten" if name == hourglass.__name__ else "published"
    provenance = {"kind": kind, "source": source}
    return Genotype(name, "blocks", POINTS[name](**sizes), provenance)


def _are_sizes(value: object) -> bool:
    values = value if isinstance(value, (list, tuple)) else [value]
    return all(isinstance(one, (int, float)) and 0 <= one < 10**6 for one in values)


KNOWN = SimpleNamespace(**{name: partial(point, name) for name in POINTS})
