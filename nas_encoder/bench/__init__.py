"""Benchmarks of whole encoders side by side: ours, the toolkits' own, exported files."""
