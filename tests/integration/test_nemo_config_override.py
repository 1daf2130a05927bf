"""NeMo's own configs and scripts with our encoder: by override, by replacement, by our configs.

The scripts in the first part have the pattern of NeMo's example scripts, its configs the keys of
NeMo's (``tests/nemo_configs.py``). Where NEMO_EXAMPLES names the folder ``examples/asr`` of a NeMo
checkout, the second part does the same with the files in there, as they are.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from forked import Forks
from nemo_configs import ARCHITECTURES, SCRIPTS, Corpus
from nemo_scripts import Job, Outcome, run_scripts

pytestmark = [pytest.mark.nemo, pytest.mark.slow]

EXAMPLES = "NEMO_EXAMPLES"
TARGET = "nas_encoder.nemo.NASEncoder"
PARTS = ("encoder.network.cells.", "encoder.network.blocks.")
# Our configs, and the model class whose script takes them.
OURS = {
    "nas_ctc_char": "EncDecCTCModel",
    "nas_ctc_bpe": "EncDecCTCModelBPE",
    "nas_rnnt_bpe": "EncDecRNNTBPEModel",
    "nas_hybrid_bpe": "EncDecHybridRNNTCTCBPEModel",
    "blocks_ctc_bpe": "EncDecCTCModelBPE",
    "blocks_streaming_ctc_bpe": "EncDecCTCModelBPE",
    "blocks_rnnt_bpe": "EncDecRNNTBPEModel",
    "blocks_hybrid_bpe": "EncDecHybridRNNTCTCBPEModel",
}
# The architectures' files in NeMo's folder.
FILES = {
    "quartznet": "conf/quartznet/quartznet_15x5",
    "citrinet": "conf/citrinet/citrinet_384",
    "conformer_ctc_char": "conf/conformer/conformer_ctc_char",
    "conformer_ctc_bpe": "conf/conformer/conformer_ctc_bpe",
    "conformer_transducer_bpe": "conf/conformer/conformer_transducer_bpe",
    "conformer_hybrid_bpe": (
        "conf/conformer/hybrid_transducer_ctc/conformer_hybrid_transducer_ctc_bpe"
    ),
}
# What NeMo's scripts name as their own folder of configs; the transducer's does not exist.
OWN_FOLDERS = {
    "EncDecCTCModel": "../conf",
    "EncDecCTCModelBPE": "../conf/citrinet/",
    "EncDecRNNTBPEModel": "experimental/contextnet_rnnt",
    "EncDecHybridRNNTCTCBPEModel": "../conf/conformer/hybrid_transducer_ctc/",
}
# Nothing in here is about the encoder: this machine, this corpus, one step.
ENVIRONMENT = [
    "trainer.accelerator=cpu",
    "trainer.devices=1",
    "trainer.max_steps=1",
    "++trainer.limit_train_batches=1",
    "++trainer.limit_val_batches=1",
    "++trainer.enable_progress_bar=false",
    "++trainer.num_sanity_val_steps=0",  # it validates after the step
    "exp_manager.create_tensorboard_logger=false",
    "++exp_manager.checkpoint_callback_params.save_last=false",  # like the best one
    "model.train_ds.batch_size=2",
    "model.validation_ds.batch_size=2",
    "model.train_ds.num_workers=0",
    "model.validation_ds.num_workers=0",
    "++model.spec_augment.rect_time=20",  # QuartzNet's is longer than these utterances
]

SCRIPT = """
import lightning.pytorch as pl
from nemo.collections.asr.models import {model}
from nemo.core.config import hydra_runner
from nemo.utils.exp_manager import exp_manager
from nemo.utils.trainer_utils import resolve_trainer_cfg


@hydra_runner(config_path="{folder}", config_name="config")
def main(cfg):
    trainer = pl.Trainer(**resolve_trainer_cfg(cfg.trainer))
    exp_manager(trainer, cfg.get("exp_manager", None))
    model = {model}(cfg=cfg.model, trainer=trainer)
    model.maybe_init_from_pretrained_checkpoint(cfg)
    trainer.fit(model)


if __name__ == "__main__":
    main()
"""


def make_examples(folder: Path) -> Path:
    """Write scripts and configs of NeMo's kind, at the places that they have with NeMo."""
    for model, place in SCRIPTS.items():
        script = folder / place
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text(SCRIPT.format(model=model, folder=OWN_FOLDERS[model]), encoding="utf-8")
    for name, place in FILES.items():
        config = folder / f"{place}.yaml"
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(yaml.safe_dump(ARCHITECTURES[name].config()), encoding="utf-8")
    return folder


def make_jobs(examples: Path, corpus: Corpus, results: Path) -> list[Job]:
    """Return every architecture with only ``_target_`` changed and replaced, and our configs."""
    jobs = []

    def add(name: str, model: str, *arguments: str) -> None:
        folder = results / name
        arguments += (f"exp_manager.exp_dir={folder}", *ENVIRONMENT)
        arguments += tuple(corpus.overrides("BPE" in model))
        jobs.append(Job(name, str(examples / SCRIPTS[model]), list(arguments), str(folder)))

    for name, architecture in ARCHITECTURES.items():
        place = examples / FILES[name]
        config = (f"--config-path={place.parent}", f"--config-name={place.name}")
        add(f"{name}-target", architecture.model, *config, f"model.encoder._target_={TARGET}")
        block = {
            "_target_": TARGET,
            "feat_in": architecture.features,
            "d_model": architecture.decoder_width or 96,
            "genotype": "darts_v2",
            "channels": 4,
            "layers": 3,
        }
        text = ",".join(f"{key}:{value}" for key, value in block.items())
        replaced = ("~model.encoder", f"+model.encoder={{{text}}}")
        add(f"{name}-block", architecture.model, *config, *replaced)
    for name, model in OURS.items():
        add(name, model, f"--config-name={name}")
    return jobs


