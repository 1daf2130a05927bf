"""What a table is built with: which architectures, how they are trained, scored and measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from nas_encoder.common.documents import read_yaml
from nas_encoder.common.problems import Problems, show
from nas_encoder.common.resources import find_config
from nas_encoder.data import FeatureConfig
from nas_encoder.data.phones import FOLDINGS
from nas_encoder.errors import ConfigError
from nas_encoder.search.config.load import apply_settings
from nas_encoder.spaces import list_spaces

TOKEN_KINDS = ("char", "word", "phone", "syllable")


@dataclass(frozen=True)
class Choice:
    """Which architectures of the space.

    Attributes:
        kind: ``all`` (for a space that can be listed), ``sample`` or ``list``.
        count: Different ones that are drawn.
        seed: Of the draw.
        genotypes: For ``list``: names of the zoo or paths of YAML files.
    """

    kind: str = "sample"
    count: int = 40
    seed: int = 0
    genotypes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """How each architecture is trained; the defaults are those of Mehrotra et al. 2021.

    Attributes:
        epochs: Target numbers of epochs, ascending. The learning rate does not depend on the
            target, so one training to the last of them is a training to each.
        seeds: Of the weights, of the order of the data and of dropout.
        batch: Utterances.
        lr: Of Adam.
        decay: What the rate is multiplied by after each epoch from ``decay_from`` on.
        decay_from: Counted from 1.
        warm_up: For each epoch before the first that counts, the seconds that an utterance may
            have; the published data had 1, 1, 2 and 2.
        grad_clip: Largest norm of the gradient; 0 for no limit.
        l2: Weight of the squared kernels of convolutions in the loss.
    """

    epochs: tuple[int, ...] = (5, 10, 40)
    seeds: tuple[int, ...] = (1234, 1235, 1236)
    batch: int = 64
    lr: float = 1e-4
    decay: float = 0.9
    decay_from: int = 5
    warm_up: tuple[float, ...] = (1.0, 1.0, 2.0, 2.0)
    grad_clip: float = 5.0
    l2: float = 0.0


@dataclass(frozen=True)
class Measuring:
    """How a latency is measured.

    Attributes:
        frames: Of the one utterance.
        threads: Of a CPU.
        repeats: Calls that count, after three that do not.
        statistic: Which of them is the latency: the ``median``, or the fastest (``min``), which
            on a machine that is not at rest is the one that can be repeated.
    """

    frames: int = 300
    threads: int = 1
    repeats: int = 10
    statistic: str = "median"


@dataclass(frozen=True)
class TableConfig:
    """A whole configuration.

    Attributes:
        name: A label.
        space: Any registered search space.
        architectures: Which of it.
        network: Options of :func:`~nas_encoder.network.build_encoder` but the input size.
        features: See :class:`~nas_encoder.data.FeatureConfig`.
        tokens: Kind of the tokens: ``char``, ``word``, ``phone`` or ``syllable``.
        folding: Which tokens count as one in scoring: ``timit39`` or nothing.
        beam: Of the decoding; 1 for greedy.
        recipe: How they are trained.
        latency: How they are measured.
        device: ``auto``, ``cpu`` or ``cuda``.
        note: What a reader of the table should know.
    """

    name: str = "table"
    space: str = "nasbench_asr"
    architectures: Choice = field(default_factory=Choice)
    network: Mapping[str, Any] = field(default_factory=dict)
    features: FeatureConfig = field(default_factory=lambda: FeatureConfig(num_mel_bins=80))
    tokens: str = "phone"
    folding: str | None = None
    beam: int = 12
    recipe: Recipe = field(default_factory=Recipe)
    latency: Measuring = field(default_factory=Measuring)
    device: str = "auto"
    note: str = ""

    @classmethod
    def from_dict(cls, document: Any, subject: str = "config") -> TableConfig:
        """Build it from plain YAML types.

        Raises:
            ConfigError: It lists everything that is wrong.
        """
        problems = Problems()
        known = problems.mapping(document, "", (), [f.name for f in fields(cls)])
        if known is None:
            raise ConfigError(subject, problems.lines)
        values = {key: value for key, value in known.items() if key in _names(cls)}
        for name, section in (
            ("architectures", Choice),
            ("features", FeatureConfig),
            ("recipe", Recipe),
            ("latency", Measuring),
        ):
            given = values.get(name, {})
            checked = problems.mapping(given, name, (), _names(section))
            own = {k: v for k, v in (checked or {}).items() if k in _names(section)}
            own = {k: tuple(v) if isinstance(v, list) else v for k, v in own.items()}
            values[name] = section(**({"num_mel_bins": 80} | own if name == "features" else own))
        config = cls(**values)
        problems.lines += config.problems()
        if problems:
            raise ConfigError(subject, problems.lines)
        return config

    def to_dict(self) -> dict[str, Any]:
        """Return plain types."""
        return _plain(asdict(self))  # type: ignore[no-any-return]

    def problems(self) -> list[str]:
        """Return one line for each rule that is broken, led by the field's name."""
        found = Problems()
        for name, fewest in (("name", 1), ("note", 0)):
            text = getattr(self, name)
            if not isinstance(text, str) or len(text) < fewest:
                found.add(name, f"must be a text, got {show(text)}")
        found.choice(self.space, "space", "search space", list_spaces())
        found.choice(self.tokens, "tokens", "kind of tokens", TOKEN_KINDS)
        if self.folding is not None:
            found.choice(self.folding, "folding", "folding", FOLDINGS)
        found.choice(self.device, "device", "device", ("auto", "cpu", "cuda"))
        found.integer(self.beam, "beam", 1, 1000)
        if not isinstance(self.network, Mapping):
            found.add("network", f"must be a mapping, got {show(self.network)}")
        elif "input_size" in self.network:
            found.add("network.input_size", "is features.num_mel_bins; leave it out")
        choice, recipe, latency = self.architectures, self.recipe, self.latency
        found.choice(choice.kind, "architectures.kind", "kind", ("all", "sample", "list"))
        listed = found.sequence(choice.genotypes, "architectures.genotypes", 0, 10**6) or []
        for place, name in enumerate(listed):
            if not isinstance(name, str):
                found.add(
                    f"architectures.genotypes[{place}]", f"must be a name or path, got {show(name)}"
                )
        if bool(listed) != (choice.kind == "list"):
            found.add("architectures.genotypes", "belongs to the kind 'list' and to no other")
        found.integer(choice.count, "architectures.count", 1, 10**7)
        found.integer(choice.seed, "architectures.seed", 0, 2**63 - 1)
        found.lines += self.features.problems()
        for name, low, high in (("frames", 8, 10**6), ("threads", 1, 1024), ("repeats", 1, 10**6)):
            found.integer(getattr(latency, name), f"latency.{name}", low, high)
        found.choice(latency.statistic, "latency.statistic", "statistic", ("median", "min"))
        for name in ("epochs", "seeds"):
            numbers = found.sequence(getattr(recipe, name), f"recipe.{name}", 1, 64) or []
            low = 1 if name == "epochs" else 0
            for place, number in enumerate(numbers):
                found.integer(number, f"recipe.{name}[{place}]", low, 2**31 - 1)
            if len(set(map(show, numbers))) < len(numbers):
                found.add(f"recipe.{name}", f"lists a number twice: {show(numbers)}")
            elif name == "epochs" and not found and list(numbers) != sorted(numbers):
                found.add("recipe.epochs", f"must ascend, got {show(numbers)}")
        found.integer(recipe.batch, "recipe.batch", 1, 10**6)
        found.integer(recipe.decay_from, "recipe.decay_from", 1, 10**6)
        for name, low_, high_ in (
            ("lr", 0.0, 10.0), ("decay", 0.0, 1.0), ("grad_clip", 0.0, 1e9), ("l2", 0.0, 1e9),
        ):  # fmt: skip
            _number(getattr(recipe, name), f"recipe.{name}", low_, high_, found)
        seconds = found.sequence(recipe.warm_up, "recipe.warm_up", 0, 1000) or []
        for place, value in enumerate(seconds):
            _number(value, f"recipe.warm_up[{place}]", 0.01, 3600.0, found)
        return found.lines


def load_table_config(name_or_path: str | Path, settings: Sequence[str] = ()) -> TableConfig:
    """Read a shipped configuration or a file, with ``key=value`` settings on top.

    Args:
        name_or_path: For example ``"nasbench_asr_timit"`` or ``"my/table.yaml"``.
        settings: For example ``"recipe.batch=16"``.

    Raises:
        ConfigError: It lists everything that is wrong.
    """
    path = find_config(name_or_path, "table")
    document = read_yaml(path, ConfigError)
    apply_settings(document, settings)
    return TableConfig.from_dict(document, f"config {path.name}")


def _names(section: type[Any]) -> list[str]:
    return [f.name for f in fields(section)]


def _number(value: object, path: str, low: float, high: float, found: Problems) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        found.add(path, f"must be a number in {low:g}..{high:g}, got {show(value)}")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
