"""Conversion between the toolkits' checkpoints, without either toolkit."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from nas_encoder import build_encoder, load_genotype
from nas_encoder.baselines import DFSMNSAN, DFSMNSANConfig
from nas_encoder.cli.main import main
from nas_encoder.errors import CheckpointError, ConfigError
from nas_encoder.interchange import tokens
from nas_encoder.interchange.convert import convert, read, toolkit_of
from nas_encoder.interchange.features import reflect
from nas_encoder.interchange.files import Archive, load_tensors
from nas_encoder.interchange.model import SILENT, Head
from nas_encoder.interchange.nemo_files import seconds

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
    with pytest.raises(CheckpointError, match="holds an encoder alone"):
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
    assert (written["frontend"], written["normalize"]) == ("nemo", None)
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


# -- classes of the CTC layer --------------------------------------------------------------------


def head(names: list[str], token_type: str = "char", model: bytes | None = None) -> Head:
    return Head(names, torch.randn(len(names), 3), torch.randn(len(names)), token_type, model)


def test_nemo_labels_get_what_espnet_needs_and_lose_it_again() -> None:
    weight, bias = torch.randn(4, 3, 1), torch.randn(4)
    found = tokens.from_nemo([" ", "a", "b"], weight, bias, None, "char")
    assert found.tokens == ["<blank>", "<unk>", "<space>", "a", "b", "<sos/eos>"]
    assert torch.equal(found.weight[[0, 2, 3, 4]], weight[[3, 0, 1, 2], :, 0])
    assert found.bias[[1, 5]].tolist() == [SILENT, SILENT]
    labels, weight_again, bias_again, lost = tokens.to_nemo(found)
    assert (labels, lost) == ([" ", "a", "b"], [])
    assert torch.equal(weight_again, weight)
    assert torch.equal(bias_again, bias)


def test_words_are_joined_with_spaces() -> None:
    given = head(["<blank>", "<unk>", "sil", "aa", "<sos/eos>"], "word")
    labels, weight, bias, _ = tokens.to_nemo(given)
    assert "".join([labels[1], labels[2]]) == "sil aa "
    assert tokens.guess_type(labels) == "word"
    found = tokens.from_nemo(labels, weight, bias, None, tokens.guess_type(labels))
    assert found.tokens == given.tokens
    assert torch.equal(found.weight, given.weight)
    assert tokens.guess_type([" ", "a"]) == "char"


@pytest.fixture(scope="module")
def bpe(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    sentencepiece = pytest.importorskip("sentencepiece", reason="the extra 'bpe'")
    folder = tmp_path_factory.mktemp("bpe")
    (folder / "text").write_text("low lower lowest new newer newest\n" * 4, "utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text"),
        model_prefix=str(folder / "bpe"),
        vocab_size=16,
        model_type="bpe",
        minloglevel=2,
    )
    return (folder / "bpe.model").read_bytes()


def test_bpe_classes(bpe: bytes, tmp_path: Path) -> None:
    pieces = list(tokens.pieces_of(bpe))
    assert pieces[:3] == ["<unk>", "<s>", "</s>"]
    names = ["<blank>", "<unk>", *pieces[3:], "<sos/eos>"]  # as asr.sh writes them
    given = head(names, "bpe", bpe)
    labels, weight, bias, lost = tokens.to_nemo(given)
    assert (labels, lost) == (pieces, [])
    assert torch.equal(weight[2, :, 0], given.weight[-1])  # </s> is <sos/eos>
    assert bias[1] == SILENT  # <s>
    found = tokens.from_nemo(labels, weight, bias, bpe, "bpe")
    assert found.tokens == names
    assert torch.equal(found.weight, given.weight)
    odd = head([*names[:-1], "<laugh>", "<sos/eos>"], "bpe", bpe)
    assert tokens.to_nemo(odd)[3] == ["<laugh>"]
    (tmp_path / "my.model").write_bytes(bpe)
    source = espnet_folder(tmp_path / "exp", token_list=names, token_type="bpe", bpemodel="no/such")
    with pytest.raises(CheckpointError, match="--bpe-model"):
        convert(source, tmp_path / "m.nemo")
    convert(source, tmp_path / "m.nemo", bpe_model=str(tmp_path / "my.model"))
    config = config_of(tmp_path / "m.nemo")
    assert config["target"].endswith(".EncDecCTCModelBPE")
    assert Archive(tmp_path / "m.nemo").read("tokenizer.model") == bpe
    convert(tmp_path / "m.nemo", tmp_path / "back")
    assert (tmp_path / "back" / "bpe.model").read_bytes() == bpe
    assert config_of(tmp_path / "back" / "config.yaml")["token_list"] == names
    assert_equal(
        {n: t for n, t in state_of(tmp_path / "back" / "model.pth").items() if "ctc" in n},
        {n: t for n, t in state_of(source / "valid.acc.ave.pth").items() if "ctc" in n},
    )


def test_what_is_no_bpe_model(tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece")
    (tmp_path / "my.model").write_bytes(b"no model")
    source = espnet_folder(tmp_path / "exp", token_type="bpe", bpemodel=str(tmp_path / "my.model"))
    with pytest.raises(CheckpointError, match="is no SentencePiece model"):
        convert(source, tmp_path / "m.nemo")


# -- what cannot be read or converted ------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"frontend": "s3prl"}, "frontend: 's3prl' cannot be computed"),
        ({"preencoder": "linear"}, "preencoder: 'linear': has no counterpart"),
        ({"input_size": BINS}, "features are not the model's own"),
        ({"normalize": "other"}, "normalize: 'other'"),
        ({"token_type": "hugging_face"}, "token_type: 'hugging_face'"),
        ({"model_conf": {"ctc_weight": 0}}, "no trained CTC layer"),
        ({"frontend_conf": {"n_mels": BINS, "frontend_conf": {"use_wpe": True}}}, "WPE"),
        ({"frontend_conf": {"n_mels": BINS, "frontend_conf": 3}}, "frontend_conf: must be a map"),
        ({"frontend_conf": {"n_mels": BINS, "fs": "many"}}, "sample_rate: must be a whole number"),
        ({"frontend_conf": {"n_mels": BINS, "some": 1}}, "some: unknown option"),
        ({"frontend_conf": {"n_mels": BINS, "n_fft": 256}}, r"melmat: must have shape \(129, 10\)"),
        ({"token_list": CHARACTERS[:-1] + ["A"]}, "listed twice"),
    ],
)
def test_obstacles_leave_the_encoder(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    source = espnet_folder(tmp_path / "exp", **changes)
    with pytest.raises(CheckpointError, match=words) as caught:
        convert(source, tmp_path / "m.nemo")
    assert "--encoder-only" in str(caught.value)
    assert not (tmp_path / "m.nemo").exists()
    convert(source, tmp_path / "encoder", encoder_only=True)
    assert (tmp_path / "encoder" / "encoder.ckpt").is_file()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"encoder": "conformer"}, "encoder: must be one of nas, dfsmn_san"),
        ({"encoder_conf": {**CELLS, "output_size": WIDTH}}, "genotype: is missing"),
        (
            {"encoder_conf": {**encoder_of("nas")[0], "layers": 5}},
            "is missing, as are|is unknown to the network",
        ),
        ({"encoder_conf": {**encoder_of("nas")[0], "output_size": 7}}, r"has shape \(6,|CTC layer"),
        ({"encoder_conf": {**encoder_of("nas")[0], "chanels": 2}}, "encoder_conf.chanels"),
        (
            {"encoder_conf": {**encoder_of("nas")[0], "interctc_use_conditioning": True}},
            "self-conditioned",
        ),
        (
            {"encoder_conf": [1], "model_conf": 3},
            r"encoder_conf: must be (.|\n)*model_conf: must be",
        ),
        ({"frontend_conf": "x"}, "frontend_conf: must be a mapping"),
    ],
)
def test_bad_models(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    source = espnet_folder(tmp_path / "exp", **changes)
    with pytest.raises(CheckpointError, match=words):
        convert(source, tmp_path / "m.nemo")


def test_which_checkpoint(tmp_path: Path) -> None:
    source = espnet_folder(tmp_path / "exp")
    for name in ("3epoch.pth", "checkpoint.pth", "latest.pth", "valid.acc.best.pth"):
        (source / name).write_bytes((source / "valid.acc.ave.pth").read_bytes())
    assert read(source).source.endswith("valid.acc.ave.pth")
    assert read(source / "3epoch.pth").source.endswith("3epoch.pth")
    assert read(source, "valid.acc.best.pth").source.endswith("valid.acc.best.pth")
    (source / "valid.loss.ave.pth").write_bytes((source / "latest.pth").read_bytes())
    with pytest.raises(CheckpointError, match="several: valid.acc.ave.pth, valid.loss.ave.pth"):
        read(source)
    for path in source.glob("valid.*"):
        path.unlink()
    with pytest.raises(CheckpointError, match="3epoch.pth, checkpoint.pth, latest.pth"):
        read(source)
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        read(source, "other.pth")
    convert(espnet_folder(tmp_path / "b"), tmp_path / "m.nemo")
    with pytest.raises(ConfigError, match="--checkpoint"):
        convert(tmp_path / "m.nemo", tmp_path / "out", checkpoint="x.pth")


class Evil:
    """Writes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    source, mark = espnet_folder(tmp_path / "exp"), tmp_path / "executed"
    torch.save({"encoder.x": Evil(mark)}, source / "valid.acc.ave.pth")
    with pytest.raises(CheckpointError, match="could run code"):
        convert(source, tmp_path / "m.nemo")
    (source / "valid.acc.ave.pth").write_bytes(pickle.dumps(Evil(mark)))
    with pytest.raises(CheckpointError, match="valid.acc.ave.pth"):
        convert(source, tmp_path / "m.nemo")
    assert not mark.exists()
    for odd, words in (
        ({3: torch.zeros(1)}, "3: must be the name"),
        ({"a": 3}, "a: must be a ten"),
    ):
        torch.save(odd, source / "valid.acc.ave.pth")
        with pytest.raises(CheckpointError, match=words):
            convert(source, tmp_path / "m.nemo")