def encoder_block(examples: Path, name: str) -> dict[str, Any]:
    """Return the encoder block of an architecture's file."""
    document = yaml.safe_load((examples / f"{FILES[name]}.yaml").read_text(encoding="utf-8"))
    block = document["model"]["encoder"]
    assert isinstance(block, dict)
    return block


def check_trained(outcome: Outcome) -> dict[str, Any]:
    """Check that a job trained, validated and saved; return the saved encoder block."""
    assert outcome.error is None, outcome.error
    assert outcome.steps == 1
    assert outcome.saved is not None
    config, weights = outcome.saved
    assert any(name.startswith(PARTS) for name in weights)
    assert config["encoder"]["_target_"] == TARGET
    # The document itself, so that the file needs no other.
    assert config["encoder"]["genotype"]["schema"] == 1
    return dict(config["encoder"])


def check_target(outcome: Outcome, block: Mapping[str, Any]) -> None:
    """Check a job that changed nothing but ``_target_``."""
    from nas_encoder.nemo.options import nemo_options, option_names

    saved = check_trained(outcome)
    assert saved["genotype"]["name"] == "asrnet_b"
    foreign = set(block) - {"_target_"} - set(option_names(nemo_options("nas")))
    assert foreign, "a test of leftovers needs some"
    assert sorted(outcome.leftovers()) == sorted(foreign)
    if "d_model" in block:
        assert saved["d_model"] == block["d_model"]


def check_block(outcome: Outcome) -> None:
    """Check a job that replaced the whole block."""
    saved = check_trained(outcome)
    assert saved["genotype"]["name"] == "darts_v2"
    assert (saved["channels"], saved["layers"]) == (4, 3)
    assert outcome.leftovers() == []


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return Corpus.create(tmp_path_factory.mktemp("corpus"))


# --- scripts and configs of NeMo's kind --------------------------------------------------------


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_examples(tmp_path_factory.mktemp("examples"))


@pytest.fixture(scope="module")
def outcomes(
    examples: Path, corpus: Corpus, nemo: Forks, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Outcome]:
    folder = tmp_path_factory.mktemp("results")
    jobs = make_jobs(examples, corpus, folder)
    misspelled = next(job for job in jobs if job.name == "conformer_ctc_char-target")
    arguments = [*misspelled.arguments, "+model.encoder.chanels=4"]
    jobs.append(Job("misspelled", misspelled.script, arguments, str(folder / "misspelled")))
    return run_scripts(nemo, jobs, folder)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_target_alone_trains_and_each_leftover_is_named_once(
    name: str, outcomes: dict[str, Outcome], examples: Path
) -> None:
    check_target(outcomes[f"{name}-target"], encoder_block(examples, name))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_replaced_block_trains_without_a_warning(name: str, outcomes: dict[str, Outcome]) -> None:
    check_block(outcomes[f"{name}-block"])


@pytest.mark.parametrize("name", OURS)
def test_our_config_trains_as_it_is_shipped(name: str, outcomes: dict[str, Outcome]) -> None:
    saved = check_trained(outcomes[name])
    if name.startswith("blocks"):
        stages = saved["genotype"]["stages"]
        streaming = [(176, 16)]
        expected = streaming if "streaming" in name else [(256, 9), (256, 18), (256, 5)]
        assert [(stage["width"], stage["blocks"]) for stage in stages] == expected
        # The output is the last stage's: no layer follows.
        assert saved["d_model"] == expected[-1][0] and saved.get("channels") is None
    else:
        assert (saved["channels"], saved["layers"], saved["d_model"]) == (24, 17, 512)
    assert outcomes[name].leftovers() == []


def test_misspelled_option_is_an_error_that_names_it(outcomes: dict[str, Outcome]) -> None:
    error = outcomes["misspelled"].error
    assert error is not None and "chanels: unknown option, did you mean 'channels'?" in error
    assert outcomes["misspelled"].steps is None


# --- NeMo's own files --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own_examples() -> Path:
    folder = os.environ.get(EXAMPLES)
    if not folder:
        pytest.skip(
            f"{EXAMPLES} does not name the folder examples/asr of a NeMo checkout, and NeMo's "
            "wheel holds neither its example scripts nor its configs"
        )
    return Path(folder).resolve()


@pytest.fixture(scope="module")
def own_outcomes(
    own_examples: Path, corpus: Corpus, nemo: Forks, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Outcome]:
    folder = tmp_path_factory.mktemp("own")
    return run_scripts(nemo, make_jobs(own_examples, corpus, folder), folder)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_target_alone_trains_with_the_files_of_nemo(
    name: str, own_outcomes: dict[str, Outcome], own_examples: Path
) -> None:
    check_target(own_outcomes[f"{name}-target"], encoder_block(own_examples, name))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_replaced_block_trains_with_the_files_of_nemo(
    name: str, own_outcomes: dict[str, Outcome]
) -> None:
    check_block(own_outcomes[f"{name}-block"])


@pytest.mark.parametrize("name", OURS)
def test_our_config_trains_with_the_scripts_of_nemo(
    name: str, own_outcomes: dict[str, Outcome]
) -> None:
    check_trained(own_outcomes[name])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_configs_of_these_tests_name_every_option_that_the_files_of_nemo_name(
    name: str, own_examples: Path, examples: Path
) -> None:
    assert set(encoder_block(own_examples, name)) <= set(encoder_block(examples, name))
