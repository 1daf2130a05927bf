"""ESPnet's trained models with CTC, as :mod:`nas_encoder.alignment` wants them.

N samples, T frames of the model's output, V classes with the blank.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas_encoder.errors import CheckpointError, MissingDependencyError, UtteranceTooShortError
from nas_encoder.interchange.espnet_files import CONFIG, choose_weights, rate_of
from nas_encoder.interchange.files import load_tensors, parse_config, read_file

_JOINS = {"char": "char", "bpe": "bpe", "word": "word", "phn": "word"}
_FILES = (("normalize_conf", "stats_file"), ("bpemodel",), ("non_linguistic_symbols",))
_DEFAULT_RATE = 16000  # of all of ESPnet's front ends


class EspnetCtc:
    """A model of ESPnet's ASR task; see :class:`nas_encoder.alignment.model.CtcModel`."""

    toolkit = "espnet"
    time_axis = 1

    def __init__(
        self, source: str, config: Mapping[str, Any], model: Any, preprocess: Any, device: str
    ) -> None:
        self.source, self._device = source, torch.device(device)
        self._model = model.to(self._device).eval()
        self._preprocess = preprocess
        self._volume = config.get("speech_volume_normalize")
        self.encoder: nn.Module = model.encoder
        self.tokens: Sequence[str] = [str(token) for token in model.token_list]
        self.blank = int(model.blank_id)
        self.joins = _JOINS[str(config["token_type"])]
        conf = config.get("frontend_conf") or {}
        rate = rate_of(conf.get("fs", conf.get("sample_rate", _DEFAULT_RATE)))
        self.sampling_rate = int(rate)
        stft: Any = getattr(getattr(model, "frontend", None), "stft", None)
        # It reflects half a window at both ends.
        self._fewest = int(stft.n_fft) // 2 + 1 if getattr(stft, "center", False) else 1
        self._classes = {token: index for index, token in enumerate(self.tokens)}
        for parameter in self._model.parameters():
            parameter.requires_grad_(False)

    @classmethod
    def open(cls, path: Path, checkpoint: str | None = None, device: str = "cpu") -> EspnetCtc:
        """Open the folder of a training, a ``.pth`` file in it, or a packed ``.zip``.

        Raises:
            CheckpointError: It cannot be read or built, its weights are not those of its
                configuration, or it has no trained CTC layer.
            MissingDependencyError: ESPnet is not installed.
        """
        try:
            from espnet2.main_funcs.pack_funcs import unpack
        except ImportError as error:
            raise MissingDependencyError("espnet", "espnet", "alignment with its models") from error
        if path.suffix != ".zip":
            folder = path if path.is_dir() else path.parent
            name = path.name if path.suffix == ".pth" else checkpoint or choose_weights(folder)
            return cls._build(folder / CONFIG, folder / name, str(folder / name), device)
        with tempfile.TemporaryDirectory() as folder_name:
            try:
                found = unpack(path, folder_name)
                files = Path(found["asr_train_config"]), Path(found["asr_model_file"])
            except Exception as error:  # whatever an archive can have
                raise CheckpointError(
                    str(path), [f"is no archive of espnet2.bin.pack: {_short(error)}"]
                ) from error
            return cls._build(*files, str(path), device)

    @classmethod
    def _build(cls, config_file: Path, weights: Path, source: str, device: str) -> EspnetCtc:
        from espnet2.tasks.asr import ASRTask

        config = parse_config(read_file(config_file), str(config_file))
        problems = []
        if (config.get("model_conf") or {}).get("ctc_weight", 0.5) == 0:
            problems.append("model_conf.ctc_weight: is 0, so the model has no trained CTC layer")
        if config.get("token_type") not in _JOINS:
            kinds = ", ".join(_JOINS)
            problems.append(f"token_type: must be one of {kinds}, got {config.get('token_type')!r}")
        if config.get("use_preprocessor") is not True:
            problems.append("use_preprocessor: must be true, or texts cannot become tokens")
        for keys in _FILES:
            problems += _find(config, keys, config_file.parent)
        if problems:
            raise CheckpointError(source, problems)
        # What only texts need, a config that was converted lacks.
        absent = dict.fromkeys(("non_linguistic_symbols", "cleaner", "g2p"))
        args = argparse.Namespace(**{**absent, **config})
        try:
            model = ASRTask.build_model(args)
            preprocess = ASRTask.build_preprocess_fn(args, False)
        except Exception as error:  # ESPnet raises all kinds for a config of another task
            raise CheckpointError(
                source, [f"ESPnet's ASR task cannot build its model: {_short(error)}"]
            ) from error
        if getattr(model, "ctc", None) is None:
            raise CheckpointError(source, ["the model has no CTC layer"])
        state = load_tensors(weights, str(weights))
        try:
            missing, unknown = model.load_state_dict(state, strict=False)
        except RuntimeError as error:  # sizes differ
            raise CheckpointError(
                str(weights), [f"is not of this configuration: {_short(error)}"]
            ) from error
        if missing or unknown:
            rows = [f"{name}: is missing in the weights" for name in missing]
            rows += [f"{name}: is in the weights, not in the model" for name in unknown]
            raise CheckpointError(str(weights), rows)
        return cls(source, config, model, preprocess, device)

    def log_probs(self, samples: Tensor) -> Tensor:
        """Return (T, V) log-probabilities of audio (N,) in -1 to 1."""
        from nas_encoder.espnet.interface import TooShortUttError

        if len(samples) < self._fewest:
            few = f"audio of {len(samples)} samples, the STFT needs at least {self._fewest}"
            raise UtteranceTooShortError(few, len(samples), self._fewest)
        speech = samples[None].to(self._device)
        if self._volume is not None and float(speech.abs().max()) > 0:
            speech = speech * (self._volume / speech.abs().max())
        count = torch.tensor([speech.size(1)], device=self._device)
        try:
            encoded, lengths = self._model.encode(speech, count)
        except TooShortUttError as error:
            sizes = (int(getattr(error, name)) for name in ("actual_size", "limit"))
            raise UtteranceTooShortError(str(error), *sizes) from error
        if isinstance(encoded, tuple):  # with the outputs of InterCTC
            encoded = encoded[0]
        scores: Tensor = self._model.ctc.log_softmax(encoded)[0]  # (T, V)
        return scores[: int(lengths[0])]

    def normalized(self, text: str) -> str:
        """Return a text as the model's own cleaner leaves it."""
        return str(self._preprocess.text_cleaner(text))

    def split(self, text: str) -> list[tuple[str, int | None]]:
        """Return the tokens of a text with their classes; None where the model has none."""
        pieces = [str(piece) for piece in self._preprocess.tokenizer.text2tokens(text)]
        known = {name: number for name, number in self._classes.items() if name != "<unk>"}
        return [(piece, known.get(piece)) for piece in pieces]


def _find(config: dict[str, Any], keys: tuple[str, ...], folder: Path) -> list[str]:
    """Make a file of a configuration absolute: its path is relative to where the training ran."""
    table: Any = config
    for key in keys[:-1]:
        table = table.get(key) or {}
    name = table.get(keys[-1])
    if not isinstance(name, str):
        return []
    places = [Path(name), *(above / name for above in folder.resolve().parents), folder / name]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        return [f"{'.'.join(keys)}: there is no file {name}, seen from here or from the model"]
    table[keys[-1]] = str(found.resolve())
    return []


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
