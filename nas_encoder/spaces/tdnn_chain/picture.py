"""Drawing a chain."""

from __future__ import annotations

from nas_encoder.spaces.picture import Graph, operation_shape, row_graph
from nas_encoder.spaces.tdnn_chain.space import ChainArchitecture


def graphs(architecture: ChainArchitecture) -> list[tuple[str, Graph]]:
    """Return the one graph: the blocks in a row, between the features and the output."""
    blocks = [operation_shape(f"{k}: {op}", op) for k, op in enumerate(architecture.blocks, 1)]
    return [("chain", row_graph(blocks, ("in", "out")))]
