"""What the encoders of trials cost.

T frames, F frequency bins.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import nn

from nas_encoder.common.seeding import derive_seed, one_thread
from nas_encoder.deploy.latency import BenchSettings, measuring
from nas_encoder.deploy.memory import peak_memory
from nas_encoder.errors import ConfigError
from nas_encoder.genotype import Genotype
from nas_encoder.network.budgets import COUNTED
from nas_encoder.network.complexity import count_macs, count_parameters
from nas_encoder.search.config.sections import MeasureConfig
from nas_encoder.spaces import SearchSpace
from nas_encoder.spaces.base import LATENCY
from nas_encoder.spaces.modules import Costs


class TrialCosts:
    """Costs of genotypes, each determined once.

    Args:
        space: The space; its ``costs``, if it has any, count parameters and multiply-adds without
            building a network.
        options: Checked options of its networks.
        frames: T, length of the one utterance.
        measure: How to measure.
        device: ``cpu`` or ``cuda``.
        seed: Seed of weights.
        build: Builds the encoder of a genotype.
        train_seconds: Returns the training seconds per hour of speech of a genotype.
        infeasible: Returns the share of utterances, in %, that CTC cannot place in the output
            frames of an encoder.
        table: File of latencies, from which they are then predicted; None to measure them.
        frame_ms: Milliseconds from one input frame to the next.

    Raises:
        ConfigError: The table is not of these networks.
    """

    def __init__(
        self,
        space: SearchSpace,
        options: Any,
        frames: int,
        measure: MeasureConfig,
        device: str,
        seed: int,
        build: Callable[[Genotype], nn.Module],
        train_seconds: Callable[[Genotype], float],
        infeasible: Callable[[nn.Module], float],
        table: str | None = None,
        frame_ms: float = 10.0,
    ) -> None:
        self.space, self.options, self.frame_ms = space, options, frame_ms
        self.frames, self.bins, self.measure = frames, int(options.input_size), measure
        self.device, self.seed = device, seed
        self._build, self._train_seconds = build, train_seconds
        self._infeasible = infeasible
        self.counted: Costs | None = None
        if space.has("costs"):
            self.counted = space.costs.build(space, options, frames)
        self.predicted: Costs | None = None
        if table is not None:
            if LATENCY not in space.features:
                rule = f"the operations of '{space.name}' are not measured one by one"
                raise ConfigError("objective.table", [rule])
            self.predicted = space.costs.build_with_latency(space, options, frames, table)
        self._known: dict[str, dict[str, float]] = {}

    def of(self, genotype: Genotype, names: Collection[str]) -> dict[str, float]:
        """Return the parameters, the multiply-adds and the other quantities ``names``."""
        known = self._known.setdefault(genotype.hash, {})
        if self.counted is not None and not known:
            costs = self.counted.of(genotype.architecture)
            known |= {name: float(costs[name]) for name in COUNTED}
        if self.predicted is not None and "latency_ms" in names and "latency_ms" not in known:
            costs = self.predicted.of(genotype.architecture)
            known["latency_ms"] = float(costs["latency_ms"])
        if "lookahead_ms" in names and "lookahead_ms" not in known:
            known["lookahead_ms"] = self._lookahead(genotype)
        if missing := [name for name in (*COUNTED, *names) if name not in known]:
            known |= self._measured(genotype, missing)
        return {name: known[name] for name in (*COUNTED, *names)}

    def _lookahead(self, genotype: Genotype) -> float:
        """Return the lookahead; infinity for a network that sees the whole utterance."""
        try:
            field = self.space.network.receptive_field(genotype.architecture, self.options)
        except ConfigError:  # it has no bound
            return math.inf
        return field.right * self.frame_ms

    def _measured(self, genotype: Genotype, names: Collection[str]) -> dict[str, float]:
        """Return quantities of the network itself."""
        found: dict[str, float] = {}
        torch.manual_seed(derive_seed(self.seed, 0))
        encoder = self._build(genotype).eval()
        if set(COUNTED) & set(names):
            with one_thread():
                macs = count_macs(encoder, self.frames, self.bins)
            found |= {"parameters": float(count_parameters(encoder)), "macs": float(macs)}
        if "infeasible" in names:
            found["infeasible"] = self._infeasible(encoder)
        if {"latency_ms", "memory_mb"} & set(names):
            encoder = encoder.to(self.device)
            x = torch.randn(1, self.frames, self.bins, device=self.device)
            lengths = torch.tensor([self.frames], device=self.device)

            def call() -> object:
                return encoder(x, lengths)

            if "latency_ms" in names:
                repeats, threads = self.measure.repeats, self.measure.threads
                settings = BenchSettings(self.device, threads, seconds=0, repeats=repeats)
                with measuring(settings) as timed:
                    found["latency_ms"] = timed(call)
            if "memory_mb" in names:
                with one_thread():
                    found["memory_mb"] = 1e-6 * peak_memory(encoder, x, call)
        if "train_seconds" in names:
            found["train_seconds"] = self._train_seconds(genotype)
        return found
