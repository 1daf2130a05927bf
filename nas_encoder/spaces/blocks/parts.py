"""The residual modules of block encoders, as they stand in a genotype.

Each is a frozen dataclass whose ``kind`` is its tag in YAML. Its defaults belong to the schema:
documents hold only what differs from them.
"""

from __future__ import annotations

from dataclasses import dataclass

from nas_encoder.common.fields import choice, flag, integer, option
from nas_encoder.common.problems import Problems
from nas_encoder.spaces.blocks import contexts
from nas_encoder.spaces.blocks.part import Part, expansion_rule, odd, one_of, shown

_EXPANSION = expansion_rule(above=True)
_HEADS = integer(1, 256)
_KERNEL = odd(1023)
_WINDOW = integer(0, 10**6)
_CHUNK = integer(0, 4096)


@dataclass(frozen=True)
class FeedForward(Part):
    """Two linear layers with an activation between them.

    Attributes:
        expansion: Hidden units per unit of the stage's width.
        step: Factor of what is added to the stream: 1, or 0.5 as in a Conformer's halves.
        activation: ``swish`` or ``relu``.
    """

    kind = "feed_forward"
    expansion: float = option(4.0, _EXPANSION)
    step: float = option(1.0, one_of(0.5, 1.0))
    activation: str = option("swish", choice("activation", ("swish", "relu")))

    def text(self) -> str:
        """Return for example ``½ feed-forward 4``."""
        half = "½ " if self.step == 0.5 else ""
        relu = " relu" if self.activation == "relu" else ""
        return f"{half}feed-forward {shown(self.expansion)}{relu}"


@dataclass(frozen=True)
class SelfAttention(Part):
    """Multi-head self-attention.

    Attributes:
        heads: Number of heads; must divide the stage's width.
        window: Frames of the stage seen on either side; 0 for the whole utterance.
        positions: ``relative`` (Dai et al. 2019, as in Conformers), or ``none`` where modules or
            the input carry the order.
        ahead: Frames seen after its own, if not as many as before it.
        chunk: Frames of a chunk. A frame then sees its whole chunk and ``window`` frames before
            that (Chen et al. 2021, "chunk-wise"; NeMo's ``chunked_limited``); 0 for no chunks.
    """

    kind = "attention"
    later = ("ahead", "chunk")
    heads: int = option(4, _HEADS)
    window: int = option(0, _WINDOW)
    positions: str = option("relative", choice("kind of positions", ("relative", "none")))
    ahead: int | None = option(None, _WINDOW)
    chunk: int = option(0, _CHUNK)

    def conflicts(self, found: Problems) -> None:
        """Check that what is seen ahead is said once."""
        contexts.check(self, found)

    @property
    def context(self) -> tuple[int, int] | None:
        """Frames seen before and after its own, or before its chunk and 0; None for all."""
        return contexts.context(self)

    def span(self, frame: int) -> tuple[int, int] | None:
        """Return the first and the last frame that a frame's output depends on; None for all."""
        return contexts.seen(self, frame)

    def text(self) -> str:
        """Return for example ``attention 4 heads window 32``."""
        order = "" if self.positions == "relative" else " without positions"
        return f"attention {self.heads} heads{contexts.text(self)}{order}"


@dataclass(frozen=True)
class Convolution(Part):
    """A Conformer's convolution: pointwise, gate, depthwise over time, norm, swish, pointwise.

    Attributes:
        kernel: Frames of the depthwise convolution.
        glu: Whether the first pointwise layer has a gate (twice the width) or swish.
        norm: ``batch`` or ``layer``.
        causal: Whether the frame is the kernel's last, not its middle.
    """

    kind = "convolution"
    later = ("causal",)
    kernel: int = option(31, _KERNEL)
    glu: bool = option(True, flag)
    norm: str = option("batch", choice("norm", ("batch", "layer")))
    causal: bool = option(False, flag)

    def span(self, frame: int) -> tuple[int, int]:
        """Return the first and the last frame that a frame's output depends on."""
        return contexts.around(frame, self.kernel, self.causal)

    def text(self) -> str:
        """Return for example ``convolution 31``."""
        causal = " causal" if self.causal else ""
        ungated = "" if self.glu else " without gate"
        layer = " layer norm" if self.norm == "layer" else ""
        return f"convolution {self.kernel}{causal}{ungated}{layer}"


