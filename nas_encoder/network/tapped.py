"""What all encoders of this package share: input checks, intermediate outputs, streaming.

B batch, T frames, t frames of a chunk, F frequency bins, D output features, S subsampling factor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from nas_encoder.common.receptive_field import ReceptiveField
from nas_encoder.errors import ConfigError, InputError, UtteranceTooShortError
from nas_encoder.network import windowed
from nas_encoder.network.complexity import count_parameters
from nas_encoder.network.streaming import Chunk, StreamState, check_chunk, ends_after
from nas_encoder.ops.masking import is_capturing, reduced_lengths

Condition = Callable[[Tensor], Tensor]


@dataclass
class Taps:
    """The intermediate outputs of one forward pass.

    Attributes:
        wanted: Numbers, from 1, of the parts of the network after which an output is taken.
        condition: Returns what is fed back at each of them; or None.
        found: The numbers and outputs (B, T', D) so far.
    """

    wanted: Sequence[int] = ()
    condition: Condition | None = None
    found: list[tuple[int, Tensor]] = field(default_factory=list)

    def take(self, number: int, output: Callable[[], Tensor]) -> Tensor | None:
        """Take the output after a part if it is wanted; return what is fed back, if anything."""
        if number not in self.wanted:
            return None
        self.found.append((number, output()))
        return None if self.condition is None else self.condition(self.found[-1][1])


class TappedEncoder(nn.Module):
    """An encoder whose ``encode`` takes checked features.

    Attributes:
        config: Its options, among them ``taps``.
        input_size: F.
        output_size: D, features of an output frame.
        subsampling_factor: S, input frames per output frame.
        min_length: The fewest frames that an utterance may have.
        possible_taps: Numbers, from 1, of the parts after which an intermediate output can be
            taken.
        graphs_are_padded: Whether recorded graphs assume padding; they must not depend on whether
            a batch happens to be padded.
        lookaheads: Of which one can be selected, and others are drawn in training; empty if there
            is one.
        selected: Which of them holds.
        takes_choices: Whether it is a supernet, whose ``forward`` and ``encode`` also take its
            choices and the dropout probability.
        encode: Called with (B, T, F), checked; lengths (B,), or None if no utterance is padded;
            the :class:`Taps`, to be asked after each part of the network; and the choices. It
            returns (B, T', D), T' = output_lengths(T), in most encoders ceil(T / S).
    """

    graphs_are_padded = True
    takes_choices = False
    lookaheads: tuple[int, ...] = ()
    selected = 0
    config: Any
    possible_taps: tuple[int, ...]
    encode: Callable[..., Tensor]

    def __init__(self, config: Any, subsampling_factor: int | None = None) -> None:
        super().__init__()
        self.config = config
        self.conditioning = bool(getattr(config, "conditioning", True))
        self.input_size = int(config.input_size)
        self.output_size = int(config.output_size)
        self.subsampling_factor = int(subsampling_factor or config.subsampling_factor)
        self.min_length = self.subsampling_factor
        self._field: ReceptiveField | None = None  # once it is known

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Return the output frames of utterances of (B,) ``lengths`` frames."""
        return reduced_lengths(lengths, self.subsampling_factor)

    def forward(self, x: Tensor, lengths: Tensor, *choices: Any) -> tuple[Tensor, Tensor]:
        """Encode a padded batch of utterances.

        Args:
            x: (B, T, F) features; values in padding frames are ignored.
            lengths: (B,) integer, number of valid frames of each utterance.
            *choices: For a supernet only; see its class.

        Returns:
            (B, T', D), zero in padding frames, and (B,) :meth:`output_lengths`, in most encoders
            ceil(lengths / S).

        Raises:
            InputError: A shape or length is wrong, or a valid frame is not finite (checked in
                eager execution, not in compiled or exported graphs).
            UtteranceTooShortError: An utterance has fewer than ``min_length`` frames.
        """
        output, output_lengths, _ = self.forward_taps(x, lengths, None, (), *choices)
        return output, output_lengths

    def forward_taps(
        self,
        x: Tensor,
        lengths: Tensor,
        condition: Condition | None = None,
        taps: Sequence[int] | None = None,
        *choices: Any,
    ) -> tuple[Tensor, Tensor, list[tuple[int, Tensor]]]:
        """Encode, returning intermediate outputs too.

        Args:
            x: (B, T, F), as in :meth:`forward`.
            lengths: (B,), as in :meth:`forward`.
            condition: Called at every tap with its (B, T', D); the returned (B, T', D) is fed
                back into the network there (self-conditioned CTC, Nozaki and Komatsu 2021); not
                called if ``config.conditioning`` is off.
            taps: Some of ``possible_taps``; None for ``config.taps``.
            *choices: As in :meth:`forward`.

        Returns:
            As :meth:`forward`, and a list of (number from 1, (B, T', D)); a tap goes through the
            same last layers as the final output.

        Raises:
            InputError: As :meth:`forward`.
            UtteranceTooShortError: As :meth:`forward`.
        """
        lengths = lengths.to(x.device)
        if is_capturing():
            padded = self.graphs_are_padded
        else:
            padded = check_inputs(x, lengths, self.input_size, self.min_length)
        record = Taps(
            self.config.taps if taps is None else tuple(taps),
            condition if self.conditioning else None,
        )
        output = self.encode(x, lengths if padded else None, record, *choices)
        return output, self.output_lengths(lengths), record.found

    def field(self) -> ReceptiveField:
        """Return what an output frame depends on at most, exactly.

        Raises:
            ConfigError: It sees the whole utterance; what does so is named.
        """
        rule = "has no streaming form; it must say what its frames depend on (TappedEncoder.field)"
        raise ConfigError("streaming", [f"{type(self).__name__} {rule}"])

    def fields(self) -> list[ReceptiveField]:
        """Return :meth:`field` with each of :attr:`lookaheads`, or the only one."""
        return [self.field()]

    def select_lookahead(self, ahead: int) -> None:
        """Select one of :attr:`lookaheads`.

        Raises:
            ConfigError: It is none of them.
        """
        known = ", ".join(map(str, self.lookaheads))
        rule = f"must be one of {known}" if known else "cannot be selected: there is only one"
        remedy = "" if known else "; train with the option 'lookaheads' of block encoders"
        raise ConfigError("lookahead", [f"{rule}, got {ahead!r}{remedy}"])

    # No property: recording a graph reads all properties, and this may raise.
    def lookahead(self) -> int:
        """Return how many input frames after the first of its own an output frame sees at most.

        Raises:
            ConfigError: The encoder does not stream; what sees the whole utterance is named.
        """
        return self._seen().right

    def _selected(self) -> int | None:
        return self.lookaheads[self.selected] if self.lookaheads else None

    @property
    def period(self) -> int | None:
        """After how many input frames the network treats frames alike; None if it never does."""
        return self.subsampling_factor

    def _seen(self) -> ReceptiveField:
        if self._field is None:
            self._field = self.field()
        return self._field

    def initial_state(self, batch: int) -> StreamState:
        """Return the state of B streams before their first frames.

        Raises:
            ConfigError: The encoder does not stream; what sees the whole utterance is named.
            InputError: There is no stream.
        """
        if batch < 1:
            raise InputError(f"batch must be at least 1, got {batch}")
        like = next(own for own in self.parameters() if own.is_floating_point()).detach()
        caches, cycle = self.initial_caches(batch, like), None
        if (period := self.period) is not None:
            # Nothing that is computed behind it reaches back to the beginning.
            cycle = (-(-self._seen().frames // period) + 1) * period, period
        return StreamState(0, 0, cycle, caches, ahead=self._selected())

    def step(
        self,
        chunk: Tensor,
        state: StreamState,
        last: bool = False,
        lengths: Tensor | None = None,
        condition: Condition | None = None,
    ) -> tuple[Tensor, StreamState]:
        """Encode a chunk of a batch of streams, in evaluation mode.

        The outputs of all steps, one after the other, are those of :meth:`forward` for the whole
        utterances, however they are cut. A frame comes out with the last input frame that it
        depends on.

        Args:
            chunk: (B, t, F) features, t of any size, also 0; values after an utterance's end are
                ignored.
            state: Of the step before, or :meth:`initial_state`; it is not changed.
            last: Whether no frames follow.
            lengths: (B,) integer, number of valid frames of each utterance in the chunk; fewer than
                t end it. None if no utterance ends before the chunk does.
            condition: As of :meth:`forward_taps`.

        Returns:
            (B, t', D), zero after the end of each utterance, with t' from 0 on, and the next state.

        Raises:
            InputError: A shape, a length or a value is wrong, the stream is over, or the encoder is
                in training mode (checked in eager execution, as in :meth:`forward`).
        """
        if not is_capturing():
            check_chunk(state, chunk, self.input_size, lengths, self.training)
            # Not by the frames that are seen, which may be the same: caches differ all the same.
            if state.ahead not in (None, ahead := self._selected()):
                rule = f"began with a lookahead of {state.ahead}, the encoder has {ahead} now"
                raise InputError(f"the stream {rule}; begin another with initial_state")
        piece = Chunk(chunk, state.place, last, ends_after(state, chunk, lengths))
        valid = piece.valid(piece.start, piece.end)
        if valid is not None:
            piece = piece.holding(chunk.masked_fill(~valid.unsqueeze(2), 0.0))
        condition = condition if self.conditioning else None
        taps = Taps(() if condition is None else self.config.taps, condition)
        out, caches = self.stream(piece, state.caches, taps)
        return out.x, state.after(piece, caches)

    def initial_caches(self, batch: int, like: Tensor) -> Any:
        """Return what the network keeps of B streams before their first frames.

        Args:
            batch: B.
            like: A tensor of the caches' type, on their device.

        Raises:
            ConfigError: As :meth:`initial_state`.
        """
        self.field()
        return like.new_zeros(batch, 0, self.input_size)

    def stream(self, chunk: Chunk, caches: Any, taps: Taps) -> tuple[Chunk, Any]:
        """Encode a checked chunk; see :mod:`.windowed`, which networks can do better than.

        Args:
            chunk: (B, t, F), zero past the ends of utterances.
            caches: Of the chunk before.
            taps: As of ``encode``.

        Returns:
            (B, t', D) and the caches.
        """
        return windowed.stream(self, self._seen(), chunk, caches, taps)

    def parts(self) -> list[dict[str, Any]]:
        """Return the name (``part``) and the ``parameters`` of each part, in order."""
        return [
            {"part": name, "parameters": count_parameters(child)}
            for name, child in self.named_children()
        ]


def output_layer(width: int, size: int) -> nn.Module:
    """Return a map of frames to ``size`` features: nothing, or a linear layer with ReLU."""
    return nn.Identity() if size == width else nn.Sequential(nn.Linear(width, size), nn.ReLU())


def check_inputs(x: Tensor, lengths: Tensor, input_size: int, min_length: int) -> bool:
    """Check a padded batch; return whether any utterance is padded.

    Args:
        x: (B, T, F).
        lengths: (B,) integer.
        input_size: F, as the network was built.
        min_length: The fewest frames of an utterance.

    Raises:
        InputError: A shape, a length or a value in a valid frame is wrong.
        UtteranceTooShortError: An utterance has fewer than ``min_length`` frames.
    """
    if x.dim() != 3 or not x.is_floating_point():
        raise InputError(f"features must be float (B, T, F), got {x.dtype} {tuple(x.shape)}")
    batch, frames, bins = x.shape
    if bins != input_size:
        raise InputError(
            f"features must have {input_size} frequency bins (input_size), got {bins} in "
            f"{tuple(x.shape)}"
        )
    if lengths.shape != (batch,) or lengths.is_floating_point() or lengths.dtype == torch.bool:
        raise InputError(
            f"lengths must be integers of shape ({batch},), got {lengths.dtype} "
            f"{tuple(lengths.shape)}"
        )
    if batch == 0:
        raise InputError("features must hold at least one utterance, got none")
    shortest, longest = (int(value) for value in torch.aminmax(lengths))
    if shortest < min_length:
        raise UtteranceTooShortError(
            f"utterance {int(lengths.argmin())} of the batch has {shortest} frames; at least "
            f"{min_length} are needed for one output frame",
            shortest,
            min_length,
        )
    if longest > frames:
        raise InputError(
            f"lengths must be at most the number of frames {frames}, got {longest} for utterance "
            f"{int(lengths.argmax())}"
        )
    # A sum is finite only if every term is; it may overflow, so the exact check below decides.
    if not bool(torch.isfinite(x.sum())):
        valid = torch.arange(frames, device=x.device)[None, :] < lengths[:, None]
        bad = (~torch.isfinite(x).all(dim=2) & valid).nonzero()
        if len(bad):
            utterance, frame = bad[0].tolist()
            raise InputError(
                f"features of utterance {utterance} of the batch are NaN or infinite, first in "
                f"frame {frame}; look at its audio and at the normalization"
            )
    return shortest < frames
