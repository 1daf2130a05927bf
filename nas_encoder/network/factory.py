"""The only way from a genotype to an ``nn.Module``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from nas_encoder.errors import ProblemsError
from nas_encoder.genotype import Genotype, load_genotype
from nas_encoder.registry import Registry
from nas_encoder.spaces.cells.config import EncoderConfig
from nas_encoder.spaces.cells.network import CellEncoder
from nas_encoder.spaces.cells.operations import CELL_SPACE_OPERATIONS
from nas_encoder.spaces.nasbench_asr.architecture import SPACE as NASBENCH_SPACE
from nas_encoder.spaces.nasbench_asr.config import NasBenchConfig
from nas_encoder.spaces.nasbench_asr.network import NasBenchEncoder
from nas_encoder.spaces.tdnn_chain.config import ChainConfig
from nas_encoder.spaces.tdnn_chain.network import ChainEncoder

Builder = Callable[[Genotype, Mapping[str, Any]], nn.Module]


def _build_cell_encoder(genotype: Genotype, options: Mapping[str, Any]) -> nn.Module:
    config = EncoderConfig.from_dict(options, f"encoder of genotype '{genotype.name}'")
    return CellEncoder(genotype, config)


def _build_chain_encoder(genotype: Genotype, options: Mapping[str, Any]) -> nn.Module:
    blocks = len(genotype.architecture.blocks)
    config = ChainConfig.from_dict(options, blocks, f"encoder of genotype '{genotype.name}'")
    return ChainEncoder(genotype, config)


def _build_nasbench_encoder(genotype: Genotype, options: Mapping[str, Any]) -> nn.Module:
    config = NasBenchConfig.from_dict(options, f"encoder of genotype '{genotype.name}'")
    return NasBenchEncoder(genotype, config)


# space -> builder; each builder checks its own options.
BUILDERS: Registry[Builder] = Registry("network for the search space")
for _space in CELL_SPACE_OPERATIONS:
    BUILDERS.add(_space, _build_cell_encoder)
BUILDERS.add("tdnn_chain", _build_chain_encoder)
BUILDERS.add(NASBENCH_SPACE, _build_nasbench_encoder)


def build_encoder(
    genotype: str | Path | Mapping[str, Any] | Genotype,
    input_size: int = 40,
    channels: int = 24,
    layers: int = 17,
    output_size: int = 512,
    **options: Any,
) -> nn.Module:
    """Build the encoder of a genotype.

    Args:
        genotype: A zoo name, a path, the document as a mapping, or a genotype.
        input_size: F, frequency bins of the features.
        channels: C, initial channels; of a chain, the width of its layers; of NAS-Bench-ASR,
            the filters of its first block.
        layers: L, number of cells; plays no part for a chain, whose genotype has all blocks, and
            for NAS-Bench-ASR (``block_cells``).
        output_size: D, features of an output frame.
        **options: The other fields of :class:`~nas_encoder.spaces.cells.config.EncoderConfig`, of
            :class:`~nas_encoder.spaces.tdnn_chain.config.ChainConfig` or of
            :class:`~nas_encoder.spaces.nasbench_asr.config.NasBenchConfig`.

    Returns:
        A module with ``forward(x (B, T, F), lengths (B,)) -> ((B, ceil(T/S), D), ceil(lengths/S))``
        and the attributes ``output_size``, ``subsampling_factor`` (S) and ``min_length``.

    Raises:
        GenotypeError: The genotype cannot be loaded.
        ConfigError: An option is unknown or breaks its rule; all are listed.
    """
    loaded = load_genotype(genotype)
    return BUILDERS[loaded.space](
        loaded,
        {
            "input_size": input_size,
            "channels": channels,
            "layers": layers,
            "output_size": output_size,
            **options,
        },
    )


def try_build_encoder(
    genotype: str | Path | Mapping[str, Any] | Genotype | None, options: Mapping[str, Any]
) -> tuple[nn.Module | None, list[str], list[str]]:
    """Build an encoder, or say all that is wrong with its genotype and its options.

    Args:
        genotype: As for :func:`build_encoder`; None where it is missing.
        options: Likewise.

    Returns:
        The encoder or None, the problems of the genotype, and those of the options; without a
        genotype these are checked all the same, as those of a cell network.
    """
    loaded, wrong = None, []
    if genotype is not None:
        try:
            loaded = load_genotype(genotype)
        except ProblemsError as error:
            wrong = [f"genotype ({error.subject}): {line}" for line in error.problems]
    try:
        if loaded is not None:
            return build_encoder(loaded, **options), [], []
        EncoderConfig.from_dict(options)
    except ProblemsError as error:
        return None, wrong, list(error.problems)
    return None, wrong, []
