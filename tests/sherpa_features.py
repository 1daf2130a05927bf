"""The features that sherpa-onnx gives a streaming NeMo CTC model: a graph says them as tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from nas_encoder.export.graph import recorded

_DIGITS, _BASE = 3, 256
_LOW, _RANGE = -40.0, 100.0


class _Speaking(nn.Module):
    """Says each value in digits, the places of which have tokens in turns of their own."""

    def forward(self, x: Tensor, lengths: Tensor, *caches: Tensor) -> tuple[Tensor, ...]:
        left = ((x.transpose(1, 2).flatten(1).double() - _LOW) / _RANGE).clamp(0, 1 - 1e-9)
        digits = []
        for place in range(_DIGITS):
            left = left * _BASE
            digits.append(left.floor() + place * _BASE)
            left = left - left.floor()
        said = torch.stack(digits, 2).flatten(1).float()  # (B, T F digits)
        tokens = torch.arange(_DIGITS * _BASE + 1, dtype=torch.float32)
        return -(said.unsqueeze(2) - tokens).abs(), lengths, *(cache + 0 for cache in caches)


def given_features(samples: Tensor, frames: int, bins: int, folder: Path) -> Tensor:
    """Return the features (T, bins) of samples (N,), which come in chunks of ``frames``."""
    import sherpa_onnx

    inputs = ["audio_signal", "length", "channel", "time", "channel_len"]
    outputs = [f"{name}_next" for name in inputs]
    one = torch.zeros(1, 1, 1, 1)
    length = torch.zeros(1, dtype=torch.int64)
    example = (torch.zeros(1, bins, frames), length + frames, one, one, length)
    metadata: dict[str, Any] = {"window_size": frames, "chunk_shift": frames}
    metadata |= {"subsampling_factor": 4, "vocab_size": _DIGITS * _BASE}
    metadata |= {f"cache_last_{what}_dim{n}": 1 for what in ("channel", "time") for n in (1, 2, 3)}
    words = {name: str(value) for name, value in metadata.items()}
    model = recorded(_Speaking(), example, inputs, outputs, {}, words)
    folder.mkdir()
    onnx.save(model, folder / "model.onnx")
    symbols = [*(f"t{n}" for n in range(_DIGITS * _BASE)), "<blk>"]
    lines = "".join(f"{symbol} {n}\n" for n, symbol in enumerate(symbols))
    (folder / "tokens.txt").write_text(lines, "utf-8")
    recognizer = sherpa_onnx.OnlineRecognizer.from_nemo_ctc(
        tokens=str(folder / "tokens.txt"), model=str(folder / "model.onnx"), feature_dim=bins
    )
    stream = recognizer.create_stream()
    stream.accept_waveform(16000, samples.numpy())
    stream.input_finished()
    while recognizer.is_ready(stream):
        recognizer.decode_stream(stream)
    said = torch.tensor([int(token[1:]) for token in recognizer.tokens(stream)])
    digits = (said % _BASE).double().view(-1, bins, _DIGITS)
    weights = torch.tensor([float(_BASE) ** -(place + 1) for place in range(_DIGITS)]).double()
    return ((digits * weights).sum(2) * _RANGE + _LOW).float()
