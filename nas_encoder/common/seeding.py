"""Reproducible results: seeds, random streams, number of threads."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive_seed(*parts: int) -> int:
    """Return a 32-bit seed that differs for different tuples of non-negative numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators of python, numpy and torch (CPU); restore them afterwards.

    For library code that draws from the global generators, so that the training's own stream is
    not disturbed.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=()):
            random.seed(seed)
            np.random.seed(seed)
            # torch.manual_seed would also seed the GPUs' generators, which are not restored.
            torch.default_generator.manual_seed(seed)
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute in this thread only.

    For work on one utterance: more threads would not be faster, and would change the last bits of
    sums, so that data loader workers (with one thread) would differ from the main process.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
