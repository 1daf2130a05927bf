"""Reads the transducers of both toolkits: prediction networks and joints."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nas_encoder.common.problems import show
from nas_encoder.interchange import tokens
from nas_encoder.interchange.model import BLANK, ENDS, Head, Transducer, take

ACTIVATIONS = {"tanh": torch.tanh, "relu": torch.relu, "sigmoid": torch.sigmoid}
# Most tokens of a frame in greedy search: in ESPnet's; and here, whatever a model says.
ESPNET_MOST, MOST = 1, 1000
TOKEN_TYPES = ("char", "word", "phn", "bpe")
# What the names of the tensors of each part begin with in ESPnet.
_ESPNET = {
    "embed": "decoder.embed.",
    "decoder": "decoder.decoder.",
    "lin_enc": "joint_network.lin_enc.",
    "lin_dec": "joint_network.lin_dec.",
    "lin_out": "joint_network.lin_out.",
}


def from_espnet(
    config: Mapping[str, Any], state: Mapping[str, Tensor], piece_model: bytes | None
) -> tuple[Transducer | None, list[str]]:
    """Return ESPnet's transducer, or why it cannot be taken; neither if there is none.

    Args:
        config: The training's configuration.
        state: The checkpoint.
        piece_model: The SentencePiece model, for BPE tokens.
    """
    if config.get("decoder") != "transducer":
        return None, []
    conf, joint = config.get("decoder_conf") or {}, config.get("joint_net_conf") or {}
    for name, given in (("decoder_conf", conf), ("joint_net_conf", joint)):
        if not isinstance(given, Mapping):
            return None, [f"transducer: {name}: must be a mapping, got {show(given)}"]
    listed, kind = config.get("token_list"), config.get("token_type")
    problems = []
    if kind not in TOKEN_TYPES:
        known = ", ".join(TOKEN_TYPES)
        problems.append(f"token_type: must be one of {known}, got {show(kind)}")
    if conf.get("rnn_type", "lstm") != "lstm":
        problems.append(f"decoder_conf.rnn_type: must be lstm, got {show(conf['rnn_type'])}")
    if (config.get("model_conf") or {}).get("transducer_multi_blank_durations"):
        problems.append("model_conf.transducer_multi_blank_durations: big blanks are not known")
    activation = str(joint.get("joint_activation_type", "tanh"))
    if activation not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        problems.append(
            f"joint_net_conf.joint_activation_type: must be one of {known}, got {show(activation)}"
        )
    if not isinstance(listed, (list, tuple)) or not listed or listed[0] != BLANK:
        problems.append(f"token_list: must be a list that begins with {BLANK}, got {show(listed)}")
    names = {name for name in state if name.startswith(("decoder.", "joint_network."))}
    parts = {part: take(state, place) for part, place in _ESPNET.items()}
    parts["decoder"] = _layers(parts["decoder"])
    problems += _odd(parts) + _unknown(names, _ESPNET)
    if problems:
        return None, [f"transducer: {line}" for line in problems]
    assert isinstance(listed, (list, tuple))
    out = parts["lin_out"]
    found = Transducer(
        Head([str(item) for item in listed], out["weight"], out["bias"], str(kind), piece_model),
        parts["embed"]["weight"],
        parts["decoder"],
        parts["lin_enc"],
        parts["lin_dec"],
        activation,
        ESPNET_MOST,
        names,
    )
    return found, []


def _layers(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of one LSTM from those of a list of LSTMs of one layer each."""
    found = {}
    for name, value in given.items():
        number, _, rest = name.partition(".")
        found[f"{rest.removesuffix('_l0')}_l{number}"] = value
    return found


def _odd(parts: Mapping[str, Mapping[str, Tensor]]) -> list[str]:
    """Return which tensors are missing, or have no shape of such tensors."""
    needed = {"lin_out": ("weight", "bias"), "decoder": ("weight_hh_l0", "weight_ih_l0")}
    found = []
    for part, own in parts.items():
        for name in needed.get(part, ("weight",)):
            if name not in own:
                found.append(f"{part}.{name}: is not in the checkpoint")
            elif own[name].dim() != (size := 1 if name == "bias" else 2):
                shape = tuple(own[name].shape)
                found.append(f"{part}.{name}: must have {size} dimensions, has shape {shape}")
    return found


def _unknown(names: set[str], places: Mapping[str, str]) -> list[str]:
    """Return the tensors of which nothing is known here, for example those of LoRA.

    Args:
        names: Those of the prediction network and the joint.
        places: Part -> what the names of its tensors begin with.
    """
    known = {place + name for place in places.values() for name in ("weight", "bias")}
    odd = sorted(n for n in names - known if not n.startswith(places["decoder"]))
    more = f", as are {len(odd) - 1} more" if len(odd) > 1 else ""
    return [f"{odd[0]}: is not known{more}"] if odd else []


