"""Checkpoints of both toolkits in small, and what is read from them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from nas_encoder import build_encoder, load_genotype
from nas_encoder.baselines import DFSMNSAN, DFSMNSANConfig
from nas_encoder.interchange.files import Archive, load_tensors

BINS, WIDTH = 10, 6
CELLS = {"channels": 2, "layers": 3, "stem_stride": [1, 2]}
BLOCKS = {"blocks": 2, "attention_layers": 1, "hidden_size": 6, "attention_heads": 2}
CHARACTERS = ["<blank>", "<unk>", "<space>", "A", "B", "<sos/eos>"]


def encoder_of(kind: str) -> tuple[dict[str, Any], torch.nn.Module]:
    if kind == "nas":
        conf: dict[str, Any] = {**CELLS, "output_size": WIDTH}
        network = build_encoder("darts_v2", input_size=BINS, **conf)
        return {**conf, "genotype": load_genotype("darts_v2").to_dict()}, network
    conf = {**BLOCKS, "output_size": WIDTH}
    return conf, DFSMNSAN(DFSMNSANConfig(input_size=BINS, **conf))


def espnet_folder(folder: Path, kind: str = "nas", **changes: Any) -> Path:
    """Write what ESPnet writes; ``changes`` are of the config."""
    torch.manual_seed(3)
    folder.mkdir(parents=True, exist_ok=True)
    conf, network = encoder_of(kind)
    config = {
        "token_list": CHARACTERS,
        "token_type": "char",
        "bpemodel": None,
        "frontend": "default",
        "frontend_conf": {"fs": "16k", "n_fft": 512, "hop_length": 160, "n_mels": BINS},
        "normalize": "global_mvn",
        "normalize_conf": {"stats_file": "exp/stats/feats_stats.npz"},
        "encoder": kind,
        "encoder_conf": conf,
        "decoder": "transformer",
        "model_conf": {"ctc_weight": 0.3},
        "train_data_path_and_name_and_type": [["dump/raw/train/wav.scp", "speech", "sound"]],
        "specaug": "specaug",
        **changes,
    }
    count = len(config["token_list"])
    state = {f"encoder.network.{name}": t for name, t in network.state_dict().items()}
    state |= {
        "ctc.ctc_lo.weight": torch.randn(count, WIDTH),
        "ctc.ctc_lo.bias": torch.randn(count),
        "frontend.logmel.melmat": torch.rand(257, BINS),
        "normalize.mean": torch.randn(BINS),
        "normalize.std": torch.rand(BINS) + 1,
        "decoder.embed.0.weight": torch.randn(4, 4),
    }
    if config["normalize"] != "global_mvn":
        del state["normalize.mean"], state["normalize.std"]
    torch.save(state, folder / "valid.acc.ave.pth")
    (folder / "config.yaml").write_text(yaml.safe_dump(config), "utf-8")
    return folder


def state_of(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".nemo":
        return load_tensors(Archive(path).read("model_weights.ckpt"), str(path))
    return load_tensors(path, str(path))


def config_of(path: Path) -> dict[str, Any]:
    if path.suffix == ".nemo":
        return dict(yaml.safe_load(Archive(path).read("model_config.yaml")))
    return dict(yaml.safe_load(path.read_text("utf-8")))


def assert_equal(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        assert torch.equal(found[name], value), name


def nemo_file(path: Path, config: Mapping[str, Any], state: Mapping[str, Tensor]) -> Path:
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    with tarfile.open(path, "w:gz") as tar:
        for name, data in (
            ("./model_config.yaml", yaml.safe_dump(dict(config)).encode()),
            ("./model_weights.ckpt", buffer.getvalue()),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path
