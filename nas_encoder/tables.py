"""The tables of what can be extended: one line a thing, by its address.

Nothing is imported before it is asked for, so reading a name costs nothing and loads no torch.
"""

from __future__ import annotations

from typing import Any

from nas_encoder.registry import Registry

# Each a nas_encoder.spaces.base.SearchSpace.
SPACES: Registry[Any] = Registry("search space")
SPACES.refer("darts", "nas_encoder.spaces.cells.space:DARTS")
SPACES.refer("asr_revised", "nas_encoder.spaces.cells.space:ASR_REVISED")
SPACES.refer("tdnn_chain", "nas_encoder.spaces.tdnn_chain.space:TDNN_CHAIN")
SPACES.refer("nasbench_asr", "nas_encoder.spaces.nasbench_asr.space:NASBENCH_ASR")
