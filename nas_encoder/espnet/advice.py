"""What ESPnet leaves unsaid about a model with our encoder: checked while the model is built.

ESPnet tells a model nothing about the program that builds it, and ``python -m espnet2.bin...``
cannot be hooked. So the calling frames are read: the file that asks for the model, and the value of
``ctc_weight`` there.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

from nas_encoder.errors import InputError
from nas_encoder.espnet.encoder import NetworkEncoder, StreamingEncoder
from nas_encoder.espnet.streaming import PROGRAM, complete, require

CTC_DECODING = "--ctc_weight 1.0 --lm_weight 0.0 --penalty 0.0"
CTC_RECIPE = "--inference_asr_model valid.cer_ctc.ave.pth --inference_config conf/decode_ctc.yaml"


def refuse_streaming(name: str) -> None:
    """Refuse the programs that decode streams in another way than that for recognition.

    Args:
        name: Name of the encoder in the config.

    Raises:
        InputError: One of them is building the model.
    """
    for frame in _programs("_inference_streaming"):
        program = ".".join(Path(frame.f_code.co_filename).with_suffix("").parts[-3:])
        if program != PROGRAM:
            raise InputError(
                f"encoder '{name}': streams in {PROGRAM}, not in {program}, which cuts the "
                f"features of chunks differently; decode with {program.removesuffix('_streaming')}"
            )


def advise(model: Any, args: Any) -> None:
    """Warn, once in a process, of settings that make a model useless without an error.

    Args:
        model: The model that was built, which may contain others.
        args: The settings that it was built from. Of a model to decode, they get the sizes of
            blocks that ESPnet's streaming inference wants to find there.

    Raises:
        ConfigError: That program cannot decode the model.
    """
    for part in model.modules():
        if not isinstance(getattr(part, "encoder", None), NetworkEncoder):
            continue
        ctc_only = getattr(part, "ctc", None) is not None and getattr(part, "decoder", 0) is None
        if any(frame.f_code.co_name == "build_model_from_file" for frame in _callers()):
            if any(_programs("_inference_streaming")):
                require(part, args)
            conf = getattr(args, "encoder_conf", None)
            if isinstance(part.encoder, StreamingEncoder) and isinstance(conf, dict):
                complete(conf, part.encoder.network)
            if ctc_only:
                _advise_decoding()
        else:
            _advise_masks(part)
            if ctc_only:
                _advise_selection(args)


def _callers() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def _programs(*endings: str) -> Iterator[FrameType]:
    """Yield the calling frames of ESPnet's own programs whose name has one of these endings."""
    for frame in _callers():
        path = Path(frame.f_code.co_filename)
        if path.stem.endswith(endings) and path.parts[-3:-1] == ("espnet2", "bin"):
            yield frame


@cache
def _warn_once(text: str) -> None:
    logging.warning(text)


def _advise_decoding() -> None:
    programs = _programs("_inference", "_inference_streaming")
    settings = next((frame.f_locals for frame in programs), {})
    weight = settings.get("ctc_weight", 1.0)
    if weight != 1.0:
        _warn_once(
            f"ctc_weight: must be 1.0, got {weight}: this model is CTC only, and with any other "
            "value ESPnet's beam search chooses tokens by a decoder that the model lacks, so the "
            f"text will be wrong. Decode with {CTC_DECODING} (asr.sh: {CTC_RECIPE}; 'nas-encoder "
            "config espnet decode_ctc' prints that file)"
        )


def _advise_masks(part: Any) -> None:
    masks: Any = getattr(getattr(part, "specaug", None), "freq_mask", None)
    bins = part.encoder.network.input_size
    widest = getattr(masks, "mask_width_range", (0, 0))[1] - 1  # ESPnet never draws the bound
    if getattr(part, "preencoder", None) is None and 3 * widest > bins:
        _warn_once(
            f"specaug_conf.freq_mask_width_range: a mask of up to {widest} bins covers more than a "
            f"third of the encoder's {bins} ({masks.num_mask} masks are drawn); ESPnet's usual "
            f"[0, 27] is for 80 bins. Use freq_mask_width_range: [0, {bins // 3 + 1}] or narrower"
        )


def _advise_selection(args: Any) -> None:
    criteria = [list(criterion) for criterion in getattr(args, "best_model_criterion", ())]
    wrong = [criterion for criterion in criteria if criterion[1] in ("acc", "loss_att")]
    if wrong:
        _warn_once(
            f"best_model_criterion: must not rest on a decoder, got {wrong}: the model is CTC only "
            f"and no {'.'.join(wrong[-1][:2])}.ave.pth will be written. Use best_model_criterion: "
            f"[[valid, cer_ctc, min]]; asr.sh then decodes with {CTC_RECIPE}"
        )
