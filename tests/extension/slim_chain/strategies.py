"""What configurations may ask of the two strategies, and where they are. Imports no torch."""

from __future__ import annotations

from nas_encoder.search.strategies import GRADIENT, TRIALS, Strategy

DECISIVE = Strategy(GRADIENT, "slim_chain.decisive:Decisive")
NO_REPEATS = Strategy(TRIALS, "slim_chain.sampler:no_repeats", objectives=(1, 1))
