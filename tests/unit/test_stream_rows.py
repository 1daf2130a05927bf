"""Streams of different ages in one batch give what each gives alone, and what a whole gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from streaming_samples import BINS, FRONT_ENDS, MODULES, encoder_of, mixed, of_module, unlike_new
from torch import Tensor

from nas_encoder import build_encoder
from nas_encoder.errors import ConfigError, InputError
from nas_encoder.network.marks import NEW, OVER, Mark
from nas_encoder.network.stream_rows import StreamRows, new_marks
from nas_encoder.spaces.blocks.architecture import BlockArchitecture, Stage
from nas_encoder.spaces.blocks.parts import Convolution, SelfAttention

CHUNKED = BlockArchitecture(
    FRONT_ENDS[0],
    stages=(Stage(8, 1, 1, (SelfAttention(2, 6, chunk=4),)), Stage(8, 2, 1, (Convolution(5),))),
)
ARCHITECTURES = {
    "attention": of_module(MODULES[6]),
    "chunks, rates": CHUNKED,
    "unpadded, absolute, rates": mixed(),
}


@dataclass
class Stream:
    """Frames (T, F), when they begin to come, and what has come out."""

    x: Tensor
    begin: int
    slot: int
    place: int = 0
    found: list[Tensor] = field(default_factory=list)
    over: bool = False


class Server:
    """What NeMo's pipelines do: slots, of which any are in a batch; last chunks go on their own."""

    def __init__(self, network: Any, shift: int, repeated: int) -> None:
        self.streams, self.shift, self.repeated = StreamRows(network), shift, repeated
        self.frames = shift + repeated
        reach = sum(self.streams.cycle or (400, 0))
        size = max(self.streams.size(self.frames + shift * n) for n in range(reach // shift + 3))
        self.rows = torch.zeros(8, size, dtype=torch.float64)
        self.marks = new_marks(8, torch.device("cpu"))

    def run(self, streams: list[Stream]) -> None:
        time = 0
        while not all(stream.over for stream in streams):
            here = [own for own in streams if own.begin <= time and not own.over]
            for last in (False, True):
                due = [own for own in here if (own.place + self.shift >= len(own.x)) == last]
                if due:
                    self.step(due, last)
            time += 1

    def step(self, due: list[Stream], last: bool) -> None:
        chunk = torch.full((len(due), self.frames, BINS), float("nan"), dtype=torch.float64)
        lengths = []
        for row, own in zip(chunk, due, strict=True):
            piece = own.x[own.place : own.place + self.frames]
            row[: len(piece)] = piece
            lengths.append(len(piece))
        slots = [own.slot for own in due]
        out = self.streams.step(
            chunk,
            self.rows[slots],
            self.marks[slots],
            torch.tensor(lengths),
            last,
            self.repeated,
        )
        assert out.rows.shape == (len(due), self.rows.size(1))
        self.rows[slots], self.marks[slots] = out.rows, out.marks
        for row, count, own in zip(out.y, out.counts.tolist(), due, strict=True):
            own.found.append(row[:count])
            own.place, own.over = own.place + self.shift, last


@pytest.mark.parametrize(
    ("name", "again"),
    [
        ("attention", True),
        ("chunks, rates", False),
        pytest.param("unpadded, absolute, rates", False, marks=pytest.mark.slow),
        pytest.param("unpadded, absolute, rates", True, marks=pytest.mark.slow),
    ],
)
@torch.no_grad()
def test_ages_do_not_mix(name: str, again: bool) -> None:
    torch.manual_seed(3)
    network = encoder_of(ARCHITECTURES[name])
    factor, rows = network.subsampling_factor, StreamRows(network)
    shift = network.period or 4 * factor
    repeated = -(-rows.extra() // factor) * factor if again else 0
    server = Server(network, shift, repeated)
    if name == "attention":  # its caches are full long before the beginning is out of sight
        assert rows.cycle is not None and rows.cycle < network.initial_state(1).cycle
    frames = [9 * shift + 5, 1, 3 * shift, 14 * shift + 1, 2 * shift - 1]
    streams = [
        Stream(torch.randn(count, BINS, dtype=torch.float64), 2 * number % 5, number)
        for number, count in enumerate(frames)
    ]
    server.run(streams)
    fewest = network.min_length
    for own in streams:
        short = max(0, fewest - len(own.x))  # extended with zeros, as NeMo's encoders do
        x = torch.nn.functional.pad(own.x, (0, 0, 0, short))[None]
        whole, _ = network(x, torch.tensor([x.size(1)]))
        torch.testing.assert_close(torch.cat(own.found)[None], whole, rtol=0, atol=1e-10)
    # A zeroed slot begins afresh.
    assert server.marks[:5].tolist() == [OVER] * 5 and not server.rows.any()
    server.marks.zero_()
    second = Stream(streams[0].x, 0, 3)
    server.run([second])
    torch.testing.assert_close(torch.cat(second.found), torch.cat(streams[0].found))


@torch.no_grad()
def test_streams_end_at_different_times_in_one_batch() -> None:
    network = encoder_of(CHUNKED)
    rows = StreamRows(network)
    lengths = torch.tensor([70, 0, 2, 33, 64])
    x = torch.randn(5, 80, BINS, dtype=torch.float64)
    state, marks = torch.zeros(5, rows.size(400), dtype=torch.float64), new_marks(5, x.device)
    found: list[list[Tensor]] = [[] for _ in lengths]
    for start in range(0, 80, 16):
        valid = (lengths - start).clamp(0, 16)
        piece = x[:, start : start + 16]
        out = rows.step(piece, state, marks, valid, last=start == 64)
        state, marks = out.rows, out.marks
        for own, row, count in zip(found, out.y, out.counts.tolist(), strict=True):
            assert not row[count:].any()
            own.append(row[:count])
    padding = torch.arange(80) >= lengths.unsqueeze(1)
    zeroed = x.masked_fill(padding.unsqueeze(2), 0.0)
    whole, ends = network(zeroed, lengths.clamp(min=network.min_length))
    for number, own in enumerate(found):
        count = int(ends[number]) if lengths[number] else 0
        torch.testing.assert_close(torch.cat(own), whole[number, :count], rtol=0, atol=1e-10)


@torch.no_grad()
def test_an_encoder_without_caches_of_its_own_does_so_too() -> None:
    torch.manual_seed(1)
    options: dict[str, Any] = {"input_size": BINS, "channels": 2, "layers": 3, "output_size": 8}
    network: Any = build_encoder("asrnet_b", **options)
    server = Server(unlike_new(network).double().eval(), 20, 0)
    streams = [
        Stream(torch.randn(frames, BINS, dtype=torch.float64), begin, begin)
        for begin, frames in enumerate((130, 47))
    ]
    server.run(streams)
    for own in streams:
        whole, _ = network(own.x[None], torch.tensor([len(own.x)]))
        torch.testing.assert_close(torch.cat(own.found), whole[0], rtol=0, atol=1e-10)


def test_measuring_leaves_the_network_as_it_was() -> None:
    network = encoder_of(CHUNKED).train()
    network.blocks[0].eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    StreamRows(network).size(64)
    assert [module.training for module in network.modules()] == modes
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])


@torch.no_grad()
def test_refusals_name_the_utterance() -> None:
    network = encoder_of(of_module(Convolution(5, causal=True)))
    rows = StreamRows(network)
    size, two = rows.size(64), torch.tensor([8, 8])
    x = torch.randn(2, 8, BINS, dtype=torch.float64)
    state, marks = torch.zeros(2, size, dtype=torch.float64), new_marks(2, x.device)
    ended = rows.step(x, state, marks, torch.tensor([8, 3]))
    with pytest.raises(InputError, match="utterance 1 of the batch ended after 8 frames"):
        rows.step(x, ended.rows, ended.marks, two)
    closed = rows.step(x, state, marks, two, closing=True)
    with pytest.raises(InputError, match="shorter than the others"):
        rows.step(x, closed.rows, closed.marks, two)
    over = rows.step(x, state, marks, two, last=True)
    with pytest.raises(InputError, match="the stream of utterance 0 of the batch has ended"):
        rows.step(x, over.rows, over.marks, two)
    x[1, 2, 0] = float("nan")
    with pytest.raises(InputError, match=r"utterance 1 .* frame 2 of a chunk that comes after 0"):
        rows.step(x, state, marks, two)
    rows.step(x, state, marks, torch.tensor([8, 2]))  # which is padding here
    half = torch.zeros(2, size, dtype=torch.bfloat16)
    with pytest.raises(InputError, match=r"bfloat16 cannot hold values of torch.float64"):
        rows.step(x.nan_to_num(), half, marks, two)
    first = rows.step(x.nan_to_num(), state, marks, two)
    with pytest.raises(InputError, match="caches of 1 numbers cannot be"):
        rows.step(x.nan_to_num(), state[:, :1], first.marks, two)
    with pytest.raises(ConfigError, match="sees the whole utterance"):
        StreamRows(encoder_of(of_module(SelfAttention(2))))


@pytest.mark.parametrize(
    "mark",
    [
        Mark(0),
        Mark(7),
        Mark(4 * 3600 * 100, None, True),
        Mark(3, 8),
        Mark(16, 16),
        Mark(1 << 20, 0, True),
        Mark(1 << 35, (1 << 35) - 5, choice=15),
        Mark(0, over=True),
    ],
)
def test_a_mark_is_read_as_it_was_written(mark: Mark) -> None:
    assert Mark.read(mark.written()) == mark
    assert (mark.written() == NEW) == (mark == Mark(0))
    assert mark.written() < 1 << 62
    long_ago = Mark.read(Mark(1 << 30, 5).written())
    assert long_ago.age == 1 << 30 and long_ago.end is not None and long_ago.end < long_ago.age
