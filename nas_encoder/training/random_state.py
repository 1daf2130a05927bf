"""The random generators of a training: their state, and the seeds of its parts."""

from __future__ import annotations

from typing import Any

import torch

from nas_encoder.common.seeding import derive_seed


def part_seed(seed: int, part: int, rank: int = 0) -> int:
    """Return the seed of a stage or an epoch, different in each process."""
    return derive_seed(seed, part, rank) if rank else seed * 1000 + part


def random_state() -> dict[str, Any]:
    """Return the state of torch's generators, the only ones a training draws from."""
    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()  # of this process' device
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Restore what :func:`random_state` returned."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
