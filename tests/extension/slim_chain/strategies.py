"""The two strategies: where they are, and what configurations may ask of them. No torch."""

from __future__ import annotations

from nas_encoder.search.strategies import GRADIENT, TRIALS, Strategy

DECISIVE = Strategy(GRADIENT, "slim_chain.decisive:Decisive")
NO_REPEATS = Strategy(TRIALS, "slim_chain.sampler:no_repeats", objectives=(1, 1))
