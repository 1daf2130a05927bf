"""Block encoders: a front end, stages of residual blocks at their own rates, a head.

B batch, T input frames, F features, S subsampling factor, T' output frames, D output features, C
width of a stage.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nas_encoder.common.receptive_field import ReceptiveField
from nas_encoder.errors import ConfigError
from nas_encoder.genotype import Genotype
from nas_encoder.network.complexity import count_parameters
from nas_encoder.network.streaming import Chunk
from nas_encoder.network.tapped import TappedEncoder, Taps, output_layer
from nas_encoder.ops.dropout import dropout
from nas_encoder.ops.masking import is_recording, recomputing
from nas_encoder.spaces.blocks import positions, spans
from nas_encoder.spaces.blocks.architecture import BlockArchitecture
from nas_encoder.spaces.blocks.attention import AttentionModule
from nas_encoder.spaces.blocks.config import BlocksConfig
from nas_encoder.spaces.blocks.frames import Frames
from nas_encoder.spaces.blocks.front import build_front
from nas_encoder.spaces.blocks.lookaheads import varied
from nas_encoder.spaces.blocks.modules import ParallelModule
from nas_encoder.spaces.blocks.residual import Block, Transition


class BlockEncoder(TappedEncoder):
    """The encoder of a genotype of blocks.

    The number of output frames is that of the front end, divided by the last stage's reduction and
    rounded up: ceil(T / S), or less by a few frames with a front end without padding.

    Attributes:
        architecture: What it is built of, at its size and with the selected lookahead.
        possible_taps: The blocks, counted from 1, whose outputs ``forward_taps`` can return: of the
            output's rate and width, and not the last.

    Raises:
        ConfigError: An option breaks its rule; all problems are listed.
    """

    def __init__(self, genotype: Genotype, config: BlocksConfig) -> None:
        if not isinstance(genotype.architecture, BlockArchitecture):
            problems = [f"genotype: space '{genotype.space}' has no blocks"]
        else:
            problems = config.problems(architecture=genotype.architecture)
        if problems:
            raise ConfigError(f"encoder of genotype '{genotype.name}'", problems)
        found = genotype.architecture.scaled(config.channels, config.layers)
        stages, last = found.stages, found.stages[-1]
        config = replace(config, output_size=config.output_size or last.width)
        super().__init__(config, found.factor)
        self.genotype, self.architecture = genotype, found
        self.front: Any = build_front(found.front, config.input_size, stages[0].width, config)
        self.min_length = int(self.front.min_length)
        self.transitions = nn.ModuleDict()
        self.blocks = nn.ModuleList()
        width, rate, widths = stages[0].width, 1, {1: stages[0].width}
        for number, stage in enumerate(stages):
            if (width, rate) != (stage.width, stage.reduction):
                fall, rise = stage.reduction // rate, rate // stage.reduction
                skip = widths[stage.reduction] if rise > 1 else 0
                self.transitions[str(number)] = Transition(
                    width, stage.width, max(fall, 1), max(rise, 1), skip
                )
            self.blocks.extend(Block(stage, config) for _ in range(stage.blocks))
            width, rate = stage.width, stage.reduction
            widths[rate] = width
        self.lookaheads = config.lookaheads
        self._forms = tuple(varied(found, ahead) for ahead in config.lookaheads) or (found,)
        self._attend()
        self.final_norm: nn.Module = nn.Identity()
        if found.final_norm:
            self.final_norm = nn.LayerNorm(last.width, config.norm_eps)
        self.head = output_layer(last.width, self.output_size)
        self.possible_taps = found.possible_taps()
        if config.conditioning:
            self.condition_projection = nn.Linear(self.output_size, last.width)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Return the output frames of utterances of (B,) ``lengths`` frames."""
        return _ceil(self.front.reduced(lengths), self.architecture.stages[-1].reduction)

    def encode(self, x: Tensor, lengths: Tensor | None, taps: Taps) -> Tensor:
        """Return (B, T', D); taps go through the same last layers."""
        x, lengths = self.front(x, lengths)
        x = self._stream(x)
        mask = None
        if lengths is not None:
            mask = torch.arange(x.size(1), device=x.device)[None, :] < lengths[:, None]
        skips, rate, number, ahead = {1: x}, 1, 0, self._drawn()
        frames = Frames(mask)
        for place, stage in enumerate(self.architecture.stages):
            if str(place) in self.transitions:
                skip = skips[stage.reduction] if stage.reduction < rate else None
                x = self.transitions[str(place)](x, frames, skip)
            rate = stage.reduction
            relative = positions.relative(x) if _needs_positions(stage) else None
            frames = Frames(None if mask is None else mask[:, ::rate], relative, ahead)
            for _ in range(stage.blocks):
                x, number = self._run(number, x, frames), number + 1
                added = taps.take(number, partial(self._output, x, frames))
                if added is not None:
                    x = x + self.condition_projection(added)
            skips[rate] = x
        return self._output(x, frames)

    def select_lookahead(self, ahead: int) -> None:
        """Let attention see so many output frames ahead from now on, but in training batches.

        Streams go on with what they began with: begin others.

        Raises:
            ConfigError: It is none of ``lookaheads``.
        """
        if ahead not in self.lookaheads:
            super().select_lookahead(ahead)
        self.selected = number = self.lookaheads.index(ahead)
        self.architecture, self._field = self._forms[number], None
        for module in self.modules():
            if isinstance(module, AttentionModule):
                module.selected = number

    def fields(self) -> list[ReceptiveField]:
        """Return :meth:`field` with each of ``lookaheads``, or the only one."""
        self.field()
        return [spans.receptive_field(form) for form in self._forms]

    def _attend(self) -> None:
        """Tell the modules of blocks that attend what they see with each lookahead."""
        self.architecture, number = self._forms[0], 0
        for place, stage in enumerate(self.architecture.stages):
            for block in self.blocks[number : number + stage.blocks]:
                layers: Any = block.layers
                for index, layer in enumerate(layers):
                    parts: Any = [form.stages[place].modules[index] for form in self._forms]
                    if isinstance(layer, AttentionModule | ParallelModule):
                        layer.take(parts)
            number += stage.blocks

    def _drawn(self) -> int | None:
        """Return which of the lookaheads a training batch has; None for the selected one.

        Raises:
            ConfigError: A CUDA graph is recorded, of which all batches would have the same.
        """
        if not self.training or len(self._forms) == 1:
            return None
        if is_recording():
            rule = "one is drawn for each training batch, and a CUDA graph of a step would keep "
            rule += f"that of its first; record none, or train with one, got {self.lookaheads}"
            raise ConfigError("lookaheads", [rule])
        shares = self.config.lookahead_probs or [1.0] * len(self._forms)
        return int(torch.multinomial(torch.tensor(shares), 1))

    def _stream(self, x: Tensor) -> Tensor:
        """Scale (B, T, C) and add absolute positions, as the genotype says."""
        if self.architecture.scale:
            x = x * x.size(2) ** 0.5
        if self.architecture.positions == "absolute":
            x = x + positions.absolute(x)
        return dropout(x, self.config.dropout, self.training)

    def _run(self, number: int, x: Tensor, frames: Frames) -> Tensor:
        block = self.blocks[number]
        if not (self.config.checkpointing and self.training and torch.is_grad_enabled()):
            return block(x, frames)  # type: ignore[no-any-return]
        out: Any = checkpoint(
            block,
            x,
            frames,
            use_reentrant=False,
            # The second pass must not update the batch norms' running statistics again.
            context_fn=lambda: (nullcontext(), recomputing()),
        )
        return out  # type: ignore[no-any-return]

    def _output(self, x: Tensor, frames: Frames) -> Tensor:
        return frames.clear(self.head(self.final_norm(x)))

    def field(self) -> ReceptiveField:
        """Return what an output frame depends on at most; see :mod:`.spans`."""
        if problems := spans.unbounded(self.architecture):
            raise ConfigError("streaming", problems)
        return spans.receptive_field(self.architecture)

    @property
    def period(self) -> int | None:
        """After how many input frames the network treats frames alike; None if it never does."""
        if self.architecture.positions == "absolute":
            return None
        return int(self.architecture.period * self.front.factor)

    def initial_caches(self, batch: int, like: Tensor) -> dict[str, Any]:
        """Return the caches of B streams, of the type and on the device of ``like``."""
        self.field()
        blocks: Any = self.blocks
        transitions: Any = self.transitions.items()
        return {
            "front": self.front.initial_cache(batch, like),
            "transitions": {name: own.initial_cache(batch, like) for name, own in transitions},
            "blocks": tuple(block.initial_cache(batch, like) for block in blocks),
        }

    def stream(self, chunk: Chunk, caches: Any, taps: Taps) -> tuple[Chunk, Any]:
        """Map a chunk (B, t, F), zero past the ends, to the frames (B, t', D) that are complete."""
        chunk, front = self.front.step(chunk, caches["front"])
        x = chunk.x
        if self.architecture.scale:
            x = x * x.size(2) ** 0.5
        if self.architecture.positions == "absolute":
            x = x + positions.absolute_from(chunk.start, x)
        chunk = chunk.holding(x)
        skips, rate, number = {1: chunk}, 1, 0
        transitions, blocks = {}, []
        for place, stage in enumerate(self.architecture.stages):
            if (name := str(place)) in self.transitions:
                skip = skips[stage.reduction] if stage.reduction < rate else None
                move: Any = self.transitions[name]
                chunk, transitions[name] = move.step(chunk, caches["transitions"][name], skip)
            rate = stage.reduction
            for _ in range(stage.blocks):
                block: Any = self.blocks[number]
                chunk, kept = block.step(chunk, caches["blocks"][number])
                blocks.append(kept)
                number += 1
                frames = Frames(chunk.valid(chunk.start, chunk.end))
                added = taps.take(number, partial(self._output, chunk.x, frames))
                if added is not None:
                    chunk = chunk.holding(chunk.x + self.condition_projection(added))
            skips[rate] = chunk
        out = chunk.holding(self._output(chunk.x, Frames(chunk.valid(chunk.start, chunk.end))))
        return out, {"front": front, "transitions": transitions, "blocks": tuple(blocks)}

    def parts(self) -> list[dict[str, Any]]:
        """Return the parameters of each part; the blocks of a stage make one part."""
        rows = [row for row in super().parts() if row["part"] not in ("blocks", "transitions")]
        found, first = [], 1
        for place, stage in enumerate(self.architecture.stages):
            if str(place) in self.transitions:
                count = count_parameters(self.transitions[str(place)])
                found.append({"part": "transition", "parameters": count})
            own = self.blocks[first - 1 : first - 1 + stage.blocks]
            found.append(
                {
                    "part": f"stage {place + 1}",
                    "first": first,
                    "channels": stage.width,
                    "cells": stage.blocks,
                    "parameters": sum(map(count_parameters, own)),
                    "last": first - 1 + stage.blocks,
                }
            )
            first += stage.blocks
        return [*rows[:1], *found, *(row for row in rows[1:] if row["parameters"])]

    def set_drop_path(self, probability: float) -> None:
        """Set the probability of drop-path from now on, for example by a schedule."""
        if not 0 <= probability < 1:
            raise ConfigError("drop_path", [f"must be from 0 to below 1, got {probability!r}"])
        for block in self.blocks:
            block.drop_path = float(probability)  # type: ignore[assignment]


build = BlockEncoder


def receptive_field(architecture: BlockArchitecture, config: BlocksConfig) -> ReceptiveField:
    """Return the receptive field of an output frame in time.

    Raises:
        ConfigError: A module sees the whole utterance.
    """
    return spans.receptive_field(architecture.scaled(config.channels, config.layers))


def _ceil(lengths: Tensor, factor: int) -> Tensor:
    return torch.div(lengths + factor - 1, factor, rounding_mode="floor")


def _needs_positions(stage: Any) -> bool:
    return any(getattr(module, "positions", "none") == "relative" for module in stage.modules)
