"""Rules of a toolkit's options that the space can express only in part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import partial
from typing import Any, ClassVar

from nas_encoder.common.fields import Declared, Rule, anything, option
from nas_encoder.common.problems import Problems, show
from nas_encoder.genotype import Genotype
from nas_encoder.spaces.adopted import Adopted
from nas_encoder.spaces.blocks.architecture import BlockArchitecture
from nas_encoder.spaces.blocks.toolkits.weights import Layout, renamed


def only(*allowed: Any, why: str) -> Rule:
    """Allow some values; ``why`` says what the space lacks."""

    def check(value: Any, path: str, problems: Problems) -> Any:
        if any(
            value == item and isinstance(value, bool) == isinstance(item, bool) for item in allowed
        ):
            return value
        words = " or ".join(map(_word, allowed))
        problems.add(path, f"must be {words}, got {_word(value)}: {why}")
        return None

    return check


def _word(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return value if isinstance(value, str) else show(value)


def odd(value: Any, path: str, problems: Problems) -> Any:
    """Allow odd numbers of frames."""
    kept = problems.integer(value, path, 1, 1023)
    if kept is not None and kept % 2 == 0:
        problems.add(path, f"must be odd, got {kept}: an even one shifts the frames")
        return None
    return kept


def ignored(default: Any) -> Any:
    """Declare an option that changes neither the outputs nor the training."""
    return option(default, anything, null=True)


class EncoderOptions(Declared):
    """Options of one of a toolkit's encoders, with its defaults.

    Attributes:
        title: Name of its genotypes.
    """

    title: ClassVar[str]

    @classmethod
    def adopt(cls, options: Mapping[str, Any], subject: str) -> Adopted:
        """Read the encoder as a network of this space.

        Args:
            options: As in the toolkit's configuration.
            subject: Their name in errors.

        Raises:
            ConfigError: The space does not have such an encoder; all options to blame are listed.
        """
        found = cls.from_dict(options, subject)
        architecture = BlockArchitecture.from_dict(found.architecture(), subject)
        genotype = Genotype(cls.title, "blocks", architecture, {"kind": "handwritten"})
        weights = partial(renamed, architecture, found.layout())
        return Adopted(genotype, found.network(), found.notes(), weights)

    @classmethod
    def prepared(cls, document: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return them completed, so that a default that the space lacks is refused too."""
        found = {}
        for item in fields(cls):  # type: ignore[arg-type]
            made = item.default_factory
            found[item.name] = item.default if made is MISSING else made()
        return {**found, **document}

    def architecture(self) -> BlockArchitecture:
        """Return the encoder's architecture."""
        raise NotImplementedError

    def layout(self) -> Layout:
        """Return where its weights are."""
        raise NotImplementedError

    def network(self) -> dict[str, Any]:
        """Return the options of our network."""
        raise NotImplementedError

    def notes(self) -> list[str]:
        """Return what differs, in training only."""
        return []
