"""Conversion between the toolkits' checkpoints, without either toolkit: there and back."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from interchange_samples import (
    BINS,
    CELLS,
    CHARACTERS,
    WIDTH,
    assert_equal,
    config_of,
    encoder_of,
    espnet_folder,
    nemo_file,
    state_of,
)

from nas_encoder import build_encoder, load_genotype
from nas_encoder.cli.main import main
from nas_encoder.errors import CheckpointError
from nas_encoder.interchange.convert import convert
from nas_encoder.interchange.espnet_files import read_encoder
from nas_encoder.interchange.features import reflect
from nas_encoder.interchange.nemo_files import seconds

# -- there and back ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["nas", "dfsmn_san"])
def test_there_and_back_to_the_bit(tmp_path: Path, kind: str) -> None:
    source = espnet_folder(tmp_path / "exp", kind)
    there, back = tmp_path / "m.nemo", tmp_path / "back"
    done = convert(source, there)
    assert done.model.left_out == {
        "attention or transducer decoders differ between the toolkits": ["decoder.embed.0.weight"]
    }
    convert(there, back)
    convert(back, tmp_path / "again.nemo")
    original = state_of(source / "valid.acc.ave.pth")
    del original["decoder.embed.0.weight"]
    assert_equal(state_of(back / "model.pth"), original)
    assert_equal(state_of(tmp_path / "again.nemo"), state_of(there))
    assert config_of(tmp_path / "again.nemo") == config_of(there)
    written, given = config_of(back / "config.yaml"), config_of(source / "config.yaml")
    assert written["encoder_conf"] == given["encoder_conf"]
    assert written["token_list"] == CHARACTERS
    assert written["normalize"] == "global_mvn"
    assert Path(written["normalize_conf"]["stats_file"]).is_file()
    conf = written["frontend_conf"]
    assert (conf["fs"], conf["n_fft"], conf["hop_length"]) == (16000, 512, 160)


@pytest.mark.parametrize("space", ["nasbench_asr", "tdnn_chain"])
def test_networks_of_other_spaces(tmp_path: Path, space: str) -> None:
    genotype: Any = "nasbench_asr_example"
    conf: dict[str, Any] = {"channels": 6, "output_size": WIDTH}
    if space == "nasbench_asr":
        conf |= {"block_cells": [1, 0, 1, 1], "lstm_size": 4, "conv_groups": 2}
    else:
        genotype = {"schema": 1, "name": "chain", "space": space, "blocks": ["tdnn_c1_d2"] * 4}
    conf["genotype"] = load_genotype(genotype).to_dict()
    network = build_encoder(**conf, input_size=BINS)
    source = espnet_folder(tmp_path / "exp", encoder_conf=conf)
    weights = source / "valid.acc.ave.pth"
    state = {n: t for n, t in state_of(weights).items() if not n.startswith("encoder.")}
    state |= {f"encoder.network.{name}": t for name, t in network.state_dict().items()}
    torch.save(state, weights)
    convert(source, tmp_path / "m.nemo")
    convert(tmp_path / "m.nemo", tmp_path / "back")
    assert config_of(tmp_path / "back" / "config.yaml")["encoder_conf"] == conf
    del state["decoder.embed.0.weight"]
    assert_equal(state_of(tmp_path / "back" / "model.pth"), state)


def test_the_genotype_decides_the_width_if_the_config_does_not() -> None:
    """The CTC layer is as wide as the last stage: 256 in the shipped configuration, not 512."""
    file = Path(__file__).parents[2] / "conf" / "train" / "espnet" / "train_asr_blocks_ctc.yaml"
    config = config_of(file)
    conf = config["encoder_conf"]
    assert "output_size" not in conf
    network: Any = build_encoder(**conf, input_size=80)
    state = {f"encoder.network.{name}": t for name, t in network.state_dict().items()}
    encoder, _ = read_encoder("config", config, state)
    assert encoder.problems() == []
    assert encoder.options["output_size"] == network.output_size != 512
    # Where the space has a width of its own, nothing changes; null is no width either.
    for genotype, width in (("darts_v2", 512), ("nasbench_asr_example", 512)):
        blocks = {"block_size": 40, "hop_size": 16, "look_ahead": 16}  # ESPnet's, for its streams
        conf = {"genotype": genotype, "output_size": None, **blocks}
        encoder, _ = read_encoder("config", {"encoder": "nas", "encoder_conf": conf}, {})
        assert encoder.options["output_size"] == width and not blocks.keys() & encoder.options
    san = {"encoder": "dfsmn_san", "encoder_conf": {**blocks, "look_ahead": 3}}
    options = read_encoder("config", san, {})[0].options
    assert options["look_ahead"] == 3 and "hop_size" not in options


def test_what_nemo_gets(tmp_path: Path) -> None:
    source = espnet_folder(tmp_path / "exp")
    convert(source, tmp_path / "m.nemo")
    config, state = config_of(tmp_path / "m.nemo"), state_of(tmp_path / "m.nemo")
    assert config["target"].endswith(".EncDecCTCModel")
    assert config["labels"] == ["<unk>", " ", "A", "B", "<sos/eos>"]
    assert config["decoder"]["num_classes"] == 5
    assert config["encoder"]["_target_"] == "nas_encoder.nemo.NASEncoder"
    assert (config["encoder"]["feat_in"], config["encoder"]["d_model"]) == (BINS, WIDTH)
    assert config["encoder"]["genotype"] == load_genotype("darts_v2").to_dict()
    assert config["preprocessor"]["_target_"] == "nas_encoder.nemo.ESPnetPreprocessor"
    assert config["preprocessor"]["window_stride"] == 0.01
    original = state_of(source / "valid.acc.ave.pth")
    weight = original["ctc.ctc_lo.weight"]
    assert torch.equal(state["decoder.decoder_layers.0.weight"][-1, :, 0], weight[0])  # the blank
    assert torch.equal(state["decoder.decoder_layers.0.weight"][:-1, :, 0], weight[1:])
    assert torch.equal(state["preprocessor.featurizer.std"], original["normalize.std"])


def test_genotype_by_name_becomes_inline(tmp_path: Path) -> None:
    conf = {**CELLS, "output_size": WIDTH, "genotype": "darts_v2"}
    convert(espnet_folder(tmp_path / "exp", encoder_conf=conf), tmp_path / "m.nemo")
    assert config_of(tmp_path / "m.nemo")["encoder"]["genotype"]["space"] == "darts"


@pytest.mark.parametrize("kind", ["nas", "dfsmn_san"])
def test_encoder_alone(tmp_path: Path, kind: str) -> None:
    source = espnet_folder(tmp_path / "exp", kind, frontend="s3prl", preencoder="linear")
    there, back = tmp_path / "there", tmp_path / "back"
    done = convert(source, there, encoder_only=True)
    assert "the CTC layer" in done.model.left_out["not part of the encoder"]
    names = {"encoder.yaml", "encoder.ckpt", "model.card.md"}
    assert {f.name for f in done.files} == names | ({"genotype.yaml"} if kind == "nas" else set())
    loaded = torch.load(there / "encoder.ckpt", weights_only=True)
    assert set(loaded) == {"state_dict"}  # what init_from_ptl_ckpt reads
    convert(there, back, encoder_only=True)
    original = state_of(source / "valid.acc.ave.pth")
    encoder = {name: t for name, t in original.items() if name.startswith("encoder.")}
    assert_equal(loaded["state_dict"], encoder)
    assert_equal(state_of(back / "encoder.pth"), encoder)
    block = yaml.safe_load((back / "encoder.yaml").read_text("utf-8"))
    assert block["encoder"] == kind
    assert block["encoder_conf"] == encoder_of(kind)[0]
    with pytest.raises(CheckpointError, match="holds nothing but an encoder"):
        convert(back, tmp_path / "m.nemo")


def test_packed_model(tmp_path: Path) -> None:
    source = espnet_folder(tmp_path / "exp")
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as archive:
        meta = {
            "files": {"asr_model_file": "exp/valid.acc.ave.pth"},
            "yaml_files": {"asr_train_config": "exp/config.yaml"},
        }
        archive.writestr("meta.yaml", yaml.safe_dump(meta))
        for name in ("valid.acc.ave.pth", "config.yaml"):
            archive.write(source / name, f"exp/{name}")
    convert(tmp_path / "packed.zip", tmp_path / "a.nemo")
    convert(source, tmp_path / "b.nemo")
    assert_equal(state_of(tmp_path / "a.nemo"), state_of(tmp_path / "b.nemo"))
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as archive:
        archive.writestr("meta.yaml", "files: {}")
    with pytest.raises(CheckpointError, match=r"meta.yaml: yaml_files.asr_train_config"):
        convert(tmp_path / "empty.zip", tmp_path / "c.nemo")


def test_utterance_normalization_and_none(tmp_path: Path) -> None:
    for name in ("utterance_mvn", None):
        source = espnet_folder(tmp_path / str(name), normalize=name, normalize_conf={})
        convert(source, tmp_path / f"{name}.nemo")
        block = config_of(tmp_path / f"{name}.nemo")["preprocessor"]
        assert block.get("normalize") == (name and "utterance")
        assert block.get("norm_vars") == (False if name else None)  # ESPnet's default
        convert(tmp_path / f"{name}.nemo", tmp_path / f"{name}_back")
        assert config_of(tmp_path / f"{name}_back" / "config.yaml")["normalize"] == name


def test_nemos_own_features_go_to_espnet_and_back(tmp_path: Path) -> None:
    convert(espnet_folder(tmp_path / "exp"), tmp_path / "m.nemo")
    config, state = config_of(tmp_path / "m.nemo"), state_of(tmp_path / "m.nemo")
    config["preprocessor"] = {
        "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
        "sample_rate": 16000,
        "window_size": 0.025,
        "window_stride": 0.01,
        "normalize": "per_feature",
        "features": BINS,
        "n_fft": 512,
        "pad_to": 16,
    }
    state = {name: t for name, t in state.items() if not name.startswith("preprocessor.")}
    state |= {
        "preprocessor.featurizer.window": torch.rand(400),
        "preprocessor.featurizer.fb": torch.rand(1, BINS, 257),
    }
    native = nemo_file(tmp_path / "native.nemo", config, state)
    convert(native, tmp_path / "espnet")
    written = config_of(tmp_path / "espnet" / "config.yaml")
    # Without this package ESPnet prints that name and nothing else.
    assert (written["frontend"], written["normalize"]) == ("nas_encoder.nemo", None)
    assert written["frontend_conf"]["n_window_size"] == 400
    assert written["frontend_conf"]["n_window_stride"] == 160
    convert(tmp_path / "espnet", tmp_path / "again.nemo")
    assert_equal(state_of(tmp_path / "again.nemo"), state)
    block = config_of(tmp_path / "again.nemo")["preprocessor"]
    assert (block["window_size"], block["window_stride"]) == (0.025, 0.01)
    for change, words in (
        ({"frame_splicing": 3}, "frame_splicing"),
        ({"exact_pad": True}, "exact_pad"),
        ({"normalize": {"fixed_mean": [0.0], "fixed_std": [1.0]}}, "normalize"),
        ({"_target_": "nemo.collections.asr.modules.AudioToMFCCPreprocessor"}, "AudioToMFCC"),
    ):
        changed = {**config, "preprocessor": {**config["preprocessor"], **change}}
        nemo_file(tmp_path / "odd.nemo", changed, state)
        with pytest.raises(CheckpointError, match=words):
            convert(tmp_path / "odd.nemo", tmp_path / "odd")
        convert(tmp_path / "odd.nemo", tmp_path / "odd_encoder", encoder_only=True)


def test_hybrid_and_adapters(tmp_path: Path) -> None:
    convert(espnet_folder(tmp_path / "exp"), tmp_path / "m.nemo")
    config, state = config_of(tmp_path / "m.nemo"), state_of(tmp_path / "m.nemo")
    config["aux_ctc"] = {"decoder": config.pop("decoder")}
    hybrid = {name.replace("decoder.", "ctc_decoder.", 1): t for name, t in state.items()}
    hybrid |= {"joint.pred.weight": torch.zeros(2), "encoder.adapter_points.x": torch.zeros(1)}
    nemo_file(tmp_path / "hybrid.nemo", config, hybrid)
    done = convert(tmp_path / "hybrid.nemo", tmp_path / "espnet")
    left = [name for names in done.model.left_out.values() for name in names]
    assert sorted(left) == ["encoder.adapter_points.x", "joint.pred.weight"]
    assert any("adapters" in note for note in done.model.notes)
    original = state_of(tmp_path / "exp" / "valid.acc.ave.pth")
    found = state_of(tmp_path / "espnet" / "model.pth")
    assert torch.equal(found["ctc.ctc_lo.weight"], original["ctc.ctc_lo.weight"])


# -- the rest ------------------------------------------------------------------------------------


def test_reflection_is_torchs_for_one_utterance() -> None:
    signal = torch.randn(1, 50)
    expected = torch.nn.functional.pad(signal[None], (20, 20), mode="reflect")[0]
    assert torch.equal(reflect(signal, torch.tensor([50]), 20), expected)
    both = torch.cat([signal, torch.randn(1, 50)])
    found = reflect(both, torch.tensor([50, 30]), 20)
    alone = torch.nn.functional.pad(both[None, 1:, :30], (20, 20), mode="reflect")[0]
    assert torch.equal(found[1:, :70], alone)
    assert not found[1, 70:].any()


def test_durations_survive_nemos_cutting_off() -> None:
    for rate in (8000, 11025, 16000, 22050, 44100, 48000):
        for count in range(1, 2049):
            assert int(seconds(count, rate) * rate) == count


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = espnet_folder(tmp_path / "exp")
    assert main(["convert", str(source), str(tmp_path / "m.nemo")]) == 0
    text = capsys.readouterr().out
    assert "darts_v2" in text and "left out   decoder.embed.0.weight" in text
    out = tmp_path / "enc"
    assert main(["convert", str(tmp_path / "m.nemo"), str(out), "--encoder-only", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["from"], facts["to"], facts["encoder_only"]) == ("nemo", "espnet", True)
    assert facts["encoder"]["parameters"] == sum(
        p.numel() for p in encoder_of("nas")[1].parameters()
    )
    assert main(["convert", str(tmp_path / "nothing"), str(out)]) == 2
    assert "nothing" in capsys.readouterr().err


def test_card_says_what_is_known(tmp_path: Path) -> None:
    convert(espnet_folder(tmp_path / "exp"), tmp_path / "m.nemo")
    card = (tmp_path / "m.card.md").read_text("utf-8")
    genotype = load_genotype("darts_v2")
    for words in (
        "# m\n",
        genotype.hash,
        "converted from: ESPnet, valid.acc.ave.pth",
        "training: dump/raw/train/wav.scp",
        "validation: unknown",
        "Nothing is known.",
        "normal cell",
    ):
        assert words in card, words
