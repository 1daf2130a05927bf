"""The step of a recognizer: a chunk and caches in, log-probabilities and new caches out.

Inputs and outputs have the places, names and meanings of NeMo's cache-aware models, since
sherpa-onnx runs those. All caches of the encoder, flat, are ``cache_last_channel``; nothing is left
for ``cache_last_time``, which holds one zero; ``cache_last_channel_len`` is the clock of
:mod:`nas_encoder.network.steady`. A stream begins with zeros in all of them.

Letters in shapes: B batch, M samples, t frames of a chunk, F features, t' output frames, D width,
V classes with the blank last, N values of the caches.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nas_encoder.errors import CheckpointError, ConfigError
from nas_encoder.export.recognizer import AUDIO, NEVER, Parts
from nas_encoder.interchange.features import ESPnetFeatures, padding_mask
from nas_encoder.network.ctc import log_probabilities
from nas_encoder.network.steady import SteadyStep

CACHES = ("cache_last_channel", "cache_last_time", "cache_last_channel_len")
INPUTS = {
    AUDIO: ("audio", "length", *CACHES),
    "features": ("audio_signal", "length", *CACHES),
}
OUTPUTS = ("logprobs", "lengths", *(f"{name}_next" for name in CACHES))
_WHOLE = ("per_feature", "all_features")  # of NeMo


class Stepper(nn.Module):
    """A step of a model, right for every batch of streams, wherever each of them is.

    Args:
        parts: The trained parts.
        takes: ``audio``: windows (B, M) of the prepared signal (:mod:`.signal`); ``features``:
            (B, F, t), ESPnet's log-mel values without normalization, since the graph does it.
        frames: t.

    Raises:
        CheckpointError: There is no CTC layer, the encoder does not stream, or the features are
            normalized over whole utterances.
        ConfigError: ``frames`` is no multiple of what the encoder needs; ``audio``, and the
            features are not the model's own.
    """

    def __init__(self, parts: Parts, takes: str, frames: int) -> None:
        super().__init__()
        problems = obstacles(parts)
        if problems:
            raise CheckpointError("streaming", problems)
        if takes == AUDIO and parts.features is None:
            rule = "the model's features cannot be computed here; export it with --input features"
            raise ConfigError("input", [rule])
        assert parts.classifier is not None
        self.step = SteadyStep(parts.network, frames)
        self.classifier, self.takes, self.frames = parts.classifier, takes, frames
        self.features = parts.features if takes == AUDIO or parts.inner_normalization else None
        self.samples = 0
        if takes == AUDIO and self.features is not None:
            self.features.prepare_tracing()
            self.samples = self.features.window_samples(frames)

    def example(self, batch: int) -> tuple[Tensor, ...]:
        """Return inputs of new streams."""
        generator = torch.Generator().manual_seed(0)
        size = (batch, self.step.network.input_size, self.frames)
        if self.takes == AUDIO:
            size = (batch, self.samples)  # type: ignore[assignment]
        x = torch.rand(size, generator=generator) - 0.5
        caches, clock = self.step.initial_state(batch)
        lengths = torch.full((batch,), self.frames)
        return x, lengths, caches[:, None, None], torch.zeros(batch, 1, 1, 1), clock

    def forward(
        self, x: Tensor, lengths: Tensor, caches: Tensor, time: Tensor, clock: Tensor
    ) -> tuple[Tensor, ...]:
        """Recognize a chunk of each stream.

        Args:
            x: (B, M) or (B, F, t).
            lengths: (B,) int64, valid frames; fewer than t end a stream.
            caches: (B, 1, 1, N).
            time: (B, 1, 1, 1), zero.
            clock: (B,) int64.

        Returns:
            (B, t', V) log-probabilities, those of the blank 0 where there is no frame of a stream;
            (B,) how many frames there are; the next caches and clock.
        """
        if self.takes == AUDIO:
            assert self.features is not None
            x = self.features.of_windows(x)  # (B, t, F)
        else:
            x = x.transpose(1, 2)
        if isinstance(self.features, ESPnetFeatures):
            x = x.masked_fill(padding_mask(lengths, self.frames), 0.0)
            x = self.features.normalize(x, lengths)
        y, valid, kept, clock = self.step(x, lengths, caches.flatten(1), clock)
        y = log_probabilities(self.classifier(y))
        silence = torch.tensor([NEVER] * (self.classifier.out_features - 1) + [0.0])
        y = torch.where(valid.unsqueeze(2), y, silence)
        kept = kept.view(kept.size(0), 1, 1, self.step.values)
        return y, valid.sum(1), kept, time + 0.0, clock


def obstacles(parts: Parts, configured: Any = None) -> list[str]:
    """Return why a model cannot be exported to stream.

    Args:
        parts: The trained parts.
        configured: The toolkit's name of the normalization, for features that are not computed
            here.
    """
    found = []
    if parts.classifier is None:
        found.append("has no CTC layer, so there is no text")
    try:
        if parts.network.initial_state(1).cycle is None:
            found.append("encoder: absolute positions have no end in a stream; use relative ones")
    except ConfigError as error:
        found += [f"encoder: {line}" for line in error.problems]
    options: Any = None if parts.features is None else parts.features.options
    given = configured if options is None else options.normalize
    if given in _WHOLE:
        found.append(
            f"features: normalize is {given!r}, over the whole utterance, which a stream has not; "
            "train with normalize: NA"
        )
    if given in ("utterance", "utterance_mvn"):
        found.append(
            "features: utterance_mvn is over the whole utterance, which a stream has not; train "
            "with normalize: global_mvn"
        )
    return found