def from_nemo(
    config: Mapping[str, Any], state: Mapping[str, Tensor], piece_model: bytes | None
) -> tuple[Transducer | None, list[str]]:
    """Return NeMo's transducer, or why it cannot be taken; neither if there is none.

    Arguments as of :func:`from_espnet`.
    """
    decoder, joint = config.get("decoder"), config.get("joint")
    if not isinstance(decoder, Mapping) or not isinstance(joint, Mapping):
        return None, []
    net = joint.get("jointnet") or {}
    if not isinstance(net, Mapping):
        return None, [f"transducer: joint.jointnet: must be a mapping, got {show(net)}"]
    labels = joint.get("vocabulary") or config.get("labels")
    problems = [
        f"{place}._target_: must be {' or '.join(wanted)}, got {show(block.get('_target_'))}"
        for place, block, wanted in (
            ("decoder", decoder, ("RNNTDecoder",)),
            ("joint", joint, ("RNNTJoint", "SampledRNNTJoint")),
        )
        if str(block.get("_target_")).rpartition(".")[2] not in wanted
    ]
    if joint.get("num_extra_outputs"):
        problems.append("joint.num_extra_outputs: durations (TDT) and big blanks are not known")
    if decoder.get("normalization_mode") is not None:
        problems.append("decoder.normalization_mode: normalized LSTMs are not known")
    if any("adapter" in name for name in state if name.startswith(("decoder.", "joint."))):
        problems.append("adapters: the decoder or the joint has some")
    activation = str(net.get("activation", "tanh")).lower()
    if activation not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        problems.append(f"joint.jointnet.activation: must be one of {known}, got {activation}")
    last = max((int(m[1]) for m in map(_LAST.match, state) if m), default=0)
    places = {**_NEMO, "lin_out": f"joint.joint_net.{last}."}
    own_names = {name for name in state if name.startswith(("decoder.", "joint."))}
    parts = {part: take(state, place) for part, place in places.items()}
    wrong = _odd(parts)
    problems += wrong + _unknown(own_names, places)
    bias = None if wrong else parts["lin_out"]["bias"]
    if not isinstance(labels, list) or (bias is not None and len(labels) + 1 != len(bias)):
        count = "a list" if bias is None else f"a list of {len(bias) - 1} labels"
        problems.append(f"joint.vocabulary: must be {count}, got {show(labels)}")
    elif bias is not None:
        classes = len(bias)
        problems += [
            f"{name}: must have {classes} rows, one for each class, has {len(tensor)}"
            for name, tensor, fewest in (
                ("lin_out.weight", parts["lin_out"]["weight"], classes),
                ("embed.weight", parts["embed"]["weight"], classes - 1),  # maybe none for the blank
            )
            if not fewest <= len(tensor) <= classes
        ]
    most = _most(config)
    if most is not None and (type(most) is not int or not 1 <= most <= MOST):
        rule = f"must be null or an integer from 1 to {MOST}, got {show(most)}"
        problems.append(f"decoding.greedy.max_symbols: {rule}")
    if problems:
        return None, [f"transducer: {line}" for line in problems]
    assert isinstance(labels, list)
    names = [str(item) for item in labels]
    kind = "bpe" if piece_model is not None else tokens.guess_type(names)
    own = [tokens.token(name, kind) for name in names]
    if piece_model is not None:
        own = [ENDS if name == tokens.END else name for name in own]
    out, embedding = parts["lin_out"], parts["embed"]["weight"]
    # The blank is NeMo's last class, and a text begins with zeros there, whatever its row.
    order = [len(own), *range(len(own))]
    rows = embedding.new_zeros(len(own) + 1, embedding.size(1))
    rows[1:] = embedding[: len(own)]
    head = Head([BLANK, *own], out["weight"][order], out["bias"][order], kind, piece_model)
    found = Transducer(
        head,
        rows,
        parts["decoder"],
        parts["lin_enc"],
        parts["lin_dec"],
        activation,
        most,
        own_names,
    )
    return found, []


_NEMO = {
    "embed": "decoder.prediction.embed.",
    "decoder": "decoder.prediction.dec_rnn.lstm.",
    "lin_enc": "joint.enc.",
    "lin_dec": "joint.pred.",
}
_LAST = re.compile(r"joint\.joint_net\.(\d+)\.weight$")


def _most(config: Mapping[str, Any]) -> Any:
    """Return how many tokens of a frame NeMo's greedy search takes, unchecked; None without limit.

    Both names are NeMo's, and a configuration with neither has no limit (``rnnt_decoding.py``).
    """
    decoding = config.get("decoding")
    greedy = decoding.get("greedy") if isinstance(decoding, Mapping) else None
    given = greedy if isinstance(greedy, Mapping) else {}
    return given.get("max_symbols") or given.get("max_symbols_per_step")
