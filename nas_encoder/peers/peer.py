"""What the wrapped encoders of toolkits share.

B batch, T frames, F features of a frame, T' output frames, D output features.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from nas_encoder.common.problems import one_line
from nas_encoder.errors import ConfigError
from nas_encoder.network.tapped import check_inputs
from nas_encoder.ops.masking import is_capturing


class Peer(nn.Module):
    """A toolkit's encoder, called as ours are.

    Args:
        encoder: The toolkit's module.
        input_size: F.
        output_size: D.
        subsampling_factor: Input frames per output frame, about T / T'.
        min_length: The fewest frames of an utterance.
    """

    def __init__(
        self,
        encoder: nn.Module,
        input_size: int,
        output_size: int,
        subsampling_factor: int,
        min_length: int,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.input_size = input_size
        self.output_size = output_size
        self.subsampling_factor = subsampling_factor
        self.min_length = min_length

    def encode(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Call the toolkit's module: (B, T, F), (B,) -> (B, T', D), (B,)."""
        raise NotImplementedError

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encode a padded batch of utterances.

        Args:
            x: (B, T, F) features.
            lengths: (B,) integer, number of valid frames of each utterance.

        Returns:
            (B, T', D) and (B,) output lengths. What padding frames hold, and whether padding
            changes the others, is the toolkit's.

        Raises:
            InputError: A shape or length is wrong, or a valid frame is not finite.
            UtteranceTooShortError: An utterance has fewer than ``min_length`` frames.
        """
        lengths = lengths.to(x.device)
        if not is_capturing():
            check_inputs(x, lengths, self.input_size, self.min_length)
        output, output_lengths = self.encode(x, lengths)
        return output, output_lengths.to(lengths.dtype)

    def lookahead(self) -> int:
        """Return how many input frames after the first of its own an output frame sees at most.

        Counted as for our encoders (:meth:`~nas_encoder.network.tapped.TappedEncoder.lookahead`):
        the first frame of output frame t is S * t, and chunks are part of it.

        Raises:
            ConfigError: The encoder does not stream.
        """
        raise ConfigError("streaming", [f"{type(self.encoder).__name__} sees whole utterances"])

    def chunk(self, frames: int = 0) -> int:
        """Return the input frames of the toolkit's longest chunk of at most ``frames``.

        Its smallest one, if there is none.

        Raises:
            ConfigError: The encoder does not stream.
        """
        self.lookahead()
        raise NotImplementedError

    def stream(self, x: Tensor, frames: int = 0) -> Iterator[Tensor]:
        """Encode an utterance as the toolkit streams it, in evaluation mode.

        Args:
            x: (1, T, F).
            frames: As of :meth:`chunk`.

        Yields:
            The output frames (1, t', D) that come out of each of the toolkit's chunks, t' >= 0.

        Raises:
            ConfigError: The encoder does not stream.
        """
        self.lookahead()
        raise NotImplementedError


def build_with(
    name: str,
    build: Callable[..., nn.Module],
    options: Mapping[str, Any],
    required: Collection[str],
    own: Collection[str] = (),
) -> nn.Module:
    """Call a toolkit's class with options; its complaints become errors of ours.

    Args:
        name: Of the encoder, for errors.
        build: The class.
        options: All its options.
        required: Options without a default, or whose default is of another size.
        own: Further options, which the caller handles.

    Raises:
        ConfigError: An option is unknown, missing or refused.
    """
    known = set(inspect.signature(build).parameters)
    problems = [
        f"{option}: unknown option; known: {', '.join(sorted(known | set(own)))}"
        for option in options
        if option not in known and option not in own
    ]
    problems += [f"{option}: is missing" for option in required if option not in options]
    if problems:
        raise ConfigError(name, problems)
    try:
        return build(**{key: value for key, value in options.items() if key in known})
    except (AssertionError, TypeError, ValueError) as error:
        rule = f"{build.__name__} refuses these options: {one_line(error)}"
        raise ConfigError(name, [rule]) from error
