"""One set of weights for all block encoders of some choices: a weight-entangled supernet.

An encoder computes with slices of the weights of the biggest one: the first features of widths and
hidden units (AutoFormer, Chen et al. 2021), the middle taps of kernels and memories and the first
blocks of a stage (Once-for-All, Cai et al. 2020), and the same weights whatever the number of
heads. Each kind of module has weights of its own in each slot of each block. The forward pass is
that of the encoder itself, given views of these weights; only layers that hold several groups side
by side (queries, keys and values; the halves of a gate) copy theirs if they are narrower than the
biggest.

All encoders have the same rate schedule and the same kind of front end.

B batch, T input frames, F features, T' output frames, D output features of an encoder.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from nas_encoder.common.problems import Problems
from nas_encoder.errors import ConfigError
from nas_encoder.genotype import Genotype
from nas_encoder.spaces.blocks.architecture import BlockArchitecture
from nas_encoder.spaces.blocks.choices import SLOTS, filled
from nas_encoder.spaces.blocks.config import BlocksConfig
from nas_encoder.spaces.blocks.front import build_front
from nas_encoder.spaces.blocks.front_parts import SearchedFront
from nas_encoder.spaces.blocks.modules import build_module
from nas_encoder.spaces.blocks.network import BlockEncoder
from nas_encoder.spaces.blocks.part import Part
from nas_encoder.spaces.blocks.residual import Transition
from nas_encoder.spaces.blocks.sharing import (
    Choices,
    biggest_of,
    key_of,
    sandwich,
    values_of,
    widest,
    without_channels,
)
from nas_encoder.spaces.blocks.slices import Slice, slices
from nas_encoder.spaces.blocks.space import BlockSpace

_KEPT = 256  # encoders without weights, so that they are not built again


@dataclass(frozen=True)
class _Plan:
    """An encoder without weights, and where each of its weights is."""

    network: BlockEncoder
    weights: Mapping[str, tuple[nn.Parameter, Slice]]


class OneShot(nn.Module):
    """The supernet of some choices of the space.

    Args:
        space: The space.
        choices: The values of each kind of choice (:attr:`.space.BlockSpace.table`) that may occur.
        config: Checked options of the encoders.

    Attributes:
        output_size: The largest D.

    Raises:
        ConfigError: There is more than one rate schedule or kind of front end, or an option cannot
            be shared; all problems are listed.
    """

    takes_choices = True

    def __init__(self, space: BlockSpace, choices: Choices, config: BlocksConfig) -> None:
        super().__init__()
        self.space = space
        if problems := _problems(choices, config):
            raise ConfigError("supernet", problems)
        self.config, self.choices = config, choices
        width, widths = max(choices["width"]), set(choices["width"])
        (schedule,) = choices["schedule"]
        self.front = build_front(widest(choices["front end"]), config.input_size, width, config)
        self.transitions = nn.ModuleDict()
        rates = (1, *schedule)
        for number, (before, now) in enumerate(zip(rates, rates[1:], strict=False)):
            fall, rise = max(now // before, 1), max(before // now, 1)
            # With layers between widths that only unequal ones need.
            transition = Transition(width, width, fall, rise, width if rise > 1 else 0)
            transition.project = nn.Linear(width, width)
            if rise > 1:
                transition.skip = nn.Linear(width, width)
            self.transitions[str(number)] = transition
        depth = max(choices["depth"])
        self.stages = nn.ModuleList(
            nn.ModuleList(_block(choices, width, config) for _ in range(depth)) for _ in schedule
        )
        self.final_norm = nn.LayerNorm(width, config.norm_eps)
        self.output_size = config.output_size or width
        self.head = nn.Sequential()
        if widths != {self.output_size}:
            self.head.append(nn.Linear(width, self.output_size))
        self._plans: OrderedDict[Any, _Plan] = OrderedDict()

    def forward(
        self,
        x: Tensor,
        lengths: Tensor,
        genotype: Genotype,
        statistics: Mapping[str, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Encode a padded batch with the encoder of a genotype.

        Args:
            x: (B, T, F).
            lengths: (B,) valid frames.
            genotype: Within the choices.
            statistics: Buffers of the encoder, for example the running statistics of its batch
                norms (:meth:`statistics`), which training mode changes in place. None for fresh
                ones.

        Returns:
            (B, T', D) and the lengths (B,) of the encoder; errors are its own.
        """
        plan = self._plan(genotype)
        given: dict[str, Tensor] = dict(self._weights(plan))
        given |= self.statistics(genotype) if statistics is None else statistics
        plan.network.train(self.training)
        out: tuple[Tensor, Tensor] = functional_call(plan.network, given, (x, lengths))
        return out

    def statistics(self, genotype: Genotype) -> dict[str, Tensor]:
        """Return fresh buffers of a genotype's encoder, by name."""
        reference, found = next(self.parameters()), {}
        for name, buffer in self._plan(genotype).network.named_buffers():
            dtype = reference.dtype if buffer.is_floating_point() else buffer.dtype
            empty = torch.ones if name.endswith("running_var") else torch.zeros
            found[name] = empty(buffer.shape, dtype=dtype, device=reference.device)
        return found

    @torch.no_grad()
    def recalibrate(
        self, genotype: Genotype, batches: Iterable[tuple[Tensor, Tensor]]
    ) -> dict[str, Tensor]:
        """Return the buffers of a genotype's encoder, whose statistics are those of some data.

        A batch norm's statistics depend on all that is before it, so they are no encoder's but its
        own (Yu and Huang 2019, "post-statistics"): the means over the batches.

        Args:
            genotype: Within the choices.
            batches: Features (B, T, F) and lengths (B,).
        """
        plan, found = self._plan(genotype), self.statistics(genotype)
        if not found:
            return found
        norms = [m for m in plan.network.modules() if isinstance(m, nn.BatchNorm2d)]
        momenta = [norm.momentum for norm in norms]
        plan.network.eval()
        for norm in norms:
            norm.train()
            norm.momentum = None  # the mean over all batches
        given = {**self._weights(plan), **found}
        for batch in batches:
            functional_call(plan.network, given, batch)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        return found

    def inherit(
        self, genotype: Genotype, statistics: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Return a copy of a genotype's encoder, a ``state_dict`` with its names.

        ``statistics`` are its buffers, by default fresh ones.
        """
        found = {**self._weights(self._plan(genotype))}
        found |= self.statistics(genotype) if statistics is None else statistics
        return {name: value.detach().clone() for name, value in found.items()}

    def output_size_of(self, genotype: Genotype) -> int:
        """Return D of a genotype's encoder."""
        return self.config.output_size or int(genotype.architecture.stages[-1].width)

    def draws(self, rng: random.Random, count: int) -> list[Genotype]:
        """Draw the encoders of a training step; see :func:`~.sharing.sandwich`."""
        return sandwich(self.space, self.choices, rng, count)

    def _weights(self, plan: _Plan) -> Mapping[str, Tensor]:
        return {name: part.of(whole) for name, (whole, part) in plan.weights.items()}

    def _plan(self, genotype: Genotype) -> _Plan:
        found: BlockArchitecture = genotype.architecture
        if found not in self._plans:
            with torch.device("meta"):
                network = BlockEncoder(genotype, self.config)
            self._plans[found] = _Plan(network, dict(self._sources(network)))
            if len(self._plans) > _KEPT:
                self._plans.popitem(last=False)
        self._plans.move_to_end(found)
        return self._plans[found]

    def _sources(self, network: BlockEncoder) -> Iterable[tuple[str, tuple[nn.Parameter, Slice]]]:
        """Yield (name, (weight here, slice)) of each weight of an encoder."""
        pairs: list[tuple[str, str]] = [("front", "front"), ("head", "head")]
        pairs += [(f"transitions.{number}", f"transitions.{number}") for number in self.transitions]
        pairs.append(("final_norm", "final_norm"))
        number = 0
        for place, stage in enumerate(network.architecture.stages):
            slots = filled(stage.modules)
            assert slots is not None  # of the choices
            chosen = [(s, key_of(part)) for s, part in zip(_SLOTS, slots, strict=True) if part]
            for depth in range(stage.blocks):
                here, there = f"blocks.{number}", f"stages.{place}.{depth}"
                for index, (slot, key) in enumerate(chosen):
                    source = f"{there}.{slot}.{key}"
                    pairs.append((f"{here}.layers.{index}", f"{source}.module"))
                    pairs.append((f"{here}.norms.{index}", f"{source}.norm_after"))
                pairs.append((f"{here}.final_norm", f"{there}.final_norm"))
                number += 1
        existing = dict(network.named_modules())
        for here, there in pairs:
            if here in existing:
                big = self.get_submodule(there)
                for name, part in slices(existing[here], big).items():
                    yield f"{here}.{name}", (big.get_parameter(name), part)


_SLOTS = tuple(name.replace(" ", "_").replace("-", "_") for name in SLOTS)


def _block(choices: Choices, width: int, config: BlocksConfig) -> nn.Module:
    """Build the weights of all blocks at one place."""
    block = nn.ModuleDict()
    for slot, name in zip(_SLOTS, SLOTS, strict=True):
        shared: dict[str, list[Part]] = {}
        for part in choices[name]:
            if part is not None:
                shared.setdefault(key_of(part), []).append(part)
        block[slot] = nn.ModuleDict(
            {
                key: nn.ModuleDict(
                    {
                        "module": build_module(biggest_of(parts), width, config, True),
                        "norm_after": nn.LayerNorm(width, config.norm_eps),
                    }
                )
                for key, parts in shared.items()
            }
        )
    block["final_norm"] = nn.LayerNorm(width, config.norm_eps)
    return block


def _problems(choices: Choices, config: BlocksConfig) -> list[str]:
    found = Problems()
    if len(choices["schedule"]) > 1:
        rule = f"a supernet has one, got {len(choices['schedule'])}; name it"
        found.add("choices.schedule", rule)
    kinds = dict.fromkeys(map(without_channels, choices["front end"]))
    if len(kinds) > 1:
        rule = "a supernet has one, whose channels alone may differ, got "
        found.add("choices.front end", rule + "; ".join(kind.text() for kind in kinds))
    elif isinstance(front := choices["front end"][0], SearchedFront):
        # Its last layer exists only where the width is not that of its cells.
        with torch.device("meta"):
            built = {w: build_front(front, config.input_size, w, config) for w in choices["width"]}
        kept = {name for name, _ in built[max(built)].named_parameters()}
        for width, network in built.items():
            if not {name for name, _ in network.named_parameters()} <= kept:
                rule = f"{front.text()} has layers at width {width} that it lacks at {max(built)}"
                found.add("choices.width", rule)
    alone = ("taps", ()), ("checkpointing", False), ("lookaheads", ())
    for name, off in (("channels", None), ("layers", None), *alone):
        if getattr(config, name) != off:
            shown = "[]" if off == () else "null" if off is None else "false"
            got = getattr(config, name)
            found.add(f"network.{name}", f"must be {shown} in a supernet, got {got!r}")
    return found.lines


def build(
    space: BlockSpace, choices: Mapping[str, Sequence[str]], options: BlocksConfig
) -> OneShot:
    """Build the supernet of candidates (all of a kind that is not named); see :class:`OneShot`."""
    return OneShot(space, values_of(space, choices), options)
