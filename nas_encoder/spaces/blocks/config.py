"""Options of block encoders, checked as a whole before anything is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from nas_encoder.common.fields import flag, integer, number, option, share, tuple_of
from nas_encoder.common.problems import Problems
from nas_encoder.errors import ProblemsError
from nas_encoder.spaces.blocks.lookaheads import problems_of
from nas_encoder.spaces.options import ANYTHING, NetworkOptions, shared


@dataclass(frozen=True)
class BlocksConfig(NetworkOptions):
    """Everything but the genotype that a block encoder is built from.

    A genotype holds its own widths and numbers of blocks: ``channels`` and ``layers`` build it at
    another size (:meth:`~nas_encoder.spaces.blocks.architecture.BlockArchitecture.scaled`).

    Attributes:
        input_size: F, features of an input frame.
        channels: Width of the widest stage; null for the genotype's.
        layers: Number of blocks in all; null for the genotype's.
        output_size: D, features of an output frame. Null for the width of the last stage; for any
            other number, a linear layer with ReLU follows.
        norm_eps: Of the layer norms: 1e-5 as in NeMo, 1e-12 as in ESPnet.
        dropout: Dropout probability of hidden units and of what modules add to the stream.
        attention_dropout: Dropout probability of attention weights.
        drop_path: Probability of dropping a module for an utterance, in training (Huang et al.
            2016); what is kept is scaled up.
        checkpointing: Recompute each block in the backward pass instead of storing its
            activations.
        taps: Blocks, counted from 1, after which an intermediate output is taken (InterCTC); of
            stages with the rate and the width of the last.
        conditioning: Whether a function of each tap is fed back into the network.
        lookaheads: How many output frames attention sees ahead: one is drawn for each batch in
            training, and the first holds otherwise (:mod:`.lookaheads`). The genotype's own is
            among them. Empty for that alone.
        lookahead_probs: With which probability each is drawn; empty for the same.
    """

    network: ClassVar[str] = "a block encoder"
    part: ClassVar[str] = "block"

    input_size: int = option(80, integer(1, 4096))
    channels: int | None = option(None, integer(1, 65536))
    layers: int | None = shared(None, integer(1, 256), off=ANYTHING)
    output_size: int | None = option(None, integer(1, 65536))
    norm_eps: float = option(1e-5, number(0, 1, above=True))
    dropout: float = option(0.1, share)
    attention_dropout: float = option(0.1, share)
    drop_path: float = shared(0.0, share)
    checkpointing: bool = shared(False, flag)
    taps: tuple[int, ...] = option((), tuple_of(integer(1), 0, 64, once="a block"))
    conditioning: bool = option(False, flag)
    lookaheads: tuple[int, ...] = shared((), tuple_of(integer(0, 4095), 0, 16, once="a lookahead"))
    lookahead_probs: tuple[float, ...] = shared((), tuple_of(number(0, 1, above=True), 0, 16))

    def conflicts(self, found: Problems) -> None:
        """Check that the probabilities are those of the lookaheads, then as all networks do."""
        super().conflicts(found)
        given = self.lookahead_probs
        if given and found.sound("lookaheads", "lookahead_probs"):
            if len(given) != len(self.lookaheads):
                rule = f"must have one for each of {found.word('lookaheads')}, "
                counts = f"{len(self.lookaheads)}, got {len(given)}"
                found.conflict("lookahead_probs", rule + counts, "lookaheads")
            elif abs(sum(given) - 1) > 1e-6:
                found.add("lookahead_probs", f"must have the sum 1, got {sum(given):g}")

    def fits(self, architecture: Any, found: Problems) -> None:
        """Check that the architecture exists at this size, its front end and the taps' places."""
        least = architecture.front.least
        if found.sound("input_size") and self.input_size < least:
            rule = f"must be at least {least} for a front end without padding"
            found.add("input_size", f"{rule}, got {self.input_size}")
        if not found.sound("channels", "layers"):
            return
        try:
            scaled = architecture.scaled(self.channels, self.layers)
        except ProblemsError as error:
            for line in error.problems:
                found.add("layers", line)
            return
        if self.lookaheads and found.sound("lookaheads"):
            for line in problems_of(scaled, self.lookaheads):
                found.add("lookaheads", line)
        possible = scaled.possible_taps()
        for place, tap in enumerate(self.taps):
            if tap not in possible and found.sound(f"taps[{place}]"):
                listed = ", ".join(map(str, possible)) or "none"
                rule = "must be a block before the last with the rate and the width of the output"
                found.add(f"taps[{place}]", f"{rule} ({listed}), got {tap}")
