"""Every error that this package raises on bad input.

All derive from :class:`NasEncoderError` (but :class:`StoppedError`, which is no error). An error
about a document (a genotype, a config, a manifest) carries *all* the problems found, each with its
path in the document.
"""

from __future__ import annotations

import copyreg
from collections.abc import Iterable
from typing import Any

_MOST = 100  # problems listed in a message; the exception holds them all


class NasEncoderError(Exception):
    """Base of all errors raised by nas_encoder; ``status`` is the exit status of a command."""

    status = 2

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions cross process borders (data loader workers, spawned ranks). Their own way would
        # call a subclass with the message as its only argument.
        return copyreg.__newobj__, (type(self), *self.args), vars(self)  # type: ignore[attr-defined]


class ProblemsError(NasEncoderError, ValueError):
    """Bad input with one or more problems, reported together.

    Args:
        subject: What was read, for example a file name or ``"genotype 'x'"``.
        problems: One line per problem: place, rule and value.
    """

    def __init__(self, subject: str, problems: Iterable[str]) -> None:
        self.subject = subject
        self.problems: tuple[str, ...] = tuple(problems)
        if len(self.problems) == 1:
            text = f"{subject}: {self.problems[0]}"
        else:
            lines = "".join(f"\n  - {problem}" for problem in self.problems[:_MOST])
            if len(self.problems) > _MOST:
                lines += f"\n  - and {len(self.problems) - _MOST} more"
            text = f"{subject}: {len(self.problems)} problems:{lines}"
        super().__init__(text)


class GenotypeError(ProblemsError):
    """A genotype document breaks the schema or a rule of its space."""


class ConfigError(ProblemsError):
    """An encoder or search configuration is invalid."""


class DataError(ProblemsError):
    """A manifest, an audio file, a transcript or a token list is unusable."""


class CheckpointError(ProblemsError):
    """A checkpoint or a run folder cannot be read, written or resumed."""


class StoppedError(KeyboardInterrupt):
    """A signal stopped a run, which can be resumed. No ``except Exception`` may keep it."""

    def __init__(self, signal_number: int) -> None:
        import signal  # here, as every Hydra application imports this module

        super().__init__(f"stopped by {signal.Signals(signal_number).name}")
        self.signal_number = signal_number
        self.status = 128 + signal_number

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.signal_number,)


class InputError(NasEncoderError, ValueError):
    """A tensor given to a network has a wrong shape, length or value."""


class UtteranceTooShortError(InputError):
    """An utterance has fewer frames (``actual``) than one output frame needs (``limit``)."""

    def __init__(self, message: str, actual: int, limit: int) -> None:
        super().__init__(message)
        self.actual = actual
        self.limit = limit


class RegistryError(NasEncoderError, LookupError):
    """A name is registered twice, or not at all."""


class MissingDependencyError(NasEncoderError, ImportError):
    """An optional dependency is needed and not installed.

    Args:
        package: Name on the package index.
        extra: The extra of this package that installs it.
        purpose: What it is needed for.
        install: What to give pip instead of the extra.
    """

    def __init__(self, package: str, extra: str, purpose: str, install: str | None = None) -> None:
        own = f"'nas_encoder[{extra}]'"
        super().__init__(
            f"{purpose} needs the package '{package}', which is not installed; "
            f"install it with: pip install {install or own}"
        )
        self.package = package
        self.extra = extra
        self.purpose = purpose
