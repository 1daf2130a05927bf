"""The shipped configurations in ESPnet's own programs, called as asr.sh calls them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from espnet_recipe import Recipe, make_recipe
from forked import Forks

from nas_encoder.espnet.advice import CTC_RECIPE

pytestmark = [pytest.mark.slow, pytest.mark.espnet]

# The network at a size for a test; nothing else is changed.
TINY = (
    "--encoder_conf channels=2 --encoder_conf layers=3 --encoder_conf output_size=16 "
    "--decoder_conf linear_units=16 --decoder_conf num_blocks=1 --num_workers 0 "
)
CTC_TINY = TINY.replace("--decoder_conf linear_units=16 --decoder_conf num_blocks=1 ", "")
GARBAGE = "this model is CTC only, and with any other value"


@pytest.fixture
def recipe(tmp_path: Path, shared_folder: Callable[..., Path], espnet: Forks) -> Recipe:
    """Return a recipe of the test's own, with the statistics that all of them share."""
    made = shared_folder("espnet_recipe", lambda folder: make_recipe(folder, espnet))
    return Recipe(Path(shutil.copytree(made, tmp_path / "asr1")), espnet)


def test_hybrid_config_trains_and_decodes_with_nothing_else(recipe: Recipe) -> None:
    """``./run.sh --asr_config conf/train_asr_nas.yaml``: all of asr.sh's defaults."""
    # ESPnet's rule, for which the configs do not accumulate: fewer batches in an epoch than
    # accum_grad make no update, and the training ends there.
    accumulating = TINY + "--max_epoch 2 --accum_grad 6"
    said = recipe.checked(
        recipe.train("conf/train_asr_nas.yaml", TINY + "--max_epoch 2"),
        recipe.decode(),
        recipe.train("conf/train_asr_nas.yaml", accumulating, "exp/accumulated"),
    )
    assert (recipe.folder / "exp/asr/2epoch.pth").exists() and "NASStreamingEncoder(" in said
    assert not (recipe.folder / "exp/accumulated/2epoch.pth").exists()
    assert said.count("This training was stopped at 1epoch") == 1
    for warning in (GARBAGE, "covers more than a third", "best_model_criterion: must"):
        assert warning not in said
    decoded = recipe.folder / "exp/asr/decoded/1best_recog/text"
    assert [line.split()[0] for line in decoded.read_text().splitlines()] == ["test00", "test01"]


def test_ctc_config_with_its_command_and_what_other_weights_say(recipe: Recipe) -> None:
    options = CTC_TINY + "--max_epoch 2"
    own = {
        "inference_asr_model": "valid.cer_ctc.ave.pth",
        "inference_config": "conf/decode_ctc.yaml",
    }
    assert CTC_RECIPE == " ".join(f"--{name} {value}" for name, value in own.items())
    said = recipe.checked(
        recipe.train("conf/train_asr_nas_ctc.yaml", options), recipe.decode(**own)
    )
    assert GARBAGE not in said and "best_model_criterion: must" not in said
    assert not (recipe.folder / "exp/asr/valid.acc.ave.pth").exists()
    # A CTC-only model with the criterion of a decoder and masks made for 80 bins; the recipes' own
    # weights, which are ESPnet's defaults.
    train = yaml.safe_load((recipe.folder / "conf/train_asr_nas_ctc.yaml").read_text())
    train["best_model_criterion"] = [["valid", "acc", "max"]]
    train["specaug_conf"]["freq_mask_width_range"] = [0, 27]
    (recipe.folder / "conf/wrong.yaml").write_text(yaml.safe_dump(train))
    own.pop("inference_config")
    done = recipe.run(
        recipe.train("conf/wrong.yaml", options, "exp/wrong"),
        recipe.decode(**own),
    )
    for warning in (
        f"ctc_weight: must be 1.0, got 0.5: {GARBAGE}",
        "best_model_criterion: must not rest on a decoder",
        "no valid.acc.ave.pth will be written",
        "a mask of up to 26 bins covers more than a third of the encoder's 40",
        "Use freq_mask_width_range: [0, 14] or narrower",
    ):
        assert "".join(one.stderr for one in done).count(warning) == 1, warning
    trained, decoded = done
    assert CTC_RECIPE in trained.stderr + decoded.stderr
