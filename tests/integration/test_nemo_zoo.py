"""Our models on NeMo's list, restoring them by name and path, and model cards."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from nemo_tones import BINS, NAS, SAN, WARNINGS, Tones, build, toolkit, trainer

from nas_encoder import load_genotype
from nas_encoder.interchange.card import card_path
from nas_encoder.nemo import catalog
from nas_encoder.nemo.model_card import card, write_model_card

pytestmark = [
    pytest.mark.nemo,
    pytest.mark.slow,
    # Lightning, of torch.
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec:FutureWarning"),
    *(pytest.mark.filterwarnings(f"ignore:{warning}") for warning in WARNINGS),
]
SHIPPED = "nas_synth_ctc_char"
FILE = catalog.SHIPPED / "synth_ctc_char.nemo"
FOREIGN = {
    "_target_": "nemo.collections.asr.modules.ConvASREncoder",
    "feat_in": BINS,
    "activation": "relu",
    "conv_mask": True,
    "jasper": [
        {
            "dilation": [1],
            "dropout": 0.0,
            "filters": 16,
            "kernel": [3],
            "repeat": 1,
            "residual": False,
            "stride": [2],
        }
    ],
}


@pytest.fixture(scope="module")
def models() -> Any:
    return toolkit()


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Tones:
    return Tones.create(tmp_path_factory.mktemp("tones"), number=8)


@pytest.fixture(scope="module")
def trained(models: Any, tones: Tones, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model after a few steps, with Lightning's checkpoints in its trainer's folder."""
    from lightning.pytorch.callbacks import ModelCheckpoint

    folder = tmp_path_factory.mktemp("lightning")
    model = build("ctc_char", tones.config("ctc_char", NAS))
    saving = ModelCheckpoint(dirpath=folder, every_n_train_steps=2)
    trainer(2, enable_checkpointing=True, callbacks=[saving]).fit(model)
    return model


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of the user's that the list knows, and a cache of NeMo's for this test."""
    monkeypatch.setenv(catalog.FOLDERS, str(tmp_path / "models"))
    monkeypatch.setenv("NEMO_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "models").mkdir()
    yield tmp_path / "models"


def names_of(entries: Any) -> list[str]:
    return [entry.pretrained_model_name for entry in entries]


# -- the list ------------------------------------------------------------------------------------


def test_list_holds_ours_and_theirs(models: Any, folder: Path) -> None:
    before = names_of(models.ASRModel.list_available_models())
    assert SHIPPED in before
    assert len(before) > 20  # NeMo's own
    shutil.copy(FILE, folder / "mine.nemo")
    after = names_of(models.ASRModel.list_available_models())
    assert set(after) - set(before) == {"mine"}
    from nas_encoder.nemo import NASModel

    assert names_of(NASModel.list_available_models()) == ["mine", SHIPPED]
    assert models.EncDecCTCModel.list_available_models()  # theirs stay as they are
    assert SHIPPED not in names_of(models.EncDecCTCModel.list_available_models())


def test_what_is_no_model_is_left_out(models: Any, folder: Path, tones: Tones) -> None:
    from nas_encoder.nemo import NASModel

    build("ctc_char", tones.config("ctc_char", FOREIGN)).save_to(str(folder / "foreign.nemo"))
    assert not (folder / "foreign.card.md").exists()
    assert names_of(NASModel.list_available_models()) == [SHIPPED]
    (folder / "broken.nemo").write_bytes(b"no archive")
    with pytest.warns(UserWarning, match=r"broken\.nemo"):
        assert names_of(NASModel.list_available_models()) == [SHIPPED]
    (folder / "broken.nemo").unlink()
    shutil.copy(FILE, folder / f"{SHIPPED}.nemo")
    with pytest.warns(UserWarning, match="exists twice"):
        (entry,) = NASModel.list_available_models()
    assert entry.location == FILE.resolve().as_uri()


def test_missing_folder_warns(models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(catalog.FOLDERS, "/no/such/folder")
    with pytest.warns(UserWarning, match="no folder '/no/such/folder'"):
        assert [entry.name for entry in catalog.entries()] == [SHIPPED]


def test_the_shipped_files_are_complete() -> None:
    for entry in catalog.entries():
        assert entry.path.is_file()
        assert card_path(entry.path).is_file()
        assert entry.path.stat().st_size < 2 << 20
        assert len(entry.description.split()) > 5


# -- from_pretrained -----------------------------------------------------------------------------


def test_by_name_path_and_url(models: Any, folder: Path, trained: Any) -> None:
    from nas_encoder.nemo import NASModel

    where = folder / "with space.nemo"
    trained.save_to(str(where))
    expected = trained.state_dict()
    for cls, name in (
        (models.ASRModel, "with space"),
        (NASModel, "with space"),
        (NASModel, str(where)),
        (NASModel, where.as_uri()),
    ):
        model = cls.from_pretrained(name, map_location="cpu")
        assert type(model) is models.EncDecCTCModel
        assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())
    assert NASModel.from_pretrained(where.as_uri(), return_model_file=True) == str(where)
    assert (
        NASModel.from_pretrained(str(where), return_config=True).encoder.d_model == NAS["d_model"]
    )
    for name in (str(folder / "other.nemo"), "no such model"):
        with pytest.raises(FileNotFoundError):
            NASModel.from_pretrained(name)


def test_a_changed_file_is_not_taken_from_the_cache(
    models: Any, folder: Path, trained: Any
) -> None:
    trained.save_to(str(folder / "m.nemo"))
    models.ASRModel.from_pretrained("m", map_location="cpu")
    with torch.no_grad():
        trained.decoder.decoder_layers[0].bias.add_(1.0)
    trained.save_to(str(folder / "m.nemo"))
    model = models.ASRModel.from_pretrained("m", map_location="cpu")
    assert torch.equal(model.decoder.decoder_layers[0].bias, trained.decoder.decoder_layers[0].bias)


# -- cards ---------------------------------------------------------------------------------------


def test_card_beside_a_nemo_file(trained: Any, tones: Tones, tmp_path: Path) -> None:
    trained.save_to(str(tmp_path / "sub" / "model.nemo"))
    text = (tmp_path / "sub" / "model.card.md").read_text("utf-8")
    genotype = load_genotype("asrnet_b")
    encoder = sum(p.numel() for p in trained.encoder.parameters())
    for words in (
        "# model\n",
        "library_name: nemo",
        "nemo.collections.asr.models.ctc_models.EncDecCTCModel",
        genotype.hash,
        "it is not the paper's network",
        f"parameters of the encoder: {encoder:,}",
        f"training: {tones.manifest}",
        "test: unknown",
        "train_loss: ",
        "steps: 2",
        "reduction cell",
    ):
        assert words in text, words


def test_card_beside_lightnings_checkpoints(trained: Any) -> None:
    folder = Path(trained.trainer.checkpoint_callback.dirpath)
    assert list(folder.glob("*.ckpt"))
    text = (folder / "checkpoints.card.md").read_text("utf-8")
    assert "train_loss: " in text and load_genotype("asrnet_b").hash in text


def test_card_of_the_baseline_and_without_a_trainer(models: Any, tones: Tones) -> None:
    text = card(build("ctc_char", tones.config("ctc_char", SAN)), "baseline")
    assert "genotype: none (a baseline)" in text
    assert "Nothing is known." in text  # no numbers


def test_a_card_that_cannot_be_written_never_breaks_a_save(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nemo.utils import logging

    from nas_encoder.nemo import model_card

    said: list[str] = []
    monkeypatch.setattr(logging, "warning", lambda text, *_, **__: said.append(text))
    (tmp_path / "model.card.md").mkdir()  # in the way
    trained.save_to(str(tmp_path / "model.nemo"))
    assert (tmp_path / "model.nemo").is_file()
    assert any("could not write the model card: CheckpointError" in text for text in said)

    def broken(model: Any, title: str | None = None) -> str:
        raise RuntimeError("odd model")

    said.clear()
    monkeypatch.setattr(model_card, "card", broken)
    trained.save_to(str(tmp_path / "other.nemo"))
    assert (tmp_path / "other.nemo").is_file()
    assert any("RuntimeError: odd model" in text for text in said)


def test_card_on_request(trained: Any, tmp_path: Path) -> None:
    assert write_model_card(trained, tmp_path / "x.nemo") == tmp_path / "x.card.md"
    assert (tmp_path / "x.card.md").is_file()
