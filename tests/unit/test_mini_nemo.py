"""The NeMo demo's own scripts, as far as they need no NeMo: templates, schedules, CTC, files."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from data_samples import nemo_manifest, write_tone

from nas_encoder import build_encoder
from nas_encoder.common.documents import read_yaml
from nas_encoder.errors import ConfigError, DataError
from recipes.mini.nemo.local.evaluate import model_path, read_test_set
from recipes.mini.nemo.local.make_config import Writer, infeasible
from tools.experiments.equal_time import plan, run_of
from tools.experiments.job_costs import Progress
from tools.experiments.match_size import Match
from tools.experiments.measure import measure, named_path
from tools.experiments.schedules import SCHEDULES, merge
from tools.nemo_recipes.epoch_lines import EpochLines

SCHEDULE = SCHEDULES["nemo"]
CONF = Path(__file__).resolve().parents[2] / "recipes" / "mini" / "nemo" / "conf"
TEMPLATES = sorted(set(CONF.glob("*.yaml")) - {CONF / "common.yaml"})


def test_every_template_says_what_is_needed() -> None:
    assert {path.stem for path in TEMPLATES} == {"nas", "conformer", "fastconformer", "dfsmn_san"}
    common = read_yaml(CONF / "common.yaml", ConfigError)
    for path in TEMPLATES:
        config = merge(common, read_yaml(path, ConfigError))
        match = Match(**config["match"])
        low, high = match.fine_range
        assert low < config["model"]["encoder"][match.fine] < high
        assert 0 < config["model"]["optim"]["lr"] < 0.1
        # An encoder's block brings nothing that all share.
        assert set(read_yaml(path, ConfigError)) == {"model", "match"}


def test_equal_time_never_asks_for_more_than_a_pass_in_an_epoch() -> None:
    config = {"trainer": {"max_epochs": 8, "limit_train_batches": 125, "devices": 1}}
    for seconds, budget in ((90.0, 580.0), (110.0, 580.0), (700.0, 580.0), (580.0, 60.0)):
        planned = plan(config, seconds, budget, SCHEDULE)
        epochs, steps = SCHEDULE.epochs_and_steps(planned)
        assert steps <= 125  # the data loader ends there
        assert epochs * steps / 1000 == pytest.approx(budget / seconds, rel=0.02)
        assert planned["trainer"]["devices"] == 1
    with pytest.raises(ConfigError, match="at least 3 steps"):
        SCHEDULE.with_steps(config, 1, 2)


def test_characters_that_frames_cannot_carry_are_counted() -> None:
    # 16 frames give 4 at factor 4 and 2 at factor 8; 17 give 5 and 3.
    assert infeasible([4, 5, 5], [16, 16, 17], 4) == 1
    assert infeasible([2, 3, 3, 4], [16, 16, 17, 17], 8) == 2


def writer(folder: Path, texts: list[str]) -> Writer:
    rows = []
    for number, text in enumerate(texts):
        path = write_tone(folder / f"{number}.wav", 0.4, seed=number)
        rows.append({"audio_filepath": str(path), "duration": 0.4, "text": text})
    manifest = nemo_manifest(folder / "train.json", rows)
    return Writer(argparse.Namespace(common=CONF / "common.yaml", train=manifest))


def test_labels_and_feasibility_come_from_the_training_data(tmp_path: Path) -> None:
    # 0.4 s are 40 frames: 10 at factor 4, 5 at factor 8.
    found = writer(tmp_path, ["AB BA", "ABCDE", "AB BAB A"])
    assert sorted(found.labels) == [" ", "A", "B", "C", "D", "E"]
    assert found.bins == 40
    assert found.feasibility() == {"utterances": 3, "infeasible": {"4": 0, "8": 1}}
    found.require_feasible(8, Path("x.yaml"))
    crowded = writer(tmp_path / "crowded", ["ABCDEF", "AABB", "AABBC"])
    assert crowded.needed == [6, 6, 7]
    with pytest.raises(ConfigError, match="subsampling_factor: 8 leaves 3 of 3 utterances"):
        crowded.require_feasible(8, Path("x.yaml"))


def test_which_training_stands_for_a_system(tmp_path: Path) -> None:
    assert run_of(tmp_path, "epochs", "conformer") == "epochs/conformer"
    assert run_of(tmp_path, "time", "conformer") == "time/conformer"
    same = tmp_path / "conf" / "time" / "conformer.same"
    same.parent.mkdir(parents=True)
    same.touch()
    assert run_of(tmp_path, "time", "conformer") == "epochs/conformer"
    assert model_path(Path("exp"), "time/conformer") == Path(
        "exp/models/time/conformer/checkpoints/conformer.nemo"
    )


def test_the_test_set_is_read_with_its_ids(tmp_path: Path) -> None:
    rows = [{"utt_id": "u1", "audio_filepath": "a.flac", "text": "A"}]
    manifest = nemo_manifest(tmp_path / "test.json", rows)
    assert read_test_set(manifest) == [("u1", "a.flac")]
    manifest.write_text(json.dumps({"audio_filepath": "a.flac"}) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match="utt_id"):
        read_test_set(manifest)
    with pytest.raises(DataError, match="No such file"):
        read_test_set(tmp_path / "none.json")


def test_systems_are_named() -> None:
    assert named_path("a=x/y") == ("a", Path("x/y"))
    with pytest.raises(argparse.ArgumentTypeError, match="must be NAME=PATH, got 'a'"):
        named_path("a")


class Model(pl.LightningModule):
    """Logs what NeMo's models log."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch: torch.Tensor) -> torch.Tensor:
        loss = self.layer(batch).square().mean()
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: torch.Tensor) -> None:
        self.log_dict({"val_loss": 1.0, "val_wer": 0.25})

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(folder: Path, epochs: int, checkpoint: Path | None = None) -> None:
    data = torch.utils.data.DataLoader(torch.ones(4, 1), batch_size=2)
    saver = pl.callbacks.ModelCheckpoint(folder, save_last=True, save_on_train_epoch_end=False)
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[EpochLines(), saver],
    )
    trainer.fit(Model(), data, data, ckpt_path=checkpoint)


