"""Builds a network from ``encoder_conf`` and reports all its problems together.

The outputs that InterCTC uses are ESPnet's ``interctc_layer_idx`` and our networks' ``taps``; the
user reads and writes only ESPnet's names.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import NoneType
from typing import Any

from nas_encoder.baselines import try_build
from nas_encoder.errors import ConfigError
from nas_encoder.espnet.streaming import block_options, check_blocks
from nas_encoder.genotype import list_genotypes
from nas_encoder.tables import NAS

TAPS, CONDITIONING = "interctc_layer_idx", "interctc_use_conditioning"
_WORDS = {"taps": TAPS, "conditioning": CONDITIONING}
_HIDDEN = {"input_size": ""}  # ESPnet passes it


def build_network(
    kind: str, input_size: int, taps: Any, conditioning: Any, options: Mapping[str, Any]
) -> Any:
    """Build the network of ``encoder: <kind>``.

    Args:
        kind: ``nas`` or a baseline.
        input_size: F, features of a frame.
        taps: ``interctc_layer_idx``.
        conditioning: ``interctc_use_conditioning``.
        options: The rest of ``encoder_conf``.

    Raises:
        ConfigError: Lists all problems of the genotype and the options.
    """
    found = [f"{name}: is called {_WORDS[name]} in ESPnet" for name in options if name in _WORDS]
    blocks = {name: options.get(name) for name in block_options(kind)}
    own = {name: v for name, v in options.items() if name not in _WORDS and name not in blocks}
    own["input_size"] = input_size
    own["taps"] = list(taps or ()) if isinstance(taps, (list, tuple, NoneType)) else taps
    if kind == NAS:
        own["conditioning"] = conditioning
        if own.get("genotype") is None:
            found.append(
                "genotype: is missing; give a name of the zoo "
                f"({', '.join(list_genotypes())}), the path of a YAML file, or the document itself"
            )
    elif not isinstance(conditioning, bool):
        found.append(f"{CONDITIONING}: must be true or false, got {conditioning!r}")
    elif conditioning and not own["taps"]:
        found.append(f"{CONDITIONING}: needs at least one block in '{TAPS}'")
    network, problems = try_build(kind, own, _WORDS | _HIDDEN)
    found += problems
    if network is not None:
        found += check_blocks(kind, network, blocks)
    if network is None or found:
        raise ConfigError(f"encoder_conf of '{kind}'", found)
    return network


def signature(
    kind: str, options: Mapping[str, Any], *first: inspect.Parameter
) -> inspect.Signature:
    """Return a constructor's signature: ``input_size``, the parameters ``first``, the options.

    ESPnet (``--print_config``), ``help()`` and editors read the options and their defaults there.
    """
    named = {name: value for name, value in options.items() if name not in _WORDS}
    del named["input_size"]
    named |= {TAPS: (), CONDITIONING: False, **dict.fromkeys(block_options(kind))}
    return inspect.Signature(
        [
            inspect.Parameter(
                "input_size", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=int
            ),
            *first,
            *(
                inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
                for name, default in named.items()
            ),
        ]
    )
