"""Encoders of genotypes in the NeMo recipes, found by the ESPnet recipes or given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nas_encoder.genotype import Genotype
from tools.experiments.searched import require_names
from tools.nemo_recipes.configs import Choice, choice_of

LIKE, LIKE_SIZED = "nas", "blocks"  # encoders without a size of their own, and with one


def choices_with(
    corpus: str, names: Sequence[str], given: Mapping[str, bool], loss: str
) -> dict[str, Choice]:
    """Return the configurations of encoders by their names.

    Args:
        corpus: Its name in the table.
        names: Those of ``--encoders``.
        given: Names of ``--genotype``, each with whether its space has widths of its own.
        loss: Of the latter.

    Raises:
        ConfigError: A name is unknown, or has two meanings, or there is no encoder at all.
    """
    found = {name: choice_of(corpus, name) for name in names}
    require_names(found, given, "--genotype does not")
    return found | {
        name: Choice(corpus, LIKE_SIZED if sized else LIKE, loss) for name, sized in given.items()
    }


def with_genotype(
    config: Mapping[str, Any], genotype: Genotype, parameters: int | None
) -> dict[str, Any]:
    """Return a configuration with a genotype in its encoder.

    Args:
        config: One of an encoder of ours.
        genotype: Written into it as a whole.
        parameters: Of the encoder; None for the genotype's own size, or the configuration's.

    Raises:
        ConfigError: No size comes near that number.
    """
    import torch

    from nas_encoder import build_encoder
    from nas_encoder.spaces import get_space
    from tools.espnet_recipes.standalone import sized_options

    encoder = dict(config["model"]["encoder"])
    ours = {key: encoder.pop(key) for key in ("_target_", "feat_in")}
    width = encoder.pop("d_model")
    if not get_space(genotype.space).has("scaling"):
        encoder["output_size"] = width
    bins = config["model"]["preprocessor"]["features"]
    options = sized_options(encoder, genotype, bins, parameters)
    with torch.device("meta"):
        width = build_encoder(**options, input_size=bins).output_size
    options.pop("output_size", None)
    encoder = {**ours, **options, "d_model": width}
    return {**config, "model": {**config["model"], "encoder": encoder}}
