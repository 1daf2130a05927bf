"""Conversion between the toolkits' checkpoints: what cannot be read, converted or written."""

from __future__ import annotations

import io
import pickle
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from interchange_samples import (
    BINS,
    CELLS,
    CHARACTERS,
    WIDTH,
    config_of,
    encoder_of,
    espnet_folder,
    nemo_file,
    state_of,
)

from nas_encoder.errors import CheckpointError, ConfigError
from nas_encoder.interchange.convert import convert, read, toolkit_of
from nas_encoder.interchange.files import Archive


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
        ({"frontend_conf": {"n_mels": BINS, "fs": "many"}}, "sample_rate: must be an integer"),
        ({"frontend_conf": {"n_mels": BINS, "some": 1}}, "some: unknown key"),
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
        ({"encoder": "vgg_rnn"}, "encoder: must be one of nas, dfsmn_san"),
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
        ("text", r"neither a \.nemo archive nor a packed ESPnet model: [^\n:]+$"),
        ("empty", r"model_config.yaml \(NeMo\), config.yaml \(ESPnet\)"),
        ("other.nemo", "holds none of model_config.yaml"),
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
    with pytest.raises(CheckpointError, match="must be a mapping"):
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
