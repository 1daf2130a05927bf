"""A part of a network that is timed alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class TimedPart:
    """What runs a part of a network on one utterance: ``function(*inputs)``.

    Attributes:
        module: What has its weights, in evaluation mode.
        function: Maps the inputs to a tensor.
        inputs: Random values.
        copies: How many of the part that computes, one after the other.
    """

    module: nn.Module
    function: Callable[..., Any]
    inputs: tuple[Tensor, ...]
    copies: int = 1

    def __call__(self) -> Any:
        """Run it."""
        return self.function(*self.inputs)
