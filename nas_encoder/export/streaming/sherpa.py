"""What sherpa-onnx gives a streaming NeMo CTC model, and what it reads of it.

``OnlineRecognizer.from_nemo_ctc`` (``online-nemo-ctc-model.cc``, ``online-recognizer-ctc-impl.h``)
calls the graph with ``window_size`` frames as soon as one more has come. It never says that a
stream ends, and so needs silence after it. Of version 2.0.1 the features are those of
:mod:`nas_encoder.export.sherpa`, not normalized, as a graph shows whose tokens are its features;
before 2.0 they were Kaldi's (read in 1.13.4). It exits where an entry of the metadata is missing:
models that it would give other features than they were trained with do not have these entries.
"""

from __future__ import annotations

from nas_encoder.export.recognizer import Parts
from nas_encoder.export.sherpa import differences
from nas_encoder.export.streaming.stepper import Stepper


def obstacles_to_sherpa(parts: Parts, takes: str) -> list[str]:
    """Return why sherpa-onnx cannot run a streaming export."""
    return [f"cannot stream it: {line}" for line in differences(parts, takes)]


def remarks_on_sherpa(parts: Parts) -> list[str]:
    """Return what sherpa-onnx gets wrong of a model that it runs."""
    factor = int(parts.network.subsampling_factor)
    if factor == 4:
        return []
    return [
        f"takes {factor}x for 4x: its times, not its texts, are {4 / factor:g} of the true ones"
    ]


def sherpa_metadata(stepper: Stepper) -> dict[str, str]:
    """Return the entries that sherpa-onnx reads beside those of every export."""
    _, _, channel, time, _ = stepper.example(1)
    sizes = {"cache_last_channel": channel.shape, "cache_last_time": time.shape}
    found = {"window_size": str(stepper.frames), "chunk_shift": str(stepper.frames)}
    for name, shape in sizes.items():
        found |= {f"{name}_dim{place}": str(shape[place]) for place in (1, 2, 3)}
    return found
