"""Drawing a cell of nodes with skips."""

from __future__ import annotations

from nas_encoder.spaces.nasbench_asr.architecture import SkipArchitecture
from nas_encoder.spaces.picture import Graph, operation_shape, row_graph


def graphs(architecture: SkipArchitecture) -> list[tuple[str, Graph]]:
    """Return the one graph; a skip of a node leads to the consumers of the node's result."""
    nodes = [
        operation_shape(f"{k}: {node.op}", "tdnn" if node.op.startswith("conv") else node.op)
        for k, node in enumerate(architecture.nodes, 1)
    ]
    skips = [
        (source, number + 1)
        for number, node in enumerate(architecture.nodes, 1)
        for source in node.skips
    ]
    return [("cell", row_graph(nodes, ("in", "out"), skips))]
