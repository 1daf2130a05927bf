"""Builds a network from ``encoder_conf`` and reports all its problems together.

The outputs that InterCTC uses are ESPnet's ``interctc_layer_idx`` and our networks' ``taps``; the
user reads and writes only ESPnet's names.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from nas_encoder.baselines import build_baseline
from nas_encoder.errors import ConfigError, ProblemsError
from nas_encoder.genotype import list_genotypes
from nas_encoder.network.factory import try_build_encoder

TAPS, CONDITIONING = "interctc_layer_idx", "interctc_use_conditioning"
_WORDS = {"taps": TAPS, "conditioning": CONDITIONING}


def build_nas(
    input_size: int, genotype: Any, taps: Any, conditioning: Any, options: Mapping[str, Any]
) -> nn.Module:
    """Build the network of ``encoder: nas``.

    Args:
        input_size: F, features of a frame.
        genotype: A zoo name, a path or the inline mapping.
        taps: ``interctc_layer_idx``.
        conditioning: ``interctc_use_conditioning``.
        options: The rest of ``encoder_conf``.

    Raises:
        ConfigError: Lists all problems of the genotype and the options.
    """
    own, found = _own_words(options)
    own |= {"input_size": input_size, "taps": _as_list(taps), "conditioning": conditioning}
    if genotype is None:
        found.append(
            "genotype: is missing; give a name of the zoo "
            f"({', '.join(list_genotypes())}), the path of a YAML file, or the document itself"
        )
    network, of_genotype, of_options = try_build_encoder(genotype, own, _WORDS)
    found += [*of_genotype, *of_options]
    if network is not None and not found:
        return network
    raise ConfigError("encoder_conf of 'nas'", found)


def build_baseline_network(
    name: str, input_size: int, taps: Any, conditioning: Any, options: Mapping[str, Any]
) -> nn.Module:
    """Build the network of ``encoder: <name>``; other arguments and errors as :func:`build_nas`."""
    own, found = _own_words(options)
    own |= {"input_size": input_size, "taps": _as_list(taps)}
    if not isinstance(conditioning, bool):
        found.append(f"{CONDITIONING}: must be true or false, got {conditioning!r}")
    elif conditioning and not own["taps"]:
        found.append(f"{CONDITIONING}: needs at least one block in '{TAPS}'")
    try:
        network = build_baseline(name, own, _WORDS)
    except ProblemsError as error:
        found += error.problems
    if found:
        raise ConfigError(f"encoder_conf of '{name}'", found)
    return network


def signature(options: Mapping[str, Any], *first: inspect.Parameter) -> inspect.Signature:
    """Return a constructor's signature that names the options.

    ESPnet (``--print_config``), ``help()`` and editors read the options and their defaults from
    it, so the fields are declared only once.

    Args:
        options: Our options with their defaults, including ``input_size`` and ``taps``.
        *first: Parameters between ``input_size`` and the options.
    """
    parameters = [
        inspect.Parameter("input_size", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=int),
        *first,
    ]
    parameters += [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
        for name, default in options.items()
        if name != "input_size" and name not in _WORDS
    ]
    for name, default in ((TAPS, ()), (CONDITIONING, False)):
        parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default))
    return inspect.Signature(parameters)


def _own_words(options: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Split off the options that users may not set under our internal names."""
    found = [f"{name}: is called {_WORDS[name]} in ESPnet" for name in options if name in _WORDS]
    return {name: value for name, value in options.items() if name not in _WORDS}, found


def _as_list(taps: Any) -> Any:
    return list(taps) if isinstance(taps, (list, tuple)) else [] if taps is None else taps
