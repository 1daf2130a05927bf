"""The two sides of benchmarks/supernet.py: a supernet, its steps and their inputs."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from step_cost import begin_peak, end_peak
from torch import Tensor, nn

from nas_encoder.common.choices import Candidates
from nas_encoder.network.choices.parameters import ArchitectureParameters
from nas_encoder.network.choices.straight_through import Paths
from nas_encoder.network.ctc import CtcNetwork
from nas_encoder.ops.masking import reduced_lengths
from nas_encoder.spaces import get_space
from nas_encoder.spaces.cells.config import CellConfig
from nas_encoder.spaces.cells.space import KINDS, edge_list
from nas_encoder.spaces.cells.supernet.sampled import SampledSupernet

VOCABULARY = 1434  # 1394 syllables, 39 phones, blank


class Forward(nn.Module):
    """A supernet's forward pass in our precision; captured inputs are tensors only."""

    def __init__(self, network: nn.Module, dropout: float, padded: bool, half: bool) -> None:
        super().__init__()
        self.network = network
        self.dropout = dropout
        self.padded = padded
        if isinstance(network, CtcNetwork):
            network.encoder.graphs_are_padded = padded
        self.half = half

    def forward(self, x: Tensor, lengths: Tensor, normal: Any, reduction: Any) -> Tensor:
        """Return log-probabilities (B, T', V) for weights (E, n) or sampled paths."""
        weights = {"normal": normal, "reduction": reduction}
        # Casts cached between passes would be captured once and never updated.
        with torch.autocast(x.device.type, torch.bfloat16, self.half, cache_enabled=False):
            log_probs, _ = self.network(x, lengths, weights, self.dropout)
        result: Tensor = log_probs
        return result


class Side:
    """A supernet and its two steps."""

    def __init__(self, network: nn.Module, alive: Candidates, plain: bool, args: Any) -> None:
        self.device = torch.device(args.device)
        self.network = network.to(self.device).train()
        self.parameters = ArchitectureParameters(alive, torch.Generator().manual_seed(0))
        self.parameters.to(self.device)
        self.plain = plain
        self.dropout = args.dropout
        self.weights = torch.optim.SGD(network.parameters(), 0.01, 0.9, weight_decay=3e-4)
        self.architecture = torch.optim.Adam(
            self.parameters.parameters(), 6e-4, (0.5, 0.999), weight_decay=1e-3
        )
        self.factor = CellConfig().subsampling_factor
        half = self.device.type == "cuda" and args.precision == "bf16"
        self.eager = Forward(network, args.dropout, args.padded, half)
        # Paths change with every step, which no graph supports.
        fixed = not isinstance(network, SampledSupernet)
        self.mode = args.mode if fixed and not plain and self.device.type == "cuda" else "eager"
        self.captured: dict[bool, Callable[..., Any]] = {}

    def run(self, batch: Batch, weights: dict[str, Tensor]) -> Tensor:
        """Return our log-probabilities, by a graph if the mode says so."""
        if batch.paths is not None:
            chosen = self.sampled(batch, weights)
            return self.eager(batch.features, batch.lengths, chosen["normal"], chosen["reduction"])  # type: ignore[no-any-return]
        arguments = (batch.features, batch.lengths, weights["normal"], weights["reduction"])
        if self.mode == "eager":
            return self.eager(*arguments)  # type: ignore[no-any-return]
        frozen = weights["normal"].requires_grad
        if frozen not in self.captured:
            if self.mode == "compile":
                self.captured[frozen] = torch.compile(self.eager, mode="reduce-overhead")
            else:
                # A module can be captured only once; each kind of step wraps the network anew.
                own = Forward(self.network, self.dropout, self.eager.padded, self.eager.half)
                example = tuple(
                    t.detach().clone().requires_grad_(t.requires_grad) for t in arguments
                )
                self.captured[frozen] = torch.cuda.make_graphed_callables(
                    own, example, allow_unused_input=True
                )
        return self.captured[frozen](*arguments)  # type: ignore[no-any-return]

    def sampled(self, batch: Batch, weights: dict[str, Tensor]) -> dict[str, Paths]:
        """Return the paths as the search draws them, with shares in an architecture step."""
        assert batch.active is not None
        found = {}
        for kind, active in batch.active.items():
            edges, count = weights[kind].shape
            if weights[kind].requires_grad:
                every = (tuple(range(count)),) * edges
                found[kind] = Paths(active, every, weights[kind])
            else:
                found[kind] = Paths(active)
        return found

    def loss(self, batch: Batch, weights: dict[str, Tensor]) -> Tensor:
        """Return the CTC loss; with ``paths`` only these run in the forward pass."""
        if batch.paths is not None and self.plain:
            hard = {
                kind: F.one_hot(batch.paths[kind], weights[kind].size(1)).to(weights[kind].dtype)
                for kind in KINDS
            }
            # Straight through: the value of the sampled path, the gradient of the weights.
            weights = {
                kind: hard[kind] + (w - w.detach() if w.requires_grad else 0.0)
                for kind, w in weights.items()
            }
        if self.plain:
            log_probs = self.network(batch.features, weights, self.dropout, batch.paths)
        else:
            log_probs = self.run(batch, weights)
        lengths = reduced_lengths(batch.lengths, self.factor)
        return F.ctc_loss(
            log_probs.float().transpose(0, 1), batch.targets, lengths, batch.target_lengths
        )

    def weight_step(self, batch: Batch) -> float:
        """Update the weights."""
        with nullcontext() if self.plain and batch.paths is None else torch.no_grad():
            mixture = self.parameters.weights()
        loss = self.loss(batch, mixture)
        self.network.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.weights.step()
        self.parameters.zero_grad(set_to_none=True)
        return float(loss.detach())

    def architecture_step(self, batch: Batch) -> float:
        """Update the architecture."""
        if not self.plain:
            self.network.requires_grad_(False)
        loss = self.loss(batch, self.parameters.weights())
        self.architecture.zero_grad(set_to_none=True)
        loss.backward()
        self.architecture.step()
        self.network.requires_grad_(True)
        self.network.zero_grad(set_to_none=True)
        return float(loss.detach())


