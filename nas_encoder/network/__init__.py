"""Genotypes as networks: :func:`build_encoder` is the only way from one to the other."""

from nas_encoder.network.factory import build_encoder

__all__ = ["build_encoder"]
