"""NeMo's neural types of what goes into our encoders and comes out, caches of streams included."""

from __future__ import annotations

from nemo.core.neural_types import (
    AcousticEncodedRepresentation,
    BoolType,
    ChannelType,
    LengthsType,
    NeuralType,
    SpectrogramType,
)

CACHES = ("cache_last_channel", "cache_last_time", "cache_last_channel_len")


def input_types() -> dict[str, NeuralType]:
    """Return the neural types of the inputs of ``forward``."""
    channels, times, lengths = _cache_types()
    return {
        "audio_signal": NeuralType(("B", "D", "T"), SpectrogramType()),
        "length": NeuralType(tuple("B"), LengthsType()),
        "cache_last_channel": channels,
        "cache_last_time": times,
        "cache_last_channel_len": lengths,
        "bypass_pre_encode": NeuralType((), BoolType(), optional=True),
    }


def output_types() -> dict[str, NeuralType]:
    """Return the neural types of the outputs of ``forward``."""
    channels, times, lengths = _cache_types()
    return {
        "outputs": NeuralType(("B", "D", "T"), AcousticEncodedRepresentation()),
        "encoded_lengths": NeuralType(tuple("B"), LengthsType()),
        "cache_last_channel_next": channels,
        "cache_last_time_next": times,
        "cache_last_channel_next_len": lengths,
    }


def cache_types() -> dict[str, NeuralType]:
    """Return the neural types of the caches."""
    return dict(zip(CACHES, _cache_types(), strict=True))


def _cache_types() -> tuple[NeuralType, NeuralType, NeuralType]:
    return (
        NeuralType(("D", "B", "T", "D"), ChannelType(), optional=True),
        NeuralType(("D", "B", "D", "T"), ChannelType(), optional=True),
        NeuralType(tuple("B"), LengthsType(), optional=True),
    )


def graph_types(caches: dict[str, NeuralType]) -> dict[str, NeuralType]:
    """Return the neural types of a graph's inputs, in which only the batch has any size.

    Args:
        caches: Those of the caches.
    """
    fixed = {
        name: NeuralType(("B", *("D" for _ in kind.axes[1:])), kind.elements_type)
        for name, kind in caches.items()
    }
    return {
        "audio_signal": NeuralType(("B", "D", "D"), SpectrogramType()),
        "length": NeuralType(tuple("B"), LengthsType()),
        **fixed,
    }
