"""Gradient-based search: one supernet, one loop, one small file for each strategy.

A strategy (:class:`~nas_encoder.search.gradient.strategies.base.GradientStrategy`) says how edges
mix their operations, which parameters move when, what is pruned between stages and how a genotype
is derived. Adding one is a file here and a line in the table below.
"""

from __future__ import annotations

from nas_encoder.registry import Registry
from nas_encoder.search.gradient.strategies.base import GradientStrategy
from nas_encoder.search.gradient.strategies.darts import Darts
from nas_encoder.search.gradient.strategies.pdarts import PDarts
from nas_encoder.search.gradient.strategies.stnas import STNas

STRATEGIES: Registry[type[GradientStrategy]] = Registry("strategy")
STRATEGIES.add("pdarts", PDarts)
STRATEGIES.add("darts", Darts)
STRATEGIES.add("stnas", STNas)

__all__ = ["STRATEGIES", "Darts", "GradientStrategy", "PDarts", "STNas"]
