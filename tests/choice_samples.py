"""Short ways to the choices of supernets, for tests."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from nas_encoder.common.choices import Candidates
from nas_encoder.network.ctc import CtcNetwork
from nas_encoder.spaces.cells.config import CellConfig
from nas_encoder.spaces.cells.operations import ASR_REVISED_OPERATIONS, DARTS_OPERATIONS
from nas_encoder.spaces.cells.supernet.mixed import Supernet
from nas_encoder.spaces.cells.supernet.sampled import SampledSupernet
from nas_encoder.spaces.tdnn_chain.space import ChainConfig
from nas_encoder.spaces.tdnn_chain.supernet import ChainSupernet

CELL_SPACE_OPERATIONS = {"darts": DARTS_OPERATIONS, "asr_revised": ASR_REVISED_OPERATIONS}


def all_candidates(space: Any, learned_edges: bool = False) -> Candidates:
    """Return every operation everywhere."""
    found: Candidates = space.first_candidates(learned_edges)
    return found


def ctc_supernet(
    candidates: Candidates,
    config: CellConfig,
    nodes: int,
    vocabulary: int,
    regularized: Container[str] = (),
    kind: type[Any] = Supernet,
) -> CtcNetwork:
    """Return a supernet of cells with a CTC output."""
    return CtcNetwork(kind(candidates, config, nodes, regularized), vocabulary)


def ctc_sampled(
    candidates: Candidates, config: CellConfig, nodes: int, vocabulary: int
) -> CtcNetwork:
    """Return a supernet of cells whose paths are drawn, with a CTC output."""
    return ctc_supernet(candidates, config, nodes, vocabulary, kind=SampledSupernet)


def ctc_chain(candidates: Candidates, config: ChainConfig, vocabulary: int) -> CtcNetwork:
    """Return a supernet of chains with a CTC output."""
    return CtcNetwork(ChainSupernet(candidates, config), vocabulary)
