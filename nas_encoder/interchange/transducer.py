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
# Most tokens of a frame in the toolkits' greedy searches: ESPnet's, NeMo's default.
ESPNET_MOST, NEMO_MOST = 1, 10


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
    listed = config.get("token_list")
    problems = []
    if conf.get("rnn_type", "lstm") != "lstm":
        problems.append(f"decoder_conf.rnn_type: must be lstm, got {show(conf['rnn_type'])}")
    if (config.get("model_conf") or {}).get("transducer_multi_blank_durations"):
        problems.append("model_conf.transducer_multi_blank_durations: big blanks are not known")
    activation = joint.get("joint_activation_type", "tanh")
    if activation not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        problems.append(
            f"joint_net_conf.joint_activation_type: must be one of {known}, got {show(activation)}"
        )
    if not isinstance(listed, (list, tuple)) or not listed or listed[0] != BLANK:
        problems.append(f"token_list: must be a list that begins with {BLANK}, got {show(listed)}")
    layers = _layers(take(state, "decoder.decoder."))
    parts = {
        "embed": take(state, "decoder.embed."),
        "lin_enc": take(state, "joint_network.lin_enc."),
        "lin_dec": take(state, "joint_network.lin_dec."),
        "lin_out": take(state, "joint_network.lin_out."),
    }
    problems += _missing({**parts, "decoder": layers})
    if problems:
        return None, [f"transducer: {line}" for line in problems]
    assert isinstance(listed, (list, tuple))
    kind = str(config.get("token_type"))
    names = [str(item) for item in listed]
    out = parts["lin_out"]
    found = Transducer(
        Head(names, out["weight"], out["bias"], kind, piece_model),
        parts["embed"]["weight"],
        layers,
        parts["lin_enc"],
        parts["lin_dec"],
        str(activation),
        ESPNET_MOST,
        {name for name in state if name.startswith(("decoder.", "joint_network."))},
    )
    return found, []


def _layers(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of one LSTM from those of a list of LSTMs of one layer each."""
    found = {}
    for name, value in given.items():
        number, _, rest = name.partition(".")
        found[f"{rest.removesuffix('_l0')}_l{number}"] = value
    return found


def _missing(parts: Mapping[str, Mapping[str, Tensor]]) -> list[str]:
    needed = {"lin_out": ("weight", "bias"), "decoder": ("weight_hh_l0", "weight_ih_l0")}
    return [
        f"{part}.{name}: is not in the checkpoint"
        for part, own in parts.items()
        for name in needed.get(part, ("weight",))
        if name not in own
    ]


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
    parts = {
        "embed": take(state, "decoder.prediction.embed."),
        "decoder": take(state, "decoder.prediction.dec_rnn.lstm."),
        "lin_enc": take(state, "joint.enc."),
        "lin_dec": take(state, "joint.pred."),
        "lin_out": take(state, f"joint.joint_net.{last}."),
    }
    problems += _missing(parts)
    bias = parts["lin_out"].get("bias")
    if not isinstance(labels, list) or (bias is not None and len(labels) + 1 != len(bias)):
        count = "a list" if bias is None else f"a list of {len(bias) - 1} labels"
        problems.append(f"joint.vocabulary: must be {count}, got {show(labels)}")
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
        _most(config),
        {name for name in state if name.startswith(("decoder.", "joint."))},
    )
    return found, []


_LAST = re.compile(r"joint\.joint_net\.(\d+)\.weight$")


def _most(config: Mapping[str, Any]) -> int:
    """Return how many tokens of a frame NeMo's greedy search takes."""
    decoding = config.get("decoding")
    greedy = decoding.get("greedy") if isinstance(decoding, Mapping) else None
    given = greedy if isinstance(greedy, Mapping) else {}
    found = given.get("max_symbols") or given.get("max_symbols_per_step")
    return found if isinstance(found, int) and found > 0 else NEMO_MOST