# Lightning, with a torch newer than itself.
@pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec:FutureWarning")
@pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_the_epochs_of_a_training_that_goes_on_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    costs: dict[str, dict[str, float]] = {}
    clock = 0.0
    said = []
    for session, epochs in enumerate((2, 4), 1):
        fit(tmp_path / "model", epochs, tmp_path / "model" / "last.ckpt" if session > 1 else None)
        progress = Progress(costs)
        for line in capsys.readouterr().out.splitlines():
            clock += 1.0
            said.append(progress.line(line, clock, clock).partition(",")[0])
    ends = [text for text in said if text and not text.endswith("began")]
    assert ends == ["epoch 1/2", "epoch 2/2", "epoch 3/4", "epoch 4/4"]
    assert list(costs) == ["1", "2", "3", "4"]


def test_encoders_are_measured_in_turns_and_only_at_equal_size() -> None:
    size = {"input_size": 8, "layers": 3, "output_size": 4, "stem_stride": (2, 2)}
    small, large = (build_encoder("darts_v2", channels=c, **size).eval() for c in (1, 2))
    found = measure({"a": (small, small, 8), "b": (small, small, 8)}, 3, seed=0)
    for system in found.values():
        assert len(system["rtf_each"]) == 3
        assert 0 < system["rtf"] == pytest.approx(sorted(system["rtf_each"])[1])
        assert system["encoder_parameters"] == system["parameters"] > 0 < system["macs_10s"]
    with pytest.raises(DataError, match="must be equal within 5 %, differ by"):
        measure({"a": (small, small, 8), "b": (large, large, 8)}, 1, seed=0)
