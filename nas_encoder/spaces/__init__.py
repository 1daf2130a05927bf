"""Search spaces: what may be chosen, sampled and mutated. This folder imports no torch.

One file a space, and one line in the table below.
"""

from __future__ import annotations

from nas_encoder.registry import Registry
from nas_encoder.spaces import asr_revised, darts, nasbench_asr, tdnn_chain
from nas_encoder.spaces.base import EnumerableSpace, SearchSpace
from nas_encoder.spaces.cells import CellSpace
from nas_encoder.spaces.chain import ChainSpace
from nas_encoder.spaces.nasbench_asr import NasBenchSpace

SPACES: Registry[SearchSpace] = Registry("search space")
SPACES.add(darts.SPACE.name, darts.SPACE)
SPACES.add(asr_revised.SPACE.name, asr_revised.SPACE)
SPACES.add(tdnn_chain.SPACE.name, tdnn_chain.SPACE)
SPACES.add(nasbench_asr.SPACE.name, nasbench_asr.SPACE)


def get_space(name: str) -> SearchSpace:
    """Return the space of that name.

    Raises:
        RegistryError: There is none; the message lists the known ones.
    """
    return SPACES[name]


def list_spaces() -> list[str]:
    """Return the names of all spaces."""
    return list(SPACES)


__all__ = [
    "SPACES",
    "CellSpace",
    "ChainSpace",
    "EnumerableSpace",
    "NasBenchSpace",
    "SearchSpace",
    "get_space",
    "list_spaces",
]
