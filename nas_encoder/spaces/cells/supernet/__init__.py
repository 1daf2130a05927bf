"""The supernets of the 2-D cell spaces: for mixtures and for sampled paths."""

from __future__ import annotations

from collections.abc import Container

from nas_encoder.common.choices import Candidates
from nas_encoder.spaces.cells.config import CellConfig
from nas_encoder.spaces.cells.space import CellSpace
from nas_encoder.spaces.cells.supernet.base import CellSupernet
from nas_encoder.spaces.cells.supernet.mixed import Supernet
from nas_encoder.spaces.cells.supernet.sampled import SampledSupernet


def build(
    space: CellSpace,
    candidates: Candidates,
    config: CellConfig,
    regularized: Container[str],
    sampled: bool,
) -> CellSupernet:
    """Build a supernet; its ``weights`` are those of mixtures, or sampled paths."""
    supernet = SampledSupernet if sampled else Supernet
    return supernet(candidates, config, space.nodes, regularized)
