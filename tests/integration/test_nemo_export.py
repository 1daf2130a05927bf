"""ONNX and TorchScript: the exported encoder or model gives what NeMo's own gives.

Exports are traced with NeMo's ``input_example`` (two utterances, one padded) and run here with
another batch size, other numbers of frames and other lengths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from nemo_tones import BINS, BLOCKS, NAS, SAN, Tones, build, marks, toolkit
from torch import Tensor

pytestmark = marks(
    # NeMo exports by tracing, which torch 2.13 calls old.
    "`torch.jit:DeprecationWarning",
    "You are using the legacy TorchScript:DeprecationWarning",
    "The feature will be removed:DeprecationWarning:torch",
    # About the example's names and sizes; none from this package: its graph depends on no value.
    "No names were found for specified dynamic axes",
    "Constant folding - Only steps=1",
    "Exporting a model to ONNX with a batch_size other than 1",
    ":torch.jit.TracerWarning:torch",
)

TOLERANCE = 1e-5
ENCODERS: dict[str, dict[str, Any]] = {
    "nas": NAS,
    "nas darts_v2": NAS | {"genotype": "darts_v2", "stem_stride": [1, 1], "deltas": True},
    "nas stride 8": NAS | {"stem_stride": [2, 2], "hidden_sizes": [6]},
    "nas blocks": BLOCKS,
    "dfsmn_san": SAN,
    "dfsmn_san memory": SAN | {"persistent_memory": 3, "subsampling_factor": 8, "context": 2},
}
# (B, T, lengths): not those of the example, not all multiples of the subsampling factor.
BATCHES = [(3, 101, [101, 57, 8]), (1, 37, [37]), (2, 320, [17, 320])]


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Tones:
    toolkit()
    return Tones.create(tmp_path_factory.mktemp("tones"), number=4)


def encoder_of(name: str) -> Any:
    """An encoder whose batch norms have moved, in evaluation mode."""
    toolkit()
    from nemo.core.classes.common import Serialization
    from omegaconf import OmegaConf

    encoder: Any = Serialization.from_config_dict(OmegaConf.create(ENCODERS[name]))
    encoder(audio_signal=torch.randn(2, BINS, 80), length=torch.tensor([80, 50]))
    return encoder.eval()


def batches() -> Iterator[tuple[Tensor, Tensor]]:
    for batch, frames, lengths in BATCHES:
        yield torch.randn(batch, BINS, frames), torch.tensor(lengths)


def onnx(path: Path) -> Callable[..., list[Tensor]]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]

    def run(*values: Tensor) -> list[Tensor]:
        feed = {name: value.numpy() for name, value in zip(names, values, strict=True)}
        return [torch.from_numpy(value) for value in session.run(None, feed)]

    return run


def torchscript(path: Path) -> Callable[..., list[Tensor]]:
    module = torch.jit.load(str(path))

    def run(*values: Tensor) -> list[Tensor]:
        with torch.no_grad():
            outputs = module(*values)
        return [outputs] if isinstance(outputs, Tensor) else list(outputs)

    return run


LOADERS = {"onnx": onnx, "ts": torchscript}


def assert_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE, check_dtype=False)


@pytest.mark.parametrize("form", LOADERS)
@pytest.mark.parametrize("name", ENCODERS)
def test_encoder(name: str, form: str, tmp_path: Path) -> None:
    encoder = encoder_of(name)
    signal, lengths = encoder.input_example()
    assert len(set(lengths.tolist())) > 1 and signal.size(2) == int(lengths.max())
    path = tmp_path / f"encoder.{form}"
    encoder.export(str(path))
    run = LOADERS[form](path)
    for x, length in batches():
        with torch.no_grad():
            y, frames = encoder(audio_signal=x, length=length)
        found, found_frames = run(x, length)
        assert found_frames.tolist() == frames.tolist()
        assert y.abs().max() > 0.1
        assert_close(found, y)
        # Padding frames do not affect the exported graph's output either.
        for row, valid in enumerate(length.tolist()):
            x[row, :, valid:] = 1e3
        assert_close(run(x, length)[0], y)


@pytest.mark.parametrize("name", ["nas", "dfsmn_san"])
def test_encoder_trains_on_after_an_export(name: str, tmp_path: Path) -> None:
    """NeMo's export freezes parameters and switches to evaluation; ``unfreeze`` undoes it."""
    encoder = encoder_of(name)
    encoder.export(str(tmp_path / "encoder.onnx"))
    assert not encoder.training
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    encoder.unfreeze()
    encoder.train()
    y, _ = encoder(audio_signal=torch.randn(2, BINS, 40), length=torch.tensor([40, 21]))
    (y * torch.randn_like(y)).sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())


@pytest.mark.parametrize(
    ("kind", "form", "encoder"),
    [("ctc_char", "onnx", NAS), ("ctc_char", "ts", SAN), ("ctc_bpe", "onnx", SAN)],
    ids=["char-onnx-nas", "char-ts-dfsmn_san", "bpe-onnx-dfsmn_san"],
)
def test_whole_ctc_model(
    kind: str, form: str, encoder: dict[str, Any], tones: Tones, tmp_path: Path
) -> None:
    model = build(kind, tones.config(kind, encoder)).eval()
    path = tmp_path / f"model.{form}"
    model.export(str(path))
    run = LOADERS[form](path)
    for x, length in batches():
        with torch.no_grad():
            y, frames = model.encoder(audio_signal=x, length=length)
            expected = model.decoder(encoder_output=y)
        found = run(x, length)[0]
        for row, valid in enumerate(frames.tolist()):
            assert_close(found[row, :valid], expected[row, :valid])


@pytest.mark.parametrize(("kind", "form"), [("rnnt_bpe", "onnx"), ("hybrid_bpe", "ts")])
def test_whole_transducer(kind: str, form: str, tones: Tones, tmp_path: Path) -> None:
    """Two files, as for NeMo's own encoders: the encoder, and decoder with joint network."""
    model = build(kind, tones.config(kind, NAS)).eval()
    model.export(str(tmp_path / f"model.{form}"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"decoder_joint-model.{form}",
        f"encoder-model.{form}",
    ]
    run = LOADERS[form](tmp_path / f"encoder-model.{form}")
    for x, length in batches():
        with torch.no_grad():
            y, frames = model.encoder(audio_signal=x, length=length)
        found, found_frames = run(x, length)
        assert found_frames.tolist() == frames.tolist()
        assert_close(found, y)
    # The model still works.
    assert len(model.transcribe(tones.paths[:2], batch_size=2, verbose=False)) == 2
