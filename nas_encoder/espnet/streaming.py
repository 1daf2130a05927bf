"""What ``espnet2.bin.asr_inference_streaming`` needs of a model, and what it cannot decode.

``Speech2TextStreaming`` asserts that the encoder is one of ESPnet's two of blocks, and that
``encoder_conf`` holds the sizes of their blocks, which it does not read. Of what else it takes for
granted it says nothing: it computes features of each chunk by itself, for one front end, and calls
the encoder directly. So both are checked here, and said in words.

S input frames per output frame.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from nas_encoder.baselines import options_of
from nas_encoder.common.problems import is_integer, show
from nas_encoder.common.wrapping import wrap_once
from nas_encoder.errors import ConfigError, InputError
from nas_encoder.tables import BLOCK_OPTIONS

PROGRAM = "espnet2.bin.asr_inference_streaming"
INSTEAD = "decode with espnet2.bin.asr_inference (asr.sh: --use_streaming false)"


def block_options(kind: str) -> tuple[str, ...]:
    """Return the names that are ESPnet's for ``nas`` or a baseline, not the encoder's own."""
    own = options_of(kind)
    return tuple(name for name in BLOCK_OPTIONS if name not in own)


def obstacles(network: Any) -> tuple[str, ...]:
    """Return why a network does not stream, in the words of ``nas-encoder show``; () if it does."""
    try:
        network.lookahead()
    except ConfigError as error:
        return error.problems
    return ()


def later_frames(network: Any) -> int:
    """Return how many output frames' input, after its own, an output frame depends on at most."""
    return int(network.lookahead()) // int(network.subsampling_factor)


def check_blocks(kind: str, network: Any, given: Mapping[str, Any]) -> list[str]:
    """Check the sizes of blocks in ``encoder_conf`` against the encoder.

    They count output frames. An encoder of blocks gives ``hop_size`` frames at a time, each of
    which depends on at most ``hop_size - 1 + look_ahead`` later ones. Ours gives each frame as soon
    as it can; what is given bounds what it may depend on.

    Args:
        kind: ``nas`` or a baseline.
        network: Its network.
        given: The sizes; None for one that is not given.

    Returns:
        All problems.
    """
    sizes = {name: value for name, value in given.items() if value is not None}
    names = block_options(kind)
    if not sizes:
        return []
    place = ", ".join(sizes)
    if reasons := obstacles(network):
        return [f"{place}: are for encoders that stream; {reason}" for reason in reasons]
    found = [f"{name}: is missing beside {place}" for name in names if name not in sizes]
    for name, value in sizes.items():
        low = 0 if name == "look_ahead" else 1
        if not is_integer(value, low):
            found.append(f"{name}: must be an integer of at least {low}, got {show(value)}")
    if found:
        return found
    shown = sizes["hop_size"] + sizes.get("look_ahead", 0)
    if sizes["block_size"] < shown:
        rule = f"must be at least {' + '.join(name for name in names if name != 'block_size')}"
        found.append(f"block_size: {rule}, {shown}, got {sizes['block_size']}")
    later = later_frames(network)
    if "look_ahead" in sizes and shown - 1 < later:
        found.append(
            f"hop_size, look_ahead: allow an output frame to depend on hop_size - 1 + look_ahead = "
            f"{shown - 1} later ones, but it depends on {later}; give {fitting(network)}, other "
            "sizes of this bound, or none"
        )
    return found


def fitting(network: Any) -> dict[str, int]:
    """Return the smallest sizes of blocks that hold for a network."""
    later = later_frames(network)
    return {"block_size": later + 1, "hop_size": 1, "look_ahead": later}


def complete(conf: dict[str, Any], network: Any) -> None:
    """Add the sizes that ``encoder_conf`` lacks, in place."""
    own = getattr(network, "config", None)
    for name, value in fitting(network).items():
        if conf.get(name) is None:
            conf[name] = getattr(own, name, value)


def step(
    network: Any, chunk: Any, lengths: Any, state: Any, last: bool, condition: Any
) -> tuple[Any, Any]:
    """Encode a chunk of streams that are in step: see ``TappedEncoder.step``.

    Args:
        network: The network.
        chunk: (B, t, F).
        lengths: (B,), t of each.
        state: None in the beginning.
        last: Whether the streams end.
        condition: As of ``TappedEncoder.step``.

    Returns:
        (B, t', D) and the next state.

    Raises:
        InputError: The chunk has padding, or ``step`` refuses it.
    """
    if chunk.dim() == 3 and bool((lengths != chunk.size(1)).any()):
        raise InputError(
            f"lengths: must be those of the whole chunk, {chunk.size(1)} frames, with infer_mode, "
            f"got {lengths.tolist()}"
        )
    if state is None:
        state = network.initial_state(chunk.size(0))
    return network.step(chunk, state, last, condition=condition)  # type: ignore[no-any-return]


def require(model: Any, args: Any) -> None:
    """Check a model of ours that ``Speech2TextStreaming`` shall decode.

    Args:
        model: ESPnet's model.
        args: The settings that it was built from.

    Raises:
        ConfigError: It cannot be, or only wrongly; lists all reasons.
    """
    encoder, frontend, normalize = model.encoder, args.frontend, args.normalize
    found = [f"encoder: {reason}" for reason in obstacles(encoder.network)]
    if encoder.interctc_use_conditioning:
        found.append("encoder_conf.interctc_use_conditioning: the program gives no CTC module")
    if frontend != "default":
        rule = "must be 'default', the only one whose chunks the program joins"
        found.append(f"frontend: {rule}, got {show(frontend)}")
    else:
        found += _frontend_problems(model.frontend)
    if normalize not in (None, "global_mvn"):
        rule = "must be global_mvn or null: of a chunk, the program would take its own statistics"
        found.append(f"normalize: {rule}, got {show(normalize)}")
    for name in ("preencoder", "postencoder"):
        if getattr(model, name, None) is not None:
            found.append(f"{name}: the program leaves it out")
    if getattr(model, "use_transducer_decoder", False):
        found.append("decoder: the program does not decode transducers")
    if found:
        subject = f"encoder '{encoder.kind}' in {PROGRAM}"
        raise ConfigError(subject, [*found[:-1], f"{found[-1]}; {INSTEAD}"])


def _frontend_problems(frontend: Any) -> list[str]:
    stft, found = getattr(frontend, "stft", None), []
    if stft is None or not stft.center:
        found.append("frontend_conf: apply_stft and center must be true in the program")
    speech = getattr(frontend, "frontend", None)
    if getattr(speech, "use_wpe", False) or getattr(speech, "use_beamformer", False):
        found.append("frontend_conf.frontend_conf: WPE and beamformer need the whole utterance")
    return found


def register(module: ModuleType) -> None:
    """Let ``Speech2TextStreaming`` check a model that it is given; a second call changes nothing.

    One that it reads from files is checked where it is built (:mod:`.advice`).
    """
    wrap_once(module.Speech2TextStreaming, "__init__", _checked)


def _checked(init: Callable[..., None], *args: Any, **kwargs: Any) -> None:
    given = inspect.signature(init).bind(*args, **kwargs).arguments
    model, settings = given.get("asr_model"), given.get("asr_train_args")
    if settings is not None and hasattr(getattr(model, "encoder", None), "portable_conf"):
        require(model, settings)
    init(*args, **kwargs)
