"""The only way from a genotype to an ``nn.Module``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas_encoder.errors import ProblemsError
from nas_encoder.genotype import Genotype, load_genotype
from nas_encoder.spaces import SPACES, SearchSpace, get_space
from nas_encoder.spaces.options import NetworkOptions

if TYPE_CHECKING:
    from torch import nn


def build_encoder(
    genotype: str | Path | Mapping[str, Any] | Genotype,
    input_size: int | None = None,
    channels: int | None = None,
    layers: int | None = None,
    output_size: int | None = None,
    **options: Any,
) -> nn.Module:
    """Build the encoder of a genotype.

    Args:
        genotype: A zoo name, a path, the document as a mapping, or a genotype.
        input_size: F, frequency bins of the features; None for 40, of a block encoder for 80.
        channels: C, initial channels; of a chain, the width of its layers; of NAS-Bench-ASR,
            the filters of its first block; None for 24. Of a block encoder, the width of its
            widest stage; None for the genotype's.
        layers: L, number of cells; None for 17; ignored for a chain, whose genotype lists all
            blocks, and for NAS-Bench-ASR (``block_cells``). Of a block encoder, its blocks; None
            for the genotype's.
        output_size: D, features of an output frame; None for 512, of a block encoder for the
            width of its last stage.
        **options: The other fields of the space's ``options``, for example
            :class:`~nas_encoder.spaces.cells.config.CellConfig`.

    Returns:
        A module with ``forward(x (B, T, F), lengths (B,)) -> ((B, ceil(T/S), D), ceil(lengths/S))``
        and the attributes ``output_size``, ``subsampling_factor`` (S) and ``min_length``.

    Raises:
        GenotypeError: The genotype cannot be loaded.
        ConfigError: An option is unknown or breaks its rule; all are listed.
    """
    given = {
        "input_size": input_size,
        "channels": channels,
        "layers": layers,
        "output_size": output_size,
    }
    sizes = {name: value for name, value in given.items() if value is not None}
    return _build(load_genotype(genotype), {**sizes, **options})


def _build(
    genotype: Genotype, options: Mapping[str, Any], words: Mapping[str, str] | None = None
) -> nn.Module:
    space, subject = get_space(genotype.space), f"encoder of genotype '{genotype.name}'"
    config = read_options(space, options, subject, words, genotype.architecture)
    return space.network.build(genotype, config)


def read_options(
    space: SearchSpace,
    options: Mapping[str, Any],
    subject: str = "encoder",
    words: Mapping[str, str] | None = None,
    architecture: Any = None,
) -> NetworkOptions:
    """Return the options of networks as :func:`build_encoder` reads them, with its defaults.

    A network's own ``config`` can hold what its genotype decides instead, such as the output size.

    Args:
        space: The space of the networks.
        options: The arguments of :func:`build_encoder`.
        subject: Their name in errors.
        words: The user's names of options, where they differ.
        architecture: What a network is built of, if known, to check that the options fit it.

    Raises:
        ConfigError: A key is unknown or a value breaks its rule; all are listed.
    """
    given = {"input_size": space.bins, **space.sizes, **options}
    found: NetworkOptions = space.options.from_dict(given, subject, words, architecture)
    return found


def try_build_encoder(
    options: Mapping[str, Any], words: Mapping[str, str]
) -> tuple[nn.Module | None, list[str]]:
    """Build an encoder, or return all problems of its genotype and its options.

    Args:
        options: The arguments of :func:`build_encoder`; the ``genotype`` may be missing.
        words: The user's names of options, where they differ.

    Returns:
        The encoder or None, and the problems of the genotype and the options; without a
        genotype these are still checked, as options of the first space's networks.
    """
    options = dict(options)
    genotype, loaded, wrong = options.pop("genotype", None), None, []
    if genotype is not None:
        try:
            loaded = load_genotype(genotype)
        except ProblemsError as error:
            wrong = [f"genotype ({error.subject}): {line}" for line in error.problems]
    try:
        if loaded is not None:
            return _build(loaded, options, words), []
        next(iter(SPACES.values())).options.from_dict(options, words=words)
    except ProblemsError as error:
        wrong += error.problems
    return None, wrong
