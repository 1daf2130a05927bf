"""An encoder to export that is in no toolkit's model: a genotype and a file of weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nas_encoder.common.documents import parse_yaml
from nas_encoder.errors import CheckpointError, ConfigError
from nas_encoder.genotype import load_genotype
from nas_encoder.interchange.files import load_tensors
from nas_encoder.interchange.model import Encoder, Model, take
from nas_encoder.network import build_encoder
from nas_encoder.tables import NAS

# How the encoder's tensors may be called: in models of the toolkits, in those of searches, alone.
_PREFIXES = ("encoder.network.", "network.", "encoder.", "")


def encoder_model(genotype: str, weights: Path, settings: list[str]) -> Model:
    """Return the model of an encoder alone.

    Args:
        genotype: A zoo name or a file.
        weights: What torch.save wrote; only tensors are read.
        settings: ``KEY=VALUE``, options of :func:`~nas_encoder.network.build_encoder`.

    Raises:
        ProblemsError: Something cannot be read, or weights and network do not fit.
    """
    options: dict[str, Any] = {"genotype": load_genotype(genotype).to_dict()}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key or key == "genotype":
            raise ConfigError("--set", [f"must be KEY=VALUE, got {setting!r}"])
        options[key] = parse_yaml(value, f"--set {key}", ConfigError)
    given = dict(options)
    network: Any = build_encoder(given.pop("genotype"), **given)
    options.setdefault("input_size", network.input_size)
    options.setdefault("output_size", network.output_size)
    state = load_tensors(weights, str(weights))
    prefix = next(one for one in _PREFIXES if any(name.startswith(one) for name in state))
    own = {f"network.{name}": value for name, value in take(state, prefix).items()}
    model = Model(str(weights), "nemo", Encoder(NAS, options, own))
    problems = model.encoder.problems()
    if problems:
        raise CheckpointError(str(weights), problems)
    return model
