"""The real sherpa-onnx decodes a streaming export live, and says what torch says offline."""

from __future__ import annotations

from pathlib import Path

import export_samples
import pytest
import torch
from sherpa_features import given_features

from nas_encoder.export.export import ExportOptions
from nas_encoder.export.material import generated
from nas_encoder.export.recognizer import reference
from nas_encoder.export.streaming.export import export_stream

pytestmark = pytest.mark.slow
BINS = 80


def test_sherpa_streams_what_torch_says_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sherpa_onnx

    monkeypatch.setattr(export_samples, "BINS", BINS)
    features = ("nemo", {"normalize": "NA", "n_window_size": 400})
    monkeypatch.setitem(export_samples.FEATURES, "sherpa", features)
    model = export_samples.model("streaming", "sherpa")
    done = export_stream(model, ExportOptions("features", lengths=8))
    assert done.report["sherpa_onnx"] == []
    folder = tmp_path / "a folder"
    done.write(folder)
    frames, delay = (int(done.report["metadata"][f"stream_{n}"]) for n in ("frames", "delay"))
    recognizer = sherpa_onnx.OnlineRecognizer.from_nemo_ctc(
        tokens=str(folder / "tokens.txt"), model=str(folder / "model.onnx"), feature_dim=BINS
    )
    # Silence after the end, until all of it is out.
    silence = torch.zeros((frames + 4 * delay + 3) * 160)
    sounds = [torch.cat((one.samples, silence)) for one in generated(16000, 3)]
    streams = [recognizer.create_stream() for _ in sounds]
    for start in range(0, max(map(len, sounds)), 1234):  # at once, of all lengths
        for stream, sound in zip(streams, sounds, strict=True):
            if start < len(sound):
                stream.accept_waveform(16000, sound[start : start + 1234].numpy())
                if start + 1234 >= len(sound):
                    stream.input_finished()
        while ready := [stream for stream in streams if recognizer.is_ready(stream)]:
            recognizer.decode_streams(ready)
    vocabulary = done.runtime.vocabulary
    for number, (stream, sound) in enumerate(zip(streams, sounds, strict=True)):
        x = given_features(sound, frames, BINS, tmp_path / f"features {number}")
        path = reference(done.parts, x, "features").argmax(1).tolist()
        expected = vocabulary.text(path[: len(path) - delay])
        assert len(expected) > 4
        # It does not strip, and writes </s>.
        found = " ".join(recognizer.get_result(stream).replace("</s>", "").split())
        assert found == " ".join(expected.split())
    # What was measured: sherpa-onnx gives NeMo's features, 5 ms later, not normalized.
    features, _ = done.parts.features(sounds[2][None, 80:], torch.tensor([len(sounds[2]) - 80]))
    difference = (features[0, : len(x)] - x).abs()[:, 8:]
    assert float(difference.median()) < 0.02


def test_what_sherpa_would_give_other_features_is_refused_for_it() -> None:
    done = export_stream(
        export_samples.model("streaming", "espnet global"), ExportOptions("features", lengths=4)
    )
    (why,) = done.report["sherpa_onnx"]
    assert why.startswith("cannot stream it: the model was not trained with NeMo's features")
    assert "window_size" not in done.report["metadata"]  # without which sherpa-onnx exits