@dataclass
class Batch:
    """Random features and tokens, and for ST-NAS the sampled paths."""

    features: Tensor
    lengths: Tensor
    targets: Tensor
    target_lengths: Tensor
    paths: dict[str, Tensor] | None
    active: dict[str, tuple[int, ...]] | None


def make_batch(args: Any, alive: Candidates, one_path: bool) -> Batch:
    """Return a batch of ``--batch`` utterances, of equal length unless --padded."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.full((args.batch,), args.frames)
    if args.padded:
        lengths = torch.linspace(args.frames, 0.8 * args.frames, args.batch).long()
    targets = torch.randint(1, VOCABULARY, (args.batch, args.frames // 20), generator=generator)
    features = torch.randn(args.batch, args.frames, args.bins, generator=generator)
    paths = active = None
    if one_path:
        paths = {
            kind: torch.randint(0, len(edges[0]), (len(edges),), generator=generator)
            for kind, edges in alive.items()
        }
        active = {kind: tuple(places.tolist()) for kind, places in paths.items()}
        paths = {kind: places.to(args.device) for kind, places in paths.items()}
    return Batch(
        features.to(args.device),
        lengths.to(args.device),
        targets.to(args.device),
        torch.full((args.batch,), targets.size(1), device=args.device),
        paths,
        active,
    )


def choices(space: str, keep: int) -> Candidates:
    """Return random choices of ``keep`` operations per edge, as after pruning."""
    operations = get_space(space).operations
    rng = random.Random(keep)
    return {
        kind: tuple(
            tuple(sorted(rng.sample(operations, keep), key=operations.index))
            for _ in edge_list(get_space(space).nodes)
        )
        for kind in KINDS
    }


@contextmanager
def eagerly(side: Side) -> Iterator[None]:
    """Run a side without graphs, which would hide its memory and launches."""
    mode, side.mode = side.mode, "eager"
    try:
        yield
    finally:
        side.mode = mode


def eager_peak(side: Side, step: Callable[[], Any], device: torch.device) -> int:
    """Return the peak of a step without graphs."""
    with eagerly(side):
        step()
        before = begin_peak(device)
        step()
        return end_peak(device, before)