def test_archives_are_never_unpacked(tmp_path: Path) -> None:
    convert(espnet_folder(tmp_path / "exp"), tmp_path / "m.nemo")
    good = Archive(tmp_path / "m.nemo")
    bad = tmp_path / "bad.nemo"
    with tarfile.open(bad, "w") as tar:
        for name in ("model_config.yaml", "model_weights.ckpt"):
            data = good.read(name)
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        escaping = tarfile.TarInfo("../escaped")
        escaping.size = 3
        tar.addfile(escaping, io.BytesIO(b"bad"))
        link = tarfile.TarInfo("link.yaml")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)
    convert(bad, tmp_path / "out")
    assert not (tmp_path.parent / "escaped").exists()
    assert not list(tmp_path.rglob("escaped"))
    with pytest.raises(CheckpointError, match="holds no file 'link.yaml'"):
        Archive(bad).read("link.yaml")
    config = config_of(bad)
    config["tokenizer"] = {"type": "bpe", "model_path": "nemo:../../etc/hostname"}
    nemo_file(bad, config, state_of(tmp_path / "m.nemo"))
    with pytest.raises(CheckpointError, match="holds no file"):
        convert(bad, tmp_path / "out2")


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello", "utf-8")
    (tmp_path / "empty").mkdir()
    with tarfile.open(tmp_path / "other.nemo", "w"):
        pass
    for name, words in (
        ("text", "neither a .nemo archive nor a packed"),
        ("empty", "holds neither config.yaml"),
        ("other.nemo", "holds neither model_config.yaml"),
        ("missing", "cannot be read"),
    ):
        with pytest.raises(CheckpointError, match=words):
            toolkit_of(tmp_path / name)
    convert(espnet_folder(tmp_path / "exp"), tmp_path / "m.nemo")
    data = (tmp_path / "m.nemo").read_bytes()
    (tmp_path / "cut.nemo").write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError):
        convert(tmp_path / "cut.nemo", tmp_path / "out")
    convert(tmp_path / "m.nemo", tmp_path / "encoder", encoder_only=True)
    (tmp_path / "encoder" / "encoder.yaml").write_text("- a list", "utf-8")
    with pytest.raises(CheckpointError, match="none of ours"):
        read(tmp_path / "encoder")


