"""Supernets of cells: all operations at once, merged or folded for speed, or sampled paths."""
