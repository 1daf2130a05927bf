"""Builds a network from the ``encoder`` block of a NeMo config.

Overriding only
``model.encoder._target_`` leaves the replaced encoder's options in the block; each is ignored with
a warning. What looks like a misspelled option of ours is an error.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from nas_encoder.baselines import options_of, try_build
from nas_encoder.common.problems import is_integer
from nas_encoder.errors import ConfigError
from nas_encoder.tables import NAS, encoder_targets

DEFAULT_GENOTYPE = "asrnet_b"
DEFAULT_FEATURES = 80
NEMO_WORDS = {"input_size": "feat_in", "output_size": "d_model"}
# Set from the model's ``interctc`` block, or without counterpart in NeMo.
_NOT_OPTIONS = {
    "taps": "is not an option in NeMo; InterCTC is configured by model.interctc",
    "conditioning": "self-conditioned CTC does not exist in NeMo",
}
# Leftovers of NeMo's own encoders that we do use.
_USED = {"jasper": "filters of its last block", "feat_out": "width", "frame_splicing": "factor"}
_OURS = {
    "n_layers": "'layers'",
    "subsampling_factor": "'stem_stride', of blocks the front end's 'factor' in the genotype",
    "conv_channels": "'channels'",
    "att_context_size": "'lookaheads'",
    "att_context_probs": "'lookahead_probs'",
}


def build_network(kind: str, options: Mapping[str, Any]) -> tuple[Any, list[str]]:
    """Build the network of an encoder.

    Args:
        kind: ``nas`` or a baseline.
        options: The ``encoder`` block without ``_target_``, as plain types.

    Returns:
        The network, and a warning for each leftover of another encoder.

    Raises:
        ConfigError: Lists all problems of the genotype and the options.
    """
    known = nemo_options(kind)
    own, warnings, found = split(options, known)
    if "genotype" in known and own.get("genotype") is None:
        own["genotype"] = DEFAULT_GENOTYPE
    network, problems = try_build(kind, own, NEMO_WORDS)
    found += problems
    if found or network is None:
        raise ConfigError(f"encoder config of {encoder_targets()[kind]}", found)
    return network, warnings


def split(
    options: Mapping[str, Any], known: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str], list[str]]:
    """Divide an ``encoder`` block.

    Returns:
        Our options under our names, a warning for each leftover, and a problem for each mistake.
    """
    names = option_names(known)
    own: dict[str, Any] = {}
    warnings, problems = [], []
    for name, value in options.items():
        if name in names:
            own[name] = value
        elif name in _NOT_OPTIONS:
            problems.append(f"{name}: {_NOT_OPTIONS[name]}")
        elif name in NEMO_WORDS:
            problems.append(f"{name}: is called {NEMO_WORDS[name]} in NeMo")
        elif name not in foreign_options() and (
            guess := difflib.get_close_matches(name, names, n=1, cutoff=0.75)
        ):
            problems.append(f"{name}: unknown option, did you mean '{guess[0]}'?")
        else:
            warnings.append(_leftover(name))
    # Leftovers of another encoder may say what the rest of the model expects.
    own.pop("d_model", None)
    if (size := width(options)) is not None:
        own["output_size"] = size
    own["input_size"] = size = own.pop("feat_in", DEFAULT_FEATURES)
    splicing = 1 if "frame_splicing" in names else options.get("frame_splicing")
    if is_integer(splicing, 1) and is_integer(size, 1):
        own["input_size"] = size * splicing
    return own, warnings, problems


def width(options: Mapping[str, Any]) -> Any:
    """Return D, the width of the output; None for the network's default.

    It is ``d_model``, unless a leftover of the replaced encoder says that the decoder expects
    another width (``feat_out`` of NeMo's Conformer, the ``filters`` of the last block of its
    convolutional encoders).
    """
    if is_integer(options.get("feat_out"), 1):
        return options["feat_out"]
    if options.get("d_model") is not None:
        return options["d_model"]
    blocks = options.get("jasper")
    if isinstance(blocks, (list, tuple)) and blocks and isinstance(blocks[-1], Mapping):
        filters = blocks[-1].get("filters")
        if is_integer(filters, 1):
            return filters
    return None


def widths(options: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``d_model``, and ``feat_in`` if it is not given."""
    missing = {} if "feat_in" in options else {"feat_in": DEFAULT_FEATURES}
    size = width(options)
    return {"d_model": known["output_size"] if size is None else size, **missing}


def nemo_options(kind: str) -> dict[str, Any]:
    """Return our options with their defaults; of ``nas``, also those that some spaces refuse."""
    genotype = {"genotype": DEFAULT_GENOTYPE} if kind == NAS else {}
    return genotype | options_of(kind)


def option_names(known: Iterable[str]) -> list[str]:
    """Return NeMo's names of our options."""
    return [NEMO_WORDS.get(name, name) for name in known if name not in _NOT_OPTIONS]


@lru_cache(maxsize=1)
def foreign_options() -> frozenset[str]:
    """Return the names of all options of the installed NeMo's encoders."""
    from nemo.collections.asr import modules

    return frozenset(
        name
        for cls in vars(modules).values()
        if inspect.isclass(cls) and "Encoder" in cls.__name__
        for name in inspect.signature(cls.__init__).parameters
    ) - {"self", "args", "kwargs"}


def signature(known: Mapping[str, Any]) -> inspect.Signature:
    """Return a constructor's signature that names our options; ``help()`` shows it."""
    defaults = {NEMO_WORDS.get(name, name): default for name, default in known.items()}
    defaults["feat_in"] = DEFAULT_FEATURES
    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults[name])
        for name in option_names(known)
    ]
    parameters.append(inspect.Parameter("leftovers", inspect.Parameter.VAR_KEYWORD))
    return inspect.Signature(parameters)


def _leftover(name: str) -> str:
    text = f"encoder.{name}: not an option of this encoder, ignored"
    if name in _USED:
        text += f" but for the {_USED[name]}"
    elif name in _OURS:
        text += f" (here it is {_OURS[name]})"
    return f"{text}; delete it from the config (~model.encoder.{name}) if it is a leftover"
