"""Gradient-based search: one supernet, one loop, one small file for each strategy.

A strategy (:class:`~nas_encoder.search.gradient.strategies.base.GradientStrategy`) says how edges
mix their operations, which parameters move when, what is pruned between stages and how a genotype
is derived. Adding one is a file here and a line in :mod:`nas_encoder.tables`.
"""
