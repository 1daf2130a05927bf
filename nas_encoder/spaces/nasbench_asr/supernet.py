"""The supernet of NAS-Bench-ASR's space: nodes hold all their operations and all their skips.

B batch, T frames, F frequency bins, C filters, D output features.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_encoder.common.choices import Candidates
from nas_encoder.network.choices.mixing import choose
from nas_encoder.network.choices.straight_through import Paths
from nas_encoder.network.tapped import Taps
from nas_encoder.spaces.nasbench_asr.architecture import ZERO
from nas_encoder.spaces.nasbench_asr.config import EPSILON, NasBenchConfig
from nas_encoder.spaces.nasbench_asr.layers import build_node_operation
from nas_encoder.spaces.nasbench_asr.network import NasBenchTrunk
from nas_encoder.spaces.nasbench_asr.space import NODE, SKIP, SKIPS, NasBenchSpace, skip_list

Weights = Mapping[str, Tensor] | Mapping[str, Paths]


class SkipSupernetCell(nn.Module):
    """A cell with every operation of each node, and every skip.

    Args:
        candidates: Operations of each node, and candidates of each skip.
        filters: C.
        groups: Groups of its convolutions.
    """

    def __init__(self, candidates: Candidates, filters: int, groups: int) -> None:
        super().__init__()
        self.names = candidates[NODE]
        self.skips = candidates[SKIPS]
        self.nodes = nn.ModuleList(
            nn.ModuleDict(
                {op: build_node_operation(op, filters, groups) for op in names if op != ZERO}
            )
            for names in self.names
        )
        # For each node the rows of its skips, and their source outputs.
        self.sources: list[list[tuple[int, int]]] = [[] for _ in self.names]
        for row, (node, source) in enumerate(skip_list(len(self.names))):
            self.sources[node].append((row, source))
        self.norm = nn.LayerNorm(filters, eps=EPSILON)

    def forward(self, x: Tensor, mask: Tensor | None, weights: Weights, dropout: float) -> Tensor:
        """Map (B, T, C), with mask (B, T, 1) or None; padding frames hold any finite values.

        ``weights`` are those of mixtures for nodes and skips, or sampled paths; ``dropout`` is its
        probability after every operation, in training.
        """
        zeros = partial(torch.zeros_like, x)
        outputs: list[Tensor | None] = [x]
        for node in range(len(self.names)):
            # An operation after a node without inputs works on zeros, in paths as in mixtures;
            # the derived network would not have it.
            before = zeros() if outputs[-1] is None else outputs[-1]
            run = partial(self._operation, node, before, mask, dropout)
            total = choose(weights[NODE], node, run, zeros)
            for row, source in self.sources[node]:
                skip = partial(_skip, self.skips[row], outputs[source])
                added = choose(weights[SKIPS], row, skip, zeros)
                if added is not None:
                    total = added if total is None else total + added
            outputs.append(total)
        # Without a path to the output the cell gives zeros; earlier layers still get a gradient.
        last = x * 0.0 if outputs[-1] is None else outputs[-1]
        normed: Tensor = self.norm(last)
        return normed

    def _operation(
        self, node: int, x: Tensor, mask: Tensor | None, dropout: float, place: int
    ) -> Tensor | None:
        name = self.names[node][place]
        if name == ZERO:
            return None
        operations = self.nodes[node]
        assert isinstance(operations, nn.ModuleDict)
        y: Tensor = operations[name](x, mask)
        return F.dropout(y, dropout, self.training) if dropout else y


def _skip(names: Sequence[str], source: Tensor | None, place: int) -> Tensor | None:
    return source if names[place] == SKIP else None


class NasBenchAsrSupernet(NasBenchTrunk):
    """The encoder that a gradient search trains in NAS-Bench-ASR's space."""

    def __init__(self, candidates: Candidates, config: NasBenchConfig) -> None:
        super().__init__(
            config, lambda filters: SkipSupernetCell(candidates, filters, config.groups)
        )

    takes_choices = True

    def encode(
        self,
        x: Tensor,
        lengths: Tensor | None,
        taps: Taps,
        weights: Weights,
        dropout: float = 0.0,
    ) -> Tensor:
        """Return (B, ceil(T / 4), D).

        ``weights`` are for the kinds ``nodes`` and ``skips`` the weights of mixtures (3, n) and
        (6, 2), or the sampled paths, shared by all cells; ``dropout`` is its probability after
        every operation and before the LSTM, in training. ``taps`` is ignored.
        """

        def run(number: int, cell: nn.Module, x: Tensor, mask: Tensor | None) -> Tensor:
            y: Tensor = cell(x, mask, weights, dropout)
            return y

        return self.output(*self.through_cells(x, lengths, run), dropout)


def build(
    space: NasBenchSpace,
    candidates: Candidates,
    config: NasBenchConfig,
    regularized: Container[str],
    sampled: bool,
) -> NasBenchAsrSupernet:
    """Build the supernet, the same for mixtures and paths; dropout follows every operation."""
    return NasBenchAsrSupernet(candidates, config)
