"""Gradient-based search: one supernet, one loop, one small file for each strategy.

A strategy (:class:`~nas_encoder.search.gradient.strategies.base.Strategy`) defines how
edges mix their operations, which parameters are updated when, what is pruned between stages and how
a genotype is derived. A new one takes a file here and a line in :mod:`nas_encoder.tables`.
"""
