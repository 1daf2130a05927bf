"""Drawing block encoders."""

from __future__ import annotations

from nas_encoder.spaces.blocks.architecture import BlockArchitecture
from nas_encoder.spaces.blocks.part import Part
from nas_encoder.spaces.picture import Graph, operation_shape, row_graph

# Kind of module -> the family whose colour it has.
_COLOURS = {
    "feed_forward": "skip_connect",
    "attention": "max_pool",
    "convolution": "sep_conv",
    "cgmlp": "dil_conv",
    "parallel": "avg_pool",
    "memory": "conv",
}


def graphs(architecture: BlockArchitecture) -> list[tuple[str, Graph]]:
    """Return the row of stages, with the skips between equal rates, and a block of each stage."""
    rates = [1, *(stage.reduction for stage in architecture.stages)]
    names = [architecture.front.kind]
    for stage in architecture.stages:
        names.append(f"{stage.blocks} x {stage.width}")
    shapes = [operation_shape(name, "tdnn") for name in names]
    skips = [
        (max(p for p in range(place) if rates[p] == rate) + 1, place + 1)
        for place, rate in enumerate(rates)
        if place and rate < rates[place - 1]
    ]
    factor = architecture.factor // rates[-1]
    title = "stages, one frame for " + ", ".join(str(rate * factor) for rate in rates[1:])
    found = [(f"{title} input frames", row_graph(shapes, ("in", "out"), skips))]
    for number, stage in enumerate(architecture.stages, 1):
        modules = [operation_shape(_short(part), _COLOURS[part.kind]) for part in stage.modules]
        found.append((f"block of stage {number}", row_graph(modules, ("x", "x"))))
    return found


def _short(part: Part) -> str:
    if hasattr(part, "merge_kernel"):
        return "attention | cgMLP"
    return part.text().replace("feed-forward", "FF").replace(" without positions", "")
