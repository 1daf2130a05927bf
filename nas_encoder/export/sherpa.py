"""What sherpa-onnx gives a NeMo CTC model, and what a model was trained with.

``OfflineRecognizer.from_nemo_ctc`` computes these features (sherpa-onnx 2.0.1): windows of 25 ms
every 10 ms, 512 points at 16 kHz, symmetric Hann, pre-emphasis 0.97, Slaney's mel bands from 0 to
half the rate, and ``normalize_type`` of the metadata: per feature or none. Frames begin 5 ms later
than NeMo's, pre-emphasis starts anew in each, and a frame more may come. To NeMo's transducers it
gives other ones (``offline-recognizer-transducer-nemo-impl.h``): Povey's window, and bands that end
400 Hz below half the rate.
"""

from __future__ import annotations

from nas_encoder.export.recognizer import AUDIO, Parts
from nas_encoder.interchange.features import NeMoFeatures

_WANTED = {
    "window": ("hann",),
    "preemph": (0.97,),
    "lowfreq": (0,),
    "mag_power": (2.0,),
    "mel_norm": ("slaney",),
    "log": (True,),
    "normalize": ("per_feature", None, "NA", ""),
}


_BELOW = 400  # Hz below half the rate, where a transducer's bands end


def differences(parts: Parts, takes: str, transducer: bool = False) -> list[str]:
    """Return why sherpa-onnx cannot run an export, or what it computes differently."""
    if parts.vocabulary is None:
        return ["the export has no CTC layer, and sherpa-onnx needs one"]
    if takes == AUDIO:
        return ["the graph takes audio, and sherpa-onnx gives features: --input features"]
    if not isinstance(parts.features, NeMoFeatures):
        return ["the model was not trained with NeMo's features, which sherpa-onnx computes"]
    given = vars(parts.features.options)
    rate = parts.features.options.sample_rate
    compared = {**_WANTED, **({"window": ("povey",)} if transducer else {})}
    found = [
        f"{name} is {given[name]!r}, and sherpa-onnx has {wanted[0]!r}"
        for name, wanted in compared.items()
        if given[name] not in wanted
    ]
    highest = rate / 2 - (_BELOW if transducer else 0)
    if (given["highfreq"] or rate / 2) != highest:
        found.append(f"highfreq is {given['highfreq']}, and sherpa-onnx has {highest:g}")
    for name, seconds in (("n_window_size", 0.025), ("n_window_stride", 0.01)):
        if given[name] != round(seconds * rate):
            found.append(f"{name} is {given[name]}, and sherpa-onnx has {round(seconds * rate)}")
    points = 1 << (round(0.025 * rate) - 1).bit_length()
    if parts.features.options.points != points:
        found.append(f"n_fft is {parts.features.options.points}, and sherpa-onnx has {points}")
    return found
