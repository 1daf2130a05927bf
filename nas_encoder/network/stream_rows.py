"""Batches of streams that began at different times, for servers that batch as streams come and go.

:meth:`~nas_encoder.network.tapped.TappedEncoder.step` takes streams that are all equally old, with
nested caches of sizes of their own. Here the state of each stream is a row of numbers, in a tensor
that can be indexed, copied and zeroed along the batch, and a mark. Rows of one age are stepped
together, so a stream gives what it gives alone.

B batch, N numbers of a row, t frames of a chunk, F features, t' frames that come out, D output
features, S subsampling factor.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nas_encoder.errors import InputError
from nas_encoder.network import nested
from nas_encoder.network.marks import NEW, OVER, Mark
from nas_encoder.network.streaming import GOING_ON, Chunk, StreamState
from nas_encoder.network.tapped import TappedEncoder, Taps

_REMEMBERED = 4096  # points; streams that are together are at far fewer
_STRIDE = 64  # frames; see StreamRows._settled


class Point(NamedTuple):
    """What a network keeps at a place of a stream.

    Attributes:
        form: The nested caches, with the shapes (n, ...) of one stream's in place of tensors.
        outputs: Frames that have come out.
    """

    form: Any
    outputs: int

    @property
    def sizes(self) -> list[int]:
        """The numbers in each cache of one stream."""
        return [size for shape in nested.leaves(self.form) if (size := prod(shape))]

    @property
    def size(self) -> int:
        """The numbers in all of them."""
        return sum(self.sizes)


@dataclass(frozen=True)
class Stepped:
    """What a step gives.

    Attributes:
        y: (B, t', D), zero after the frames that are valid.
        counts: (B,) valid frames, on the CPU.
        rows: (B, N) states.
        marks: (B,) int64.
    """

    y: Tensor
    counts: Tensor
    rows: Tensor
    marks: Tensor


class StreamRows:
    """Steps streams whose states are rows.

    A row of zeros with the mark 0 is a new stream, so zeroing both begins a stream afresh.

    Args:
        network: An encoder that streams.

    Raises:
        ConfigError: It does not; what sees the whole utterance is named.
    """

    def __init__(self, network: TappedEncoder) -> None:
        self.network, self.selected = network, network.selected
        state = network.initial_state(1)
        self._first = nested.shapes(state.caches)
        self.cycle = None
        if state.cycle is not None:
            seen, period = state.cycle
            self.cycle = self._settled(seen, period, state.caches), period
        self._points: OrderedDict[int, Point] = OrderedDict()

    # -- what is known without a stream ---------------------------------------------------------

    def outputs(self, frames: int) -> int:
        """Return how many output frames have come out after so many input frames."""
        place = self._place(frames)
        return self._point(place).outputs + (frames - place) // self.network.subsampling_factor

    def size(self, frames: int) -> int:
        """Return the numbers that are kept after so many input frames."""
        return self._point(self._place(frames)).size

    def most(self, frames: int, places: int) -> int:
        """Return the most numbers that are kept at any of so many places, from ``frames`` on."""
        place, like = self._place(frames), self.like()
        x = like.new_zeros(1, place + places - 1, self.network.input_size)
        caches, start, sizes = self.network.initial_caches(1, like), 0, []
        for end in range(place, place + places):
            _, caches = self._streamed(x[:, start:end], start, caches)
            start = end
            sizes.append(Point(nested.shapes(caches), 0).size)
        return max(sizes)

    def extra(self) -> int:
        """Return after how many more frames than n all output frames that begin in n are out.

        Here n is any multiple of the network's period. Without one, this is a bound for all n.
        """
        factor, ahead = self.network.subsampling_factor, self.network.lookahead()
        frames = self.network.period
        if frames is None:
            return max(0, ahead + 1 - factor)
        wanted = frames // factor
        low, high = 0, ahead + 1
        while low < high:  # outputs never become fewer
            middle = (low + high) // 2
            if self.outputs(frames + middle) >= wanted:
                high = middle
            else:
                low = middle + 1
        return low

    def like(self) -> Tensor:
        """Return a tensor of the caches' type, on their device."""
        own = self.network.parameters()
        return next(each for each in own if each.is_floating_point()).detach()

    def _place(self, frames: int) -> int:
        """Return where a stream is that had so many frames; see :class:`.StreamState`."""
        if self.cycle is None or frames < sum(self.cycle):
            return frames
        seen, period = self.cycle
        return frames - (frames - seen) // period * period

    def _point(self, place: int) -> Point:
        if place not in self._points:
            self._remember(place, self._found_out(place))
        self._points.move_to_end(place)
        return self._points[place]

    def _remember(self, place: int, point: Point) -> None:
        if self._points.setdefault(place, point) != point:
            raise InputError(
                f"{type(self.network).__name__} keeps caches of different sizes at places that it "
                f"says are alike (period), {place} frames after a beginning"
            )
        while len(self._points) > _REMEMBERED:
            self._points.popitem(last=False)

    def _found_out(self, place: int) -> Point:
        """Run the network over so many zeros."""
        if place == 0:
            return Point(self._first, 0)
        like = self.like()
        x = like.new_zeros(1, place, self.network.input_size)
        out, caches = self._streamed(x, 0, self.network.initial_caches(1, like))
        return Point(nested.shapes(caches), out.x.size(1))

    def _settled(self, seen: int, period: int, caches: Any) -> int:
        """Return a place from which on all places a period apart are the same to the network.

        Where nothing can be seen of the beginning any more, at ``seen``, they are. Most networks
        treat them alike long before: as soon as no cache grows, each part has all that it sees.
        """
        # So many frames that each part gets some, and a cache that is not full grows.
        frames = max(_STRIDE, self.network.lookahead() + 1 + period)
        stride, form = period * -(-frames // period), nested.shapes(caches)
        x = self.like().new_zeros(1, stride, self.network.input_size)
        for place in range(stride, seen, stride):
            _, caches = self._streamed(x, place - stride, caches)
            before, form = form, nested.shapes(caches)
            if form == before and self._alike(place, place + seen, period, form):
                return place
        return seen

    def _alike(self, place: int, later: int, period: int, form: Any) -> bool:
        """Whether the network does the same at two places, with any caches of these shapes."""
        like, generator = self.like(), torch.Generator().manual_seed(0)
        sizes = [size for shape in nested.leaves(form) if (size := prod(shape))]
        values = [torch.randn(1, size, generator=generator).to(like) for size in sizes]
        x = torch.randn(1, 3 * period, self.network.input_size, generator=generator).to(like)
        results = []
        for start in (place, later):
            caches = nested.filled(form, iter(values), like.new_zeros(1))
            out, caches = self._streamed(x, start, caches)
            results.append((out.start - start // self.network.subsampling_factor, out.x, caches))
        (first, y, kept), (second, again, others) = results
        pairs = zip([y, *nested.leaves(kept)], [again, *nested.leaves(others)], strict=True)
        return first == second and all(torch.equal(one, other) for one, other in pairs)

    @torch.no_grad()
    def _streamed(self, x: Tensor, start: int, caches: Any) -> tuple[Chunk, Any]:
        """Run the network over frames (1, t, F) in evaluation mode; else it would count them."""
        modes = [(module, module.training) for module in self.network.modules()]
        self.network.eval()
        try:
            return self.network.stream(Chunk(x, start, False), caches, Taps())
        finally:
            for module, training in modes:
                module.training = training

    # -- streams --------------------------------------------------------------------------------

    def step(
        self,
        chunk: Tensor,
        rows: Tensor,
        marks: Tensor,
        lengths: Tensor,
        last: bool = False,
        repeated: int = 0,
        closing: bool = False,
    ) -> Stepped:
        """Encode a chunk of streams of any ages.

        An utterance that ends with fewer frames than the network's fewest is extended with zero
        frames; an empty one gives nothing.

        Args:
            chunk: (B, t, F).
            rows: (B, N) their states.
            marks: (B,) int64.
            lengths: (B,) integer, valid frames of the chunk; fewer than t end a stream.
            last: Whether none of them goes on.
            repeated: Frames at the beginning of the chunk that all but new streams already had.
            closing: Whether only repeated frames may follow.

        Raises:
            InputError: A stream has ended, or a valid frame is not finite; it is named. Or the
                encoder has another lookahead than when this was made.
        """
        if self.selected != self.network.selected:
            remedy = "make another StreamRows and begin new streams"
            raise InputError(f"the encoder has another lookahead than these streams; {remedy}")
        counts = [min(max(int(own), 0), chunk.size(1)) for own in lengths.tolist()]
        before = [Mark.read(mark) for mark in marks.tolist()]
        chunk = self._checked(chunk, counts, before)
        groups: dict[tuple[int, bool], list[int]] = {}
        for number, mark in enumerate(before):
            groups.setdefault((self._place(mark.age), mark.age == 0), []).append(number)
        found = []
        for (place, new), numbers in groups.items():
            skipped = 0 if new else min(repeated, chunk.size(1))
            own = [before[number] for number in numbers]
            ends = [
                self._end(mark, counts[number] - skipped, chunk.size(1) - skipped, last, number)
                for number, mark in zip(numbers, own, strict=True)
            ]
            index = None if len(groups) == 1 else torch.tensor(numbers, device=chunk.device)
            part, state = (
                each if index is None else each.index_select(0, index) for each in (chunk, rows)
            )
            found.append(self._together(part[:, skipped:], state, place, own, ends, last, closing))
        return _joined(found, list(groups.values()), rows)

    def _checked(self, chunk: Tensor, counts: list[int], before: list[Mark]) -> Tensor:
        """Return the chunk with zeros past the ends."""
        for number, mark in enumerate(before):
            if refusal := mark.refusal(self.network.selected):
                raise InputError(f"the stream of utterance {number} of the batch {refusal}")
        valid = torch.tensor(counts, device=chunk.device)
        frames = torch.arange(chunk.size(1), device=chunk.device)
        chunk = chunk.masked_fill((frames >= valid.unsqueeze(1)).unsqueeze(2), 0.0)
        if not bool(torch.isfinite(chunk.sum())):
            places = (~torch.isfinite(chunk).all(dim=2)).nonzero()
            if len(places):
                number, frame = places[0].tolist()
                raise InputError(
                    f"features of utterance {number} of the batch are NaN or infinite, first in "
                    f"frame {frame} of a chunk that comes after {before[number].age} frames; look "
                    "at its audio and at the normalization"
                )
        return chunk

    def _end(self, mark: Mark, fresh: int, frames: int, last: bool, number: int) -> int | None:
        """Return the place where a stream ends, None if it goes on.

        Args:
            mark: Of the stream before.
            fresh: Valid frames that it has not had yet.
            frames: Those of the chunk.
            last: Whether it ends with the chunk.
            number: Of the utterance.
        """
        if fresh > 0 and (mark.closing or mark.end is not None):
            why = "a chunk was shorter than the others, as the last one is"
            raise InputError(
                f"utterance {number} of the batch ended after {mark.age} frames, where {why}; got "
                f"{fresh} more"
            )
        if mark.end is not None or not (last or fresh < frames):
            return mark.end
        end = mark.age + max(0, fresh)
        return max(end, self.network.min_length) if end else 0

    def _together(
        self,
        x: Tensor,
        rows: Tensor,
        place: int,
        marks: Sequence[Mark],
        ends: Sequence[int | None],
        last: bool,
        closing: bool,
    ) -> Stepped:
        """Step streams at the same place."""
        frames, factor = x.size(1), self.network.subsampling_factor
        beyond = [end - mark.age for mark, end in zip(marks, ends, strict=True) if end is not None]
        if last:
            x = F.pad(x, (0, 0, 0, max(0, max(beyond) - frames)))
        lengths = [
            GOING_ON if end is None else end - mark.age + place
            for mark, end in zip(marks, ends, strict=True)
        ]
        ended = any(end is not None for end in ends)
        known = torch.tensor(lengths, device=x.device) if ended else None
        point = self._point(place)
        caches = self._unpacked(rows, point, place)
        y = x.new_zeros(len(marks), 0, self.network.output_size)
        if place + x.size(1):  # else there is nothing at all
            state = StreamState(place, place, self.cycle, caches, known)
            y, state = self.network.step(x, state, last)
            if not last:
                caches = state.caches
        counts = []
        for mark, end in zip(marks, ends, strict=True):
            had = point.outputs + (mark.age - place) // factor
            all_of_it = had + y.size(1)
            if end is not None:
                all_of_it = int(self.network.output_lengths(torch.tensor(end))) if end else 0
            counts.append(min(max(all_of_it - had, 0), y.size(1)))
        if last:
            over = torch.full((len(marks),), OVER, device=rows.device)
            return Stepped(y, torch.tensor(counts), torch.zeros_like(rows), over)
        after = place + frames
        moved = self._place(after)
        done = point.outputs + y.size(1) - (after - moved) // factor
        self._remember(moved, Point(nested.shapes(caches), done))
        new = [
            Mark(mark.age + frames, end, closing, choice=self.network.selected).written()
            for mark, end in zip(marks, ends, strict=True)
        ]
        numbers = torch.tensor(new, device=rows.device)
        return Stepped(y, torch.tensor(counts), _packed(caches, rows), numbers)

    def _unpacked(self, rows: Tensor, point: Point, place: int) -> Any:
        like = self.like()
        if place == 0:
            return self.network.initial_caches(rows.size(0), like)
        if point.size > rows.size(1):
            raise InputError(
                f"caches of {rows.size(1)} numbers cannot be of a stream after {place} frames, "
                f"which has {point.size}"
            )
        pieces = torch.split(rows[:, : point.size].to(like.dtype), point.sizes, 1)
        return nested.filled(point.form, iter(pieces), rows.to(like.dtype))


def new_marks(batch: int, device: torch.device) -> Tensor:
    """Return the marks of B new streams."""
    return torch.full((batch,), NEW, device=device)


def _packed(caches: Any, rows: Tensor) -> Tensor:
    """Return caches as rows (B, N), N not below that of the rows before."""
    leaves = [leaf for leaf in nested.leaves(caches) if leaf.numel()]
    for leaf in leaves:
        if torch.promote_types(leaf.dtype, rows.dtype) != rows.dtype:
            raise InputError(f"caches of {rows.dtype} cannot hold values of {leaf.dtype}")
    flat = torch.cat([leaf.flatten(1).to(rows.dtype) for leaf in leaves], 1)
    return F.pad(flat, (0, max(0, rows.size(1) - flat.size(1))))


def _joined(parts: list[Stepped], numbers: list[list[int]], rows: Tensor) -> Stepped:
    """Put groups into the order of the batch."""
    if len(parts) == 1:
        return parts[0]
    frames = max(part.y.size(1) for part in parts)
    width = max(part.rows.size(1) for part in parts)
    order = torch.tensor([number for group in numbers for number in group]).argsort()
    y = torch.cat([F.pad(part.y, (0, 0, 0, frames - part.y.size(1))) for part in parts])
    states = torch.cat([F.pad(part.rows, (0, width - part.rows.size(1))) for part in parts])
    counts = torch.cat([part.counts for part in parts])
    marks = torch.cat([part.marks for part in parts])
    moved = order.to(rows.device)
    return Stepped(y[moved], counts[order], states[moved], marks[moved])
