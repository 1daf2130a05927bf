"""The supernet of NAS-Bench-ASR's space: nodes hold all their operations and all their skips.

B batch, T frames, F frequency bins, C filters, V tokens (blank included).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_encoder.network.choices.mixing import choose
from nas_encoder.network.choices.parameters import NODES, SKIP, SKIPS, Alive, skip_list
from nas_encoder.network.choices.straight_through import Paths
from nas_encoder.network.ctc import log_probabilities
from nas_encoder.network.inputs import check_inputs
from nas_encoder.ops.masking import reduced_lengths
from nas_encoder.spaces.nasbench_asr.architecture import ZERO
from nas_encoder.spaces.nasbench_asr.config import EPSILON, NasBenchConfig
from nas_encoder.spaces.nasbench_asr.layers import SkipTrunk, build_node_operation

Weights = Mapping[str, Tensor] | Mapping[str, Paths]


class SkipSupernetCell(nn.Module):
    """A cell of which every operation of a node, and every skip, is there.

    Args:
        alive: Operations of each node, and whether each skip can be there.
        filters: C.
        groups: Of its convolutions.
    """

    def __init__(self, alive: Alive, filters: int, groups: int) -> None:
        super().__init__()
        self.names = alive[NODES]
        self.skips = alive[SKIPS]
        self.nodes = nn.ModuleList(
            nn.ModuleDict(
                {op: build_node_operation(op, filters, groups) for op in names if op != ZERO}
            )
            for names in self.names
        )
        # For each node the rows of its skips, and the outputs that they lead from.
        self.sources: list[list[tuple[int, int]]] = [[] for _ in self.names]
        for row, (node, source) in enumerate(skip_list(len(self.names))):
            self.sources[node].append((row, source))
        self.norm = nn.LayerNorm(filters, eps=EPSILON)

    def forward(self, x: Tensor, mask: Tensor | None, weights: Weights, dropout: float) -> Tensor:
        """Map (B, T, C) to (B, T, C).

        Args:
            x: Padding frames may hold anything finite.
            mask: (B, T, 1) or None where there is no padding.
            weights: For nodes and skips the weights of mixtures, or the paths that are drawn.
            dropout: Probability behind every operation, in training.
        """
        zeros = partial(torch.zeros_like, x)
        outputs: list[Tensor | None] = [x]
        for node in range(len(self.names)):
            # An operation behind a node to which nothing leads works on zeros, in paths as in
            # mixtures; the network that is derived would not have it.
            before = zeros() if outputs[-1] is None else outputs[-1]
            run = partial(self._operation, node, before, mask, dropout)
            total = choose(weights[NODES], node, run, zeros)
            for row, source in self.sources[node]:
                skip = partial(_skip, self.skips[row], outputs[source])
                added = choose(weights[SKIPS], row, skip, zeros)
                if added is not None:
                    total = added if total is None else total + added
            outputs.append(total)
        # Without any way to the output the cell gives zeros; what is before it keeps a gradient.
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


class SkipSupernet(SkipTrunk):
    """The network that a gradient search trains in NAS-Bench-ASR's space, with a CTC output.

    Args:
        alive: Operations of each node, and whether each skip can be there.
        config: As for an evaluation network.
        vocabulary: V.
    """

    def __init__(self, alive: Alive, config: NasBenchConfig, vocabulary: int) -> None:
        super().__init__()
        self.config = config
        self.subsampling_factor = config.subsampling_factor
        self.build(lambda filters: SkipSupernetCell(alive, filters, config.groups))
        self.classifier = nn.Linear(config.output_size, vocabulary)

    def forward(
        self, x: Tensor, lengths: Tensor, weights: Weights, dropout: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Return log-probabilities (B, ceil(T / 4), V) and lengths (B,).

        Args:
            x: (B, T, F) features.
            lengths: (B,) valid frames.
            weights: For the kinds ``nodes`` and ``skips`` the weights of mixtures (3, n) and
                (6, 2), or the paths that are drawn. All cells choose alike.
            dropout: Probability behind every operation and before the LSTM, in training.

        Raises:
            InputError: See :func:`~nas_encoder.network.inputs.check_inputs`.
        """
        padded = check_inputs(x, lengths, self.config.input_size, self.subsampling_factor)

        def run(number: int, cell: nn.Module, x: Tensor, mask: Tensor | None) -> Tensor:
            y: Tensor = cell(x, mask, weights, dropout)
            return y

        x, mask = self.through_cells(x, lengths if padded else None, run)
        logits: Tensor = self.classifier(self.output(x, mask, dropout))  # (B, T', V)
        return log_probabilities(logits), reduced_lengths(lengths, self.subsampling_factor)