@pytest.mark.parametrize(("place", "value"), [(6, 1), (8, 99)], ids=["encrypted", "method"])
def test_zip_that_python_cannot_unpack(tmp_path: Path, place: int, value: int) -> None:
    path = tmp_path / "packed.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("meta.yaml", "{}")
    data = bytearray(path.read_bytes())
    data[place] = value  # of the file's own header, and of the table at the end
    data[data.index(b"PK\x01\x02") + place + 2] = value
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="meta.yaml: cannot be read"):
        read(path)


def test_of_two_files_of_one_name_the_last_counts(tmp_path: Path) -> None:
    """As in a folder that the archive is unpacked into, which is how NeMo reads it."""
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, data in (("x", b"first"), ("./x", b"last")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    assert Archive(tmp_path / "a.tar").read("x") == b"last"


def test_preprocessor_of_odd_values(tmp_path: Path) -> None:
    convert(espnet_folder(tmp_path / "exp"), tmp_path / "m.nemo")
    config, state = config_of(tmp_path / "m.nemo"), state_of(tmp_path / "m.nemo")
    for name, value in (("sample_rate", "x"), ("window_size", [1]), ("window", 3), ("some", 1)):
        odd = {**config, "preprocessor": {**config["preprocessor"], name: value}}
        nemo_file(tmp_path / "odd.nemo", odd, state)
        with pytest.raises(CheckpointError, match=f"{name}: ") as caught:
            convert(tmp_path / "odd.nemo", tmp_path / "out")
        assert "--encoder-only" in str(caught.value)


def test_a_folder_with_another_model_is_spared(tmp_path: Path) -> None:
    source = espnet_folder(tmp_path / "exp")
    before = (source / "config.yaml").read_bytes()
    convert(source, tmp_path / "m.nemo")
    for encoder_only in (False, True):
        with pytest.raises(ConfigError, match="holds another model"):
            convert(tmp_path / "m.nemo", source, encoder_only=encoder_only)
    assert (source / "config.yaml").read_bytes() == before
    convert(tmp_path / "m.nemo", tmp_path / "out")
    convert(tmp_path / "m.nemo", tmp_path / "out")  # its own result may be written again


def test_output_of_the_wrong_kind(tmp_path: Path) -> None:
    source = espnet_folder(tmp_path / "exp")
    with pytest.raises(ConfigError, match=r"must be a \.nemo file"):
        convert(source, tmp_path / "folder")
    convert(source, tmp_path / "m.nemo")
    with pytest.raises(ConfigError, match="must be a folder"):
        convert(tmp_path / "m.nemo", tmp_path / "other.nemo")


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
