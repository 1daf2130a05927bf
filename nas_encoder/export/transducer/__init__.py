"""Transducers: three graphs, greedy search over them, and the comparison with torch."""