@dataclass(frozen=True)
class GatedMlp(Part):
    """cgMLP, an MLP with a convolutional spatial gate (Sakuma et al. 2022).

    Attributes:
        expansion: Hidden units per unit of width, both halves of the gate together.
        kernel: Frames of the gate's depthwise convolution.
        causal: Whether the frame is the kernel's last, not its middle.
    """

    kind = "cgmlp"
    later = ("causal",)
    expansion: float = option(6.0, _EXPANSION)
    kernel: int = option(31, _KERNEL)
    causal: bool = option(False, flag)

    def span(self, frame: int) -> tuple[int, int]:
        """Return the first and the last frame that a frame's output depends on."""
        return contexts.around(frame, self.kernel, self.causal)

    def text(self) -> str:
        """Return for example ``cgMLP 31 x 6``."""
        causal = " causal" if self.causal else ""
        return f"cgMLP {self.kernel}{causal} x {shown(self.expansion)}"


@dataclass(frozen=True)
class Parallel(Part):
    """Self-attention beside cgMLP, merged (Peng et al. 2022; Kim et al. 2023).

    Attributes:
        heads: As of :class:`SelfAttention`.
        window: Likewise.
        positions: Likewise.
        expansion: As of :class:`GatedMlp`.
        kernel: Likewise.
        merge_kernel: Frames of the depthwise convolution in the merge (E-Branchformer); 0 for
            a linear layer alone (Branchformer's ``concat``).
        ahead: As of :class:`SelfAttention`.
        chunk: Likewise.
        causal: Whether the frame is the last of both kernels.
    """

    kind = "parallel"
    later = ("ahead", "chunk", "causal")
    heads: int = option(4, _HEADS)
    window: int = option(0, _WINDOW)
    positions: str = option("relative", choice("kind of positions", ("relative", "none")))
    expansion: float = option(6.0, _EXPANSION)
    kernel: int = option(31, _KERNEL)
    merge_kernel: int = option(31, integer(0, 1023))
    ahead: int | None = option(None, _WINDOW)
    chunk: int = option(0, _CHUNK)
    causal: bool = option(False, flag)

    def conflicts(self, found: Problems) -> None:
        """Check that the merge has a frame in the middle, and what the attention sees."""
        if self.merge_kernel and self.merge_kernel % 2 == 0:
            found.conflict("merge_kernel", f"must be odd or 0, got {self.merge_kernel}")
        contexts.check(self, found)

    @property
    def context(self) -> tuple[int, int] | None:
        """Frames that the attention sees; see :class:`SelfAttention`."""
        return contexts.context(self)

    def span(self, frame: int) -> tuple[int, int] | None:
        """Return the first and the last frame that a frame's output depends on; None for all."""
        first, last = contexts.around(frame, self.merge_kernel or 1, self.causal)
        early, late = contexts.seen(self, first), contexts.seen(self, last)
        if early is None or late is None:
            return None
        beside = (contexts.around(place, self.kernel, self.causal) for place in (first, last))
        (lowest, _), (_, highest) = beside
        return min(early[0], lowest), max(late[1], highest)

    def text(self) -> str:
        """Return for example ``attention 4 heads | cgMLP 31 x 6, merge 31``."""
        attention = SelfAttention(
            self.heads, self.window, self.positions, self.ahead, self.chunk
        ).text()
        mlp = GatedMlp(self.expansion, self.kernel, self.causal).text()
        return f"({attention} | {mlp}, merge {self.merge_kernel})"


@dataclass(frozen=True)
class Memory(Part):
    """FSMN memory (Zhang et al. 2018): p plus a weighted sum of its neighbours, feature by feature.

    Attributes:
        back: Past taps, not counting the current frame.
        ahead: Future taps.
        stride: Distance between taps in frames of the stage.
        expansion: Hidden units of the ReLU layer before the memory, per unit of width, so that p is
            its linear projection (DFSMN); 0 for none, so that p is the normalized stream.
    """

    kind = "memory"
    back: int = option(10, integer(0, 512))
    ahead: int = option(10, integer(0, 512))
    stride: int = option(1, integer(1, 64))
    expansion: float = option(0.0, expansion_rule(above=False))

    def span(self, frame: int) -> tuple[int, int]:
        """Return the first and the last frame that a frame's output depends on."""
        return frame - self.back * self.stride, frame + self.ahead * self.stride

    def text(self) -> str:
        """Return for example ``memory -10+10 every 2 x 4``."""
        every = f" every {self.stride}" if self.stride > 1 else ""
        hidden = f" x {shown(self.expansion)}" if self.expansion else ""
        return f"memory -{self.back}+{self.ahead}{every}{hidden}"


MODULES: dict[str, type[Part]] = {
    cls.kind: cls for cls in (FeedForward, SelfAttention, Convolution, GatedMlp, Parallel, Memory)
}
