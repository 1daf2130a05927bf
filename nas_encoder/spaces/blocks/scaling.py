"""Block encoders at other sizes, as their peers' authors make them larger.

**Depth.** Conformer-S and -M (Gulati et al. 2020, table 1) and FastConformer-S and -M have the same
16 blocks of four residual modules. So an encoder gets as many blocks as hold those 64 modules,
self-attention beside cgMLP counted as two, in the proportions of its stages.

**Width.** What makes those M of S is the width alone, all of it by one factor: 176 to 256. So all
widths grow by one factor, in multiples of twice the number of heads, until the number of parameters
is nearest to the one asked for. Expansions, kernels and heads stay.

**Front end.** Its channels stay as they are. Those of ESPnet's and NeMo's Conformer grow with the
width, and the latency with them.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import torch

from nas_encoder.errors import ConfigError
from nas_encoder.genotype import Genotype
from nas_encoder.network.complexity import count_parameters
from nas_encoder.spaces.blocks.architecture import MAX_BLOCKS, BlockArchitecture
from nas_encoder.spaces.blocks.network import build
from nas_encoder.spaces.blocks.parts import Parallel

MODULES = 64
TOLERANCE = 0.1  # of the parameters
_STEP = 8
_WIDEST = 8192


def scale(
    genotype: Genotype, parameters: int, options: Any, blocks: int | None = None
) -> tuple[Genotype, dict[str, int]]:
    """Return the genotype at another size, and the options that build the old one at that size.

    The provenance stays and gets an entry ``scaled``.

    Args:
        genotype: Of this space.
        parameters: Of the encoder, with the rest of ``options``.
        options: Checked options of its networks; their ``channels`` and ``layers`` do not count.
        blocks: In all, instead of the rule's number.

    Raises:
        ConfigError: No width comes within 10 %, or there are more stages than ``blocks``.
    """
    found: BlockArchitecture = genotype.architecture
    depth = depth_of(found) if blocks is None else blocks

    def sized(width: int) -> tuple[BlockArchitecture, int]:
        own = found.scaled(width, depth)
        with torch.device("meta"):
            network = build(
                Genotype(genotype.name, genotype.space, own),
                replace(options, channels=None, layers=None, taps=()),
            )
        return own, count_parameters(network)

    # Each is at least as large as the one before: the least that is large enough, or its neighbour.
    low, high = 1, _WIDEST // _STEP
    while low < high:
        middle = (low + high) // 2
        if sized(_STEP * middle)[1] < parameters:
            low = middle + 1
        else:
            high = middle
    widths = [_STEP * place for place in (low - 1, low) if place]
    width = min(widths, key=lambda own: abs(sized(own)[1] - parameters))
    architecture, count = sized(width)
    if abs(count - parameters) > TOLERANCE * parameters:
        rule = f"no width with {depth} blocks comes within {TOLERANCE:.0%}"
        nearest = f"the nearest, {width}, gives {count:,}"
        raise ConfigError("parameters", [f"{rule}: {nearest}; give another number of blocks"])
    about = {"from": genotype.hash, "parameters": count, "width": width, "blocks": depth}
    provenance = {**genotype.provenance, "scaled": about}
    scaled = Genotype(genotype.name, genotype.space, architecture, provenance)
    return scaled, {"channels": width, "layers": depth}


def depth_of(architecture: BlockArchitecture) -> int:
    """Return the number of blocks that the rule gives."""
    stages = architecture.stages
    count = sum(stage.blocks for stage in stages)
    modules = sum(
        stage.blocks * (2 if isinstance(module, Parallel) else 1)
        for stage in stages
        for module in stage.modules
    )
    depth = round(Fraction(MODULES * count, modules))
    return min(max(depth, len(stages)), MAX_BLOCKS)
