"""NeMo's trained models with CTC, as :mod:`nas_encoder.alignment` wants them.

N samples, T frames of the model's output, V classes with the blank.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas_encoder.common.problems import one_line
from nas_encoder.errors import CheckpointError, MissingDependencyError, UtteranceTooShortError
from nas_encoder.interchange.tokens import guess_type, token

_SPACE = "<space>"


class NemoCtc:
    """A CTC or hybrid model; see :class:`nas_encoder.alignment.model.CtcModel`."""

    toolkit = "nemo"
    time_axis = 2

    def __init__(self, source: str, model: Any, decoder: Any, device: str) -> None:
        self.source, self._device = source, torch.device(device)
        self._model, self._decoder = model.to(self._device).eval(), decoder
        self.encoder: nn.Module = model.encoder
        featurizer = getattr(model.preprocessor, "featurizer", None)
        for name in ("dither", "pad_to"):  # as NeMo's transcribe() sets them
            if hasattr(featurizer, name):
                setattr(featurizer, name, 0)
        labels = [str(label) for label in decoder.vocabulary]
        self._tokenizer = getattr(model, "tokenizer", None)
        self.joins = "bpe" if self._tokenizer is not None else guess_type(labels)
        kind = "word" if self.joins == "word" else "char"
        names = labels if self._tokenizer is not None else [token(one, kind) for one in labels]
        self.tokens: Sequence[str] = [*names, "<blank>"]
        self.blank = len(labels)
        self._classes = {name: index for index, name in enumerate(names)}
        self.sampling_rate = int(model.cfg.preprocessor.get("sample_rate", 16000))
        for parameter in self._model.parameters():
            parameter.requires_grad_(False)

    @classmethod
    def open(cls, path: Path, device: str = "cpu") -> NemoCtc:
        """Open a ``.nemo`` file.

        Raises:
            CheckpointError: It cannot be restored, has no CTC decoder, or a tokenizer that needs
                to be told the language.
            MissingDependencyError: NeMo is not installed.
        """
        try:
            from nemo.collections.asr.models.asr_model import ASRModel

            import nas_encoder.nemo  # noqa: F401  our encoders on NeMo's allow-list
        except ImportError as error:
            raise MissingDependencyError(
                "nemo_toolkit[asr]", "nemo", "alignment with its models"
            ) from error
        try:
            model: Any = ASRModel.restore_from(str(path), map_location="cpu")
        except Exception as error:  # NeMo raises all kinds
            said = one_line(f"{type(error).__name__}: {error}")
            raise CheckpointError(str(path), [f"NeMo cannot restore it: {said}"]) from error
        decoder = getattr(model, "ctc_decoder", None) or getattr(model, "decoder", None)
        problems = []
        if not all(hasattr(model, part) for part in ("encoder", "preprocessor")):
            problems.append(f"{type(model).__name__} is no encoder with features")
        if not hasattr(decoder, "vocabulary") or hasattr(decoder, "prediction"):
            problems.append(f"{type(model).__name__} has no CTC decoder")
        if hasattr(getattr(model, "tokenizer", None), "tokenizers_dict"):
            problems.append("its tokenizer is one of several languages, which texts do not name")
        if problems:
            raise CheckpointError(str(path), problems)
        return cls(str(path), model, decoder, device)

    def log_probs(self, samples: Tensor) -> Tensor:
        """Return (T, V) log-probabilities of audio (N,) in -1 to 1."""
        signal = samples[None].to(self._device)
        length = torch.tensor([signal.size(1)], device=self._device)
        features, frames = self._model.preprocessor(input_signal=signal, length=length)
        encoded, lengths = self._model.encoder(audio_signal=features, length=frames)[:2]
        if int(lengths[0]) < 1:
            few = f"audio of {len(samples)} samples gives no output frame"
            raise UtteranceTooShortError(few, len(samples), 1)
        scores: Tensor = self._decoder(encoder_output=encoded)[0]  # (T, V)
        return torch.log_softmax(scores[: int(lengths[0])], dim=-1)

    def normalized(self, text: str) -> str:
        """Return a text as it is: NeMo's manifests hold texts that are clean."""
        return text

    def split(self, text: str) -> list[tuple[str, int | None]]:
        """Return the tokens of a text with their classes; None where the model has none."""
        if self._tokenizer is not None:
            pieces = [str(piece) for piece in self._tokenizer.text_to_tokens(text)]
            unknown = {"<unk>", "[UNK]", "⁇"}
            return [
                (piece, None if piece in unknown else self._classes.get(piece)) for piece in pieces
            ]
        names = text.split() if self.joins == "word" else text.replace(" ", "\0")
        pieces = [_SPACE if name == "\0" else name for name in names]
        return [(piece, self._classes.get(piece)) for piece in pieces]
