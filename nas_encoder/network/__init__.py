from nas_encoder.network.factory import build_encoder

__all__ = ["build_encoder"]
