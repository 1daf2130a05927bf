"""How a chain is drawn."""

from __future__ import annotations

from nas_encoder.spaces.picture import Graph, operation_shape, row_graph
from slim_chain.space import SlimChain


def graphs(architecture: SlimChain) -> list[tuple[str, Graph]]:
    """Return the one graph: the blocks in a row."""
    blocks = [operation_shape(f"{op} x {width}", op) for op, width in architecture.blocks]
    return [("slim chain", row_graph(blocks, ("in", "out")))]
