"""The NeMo demo's recipe, run whole on a few utterances with the real NeMo.

The numbers mean nothing at this size; what is tested is that every stage runs, that the models
which are compared have equal size, that the saved model stands alone, and that a second run does
nothing.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
import yaml
from mini_recipe import check_documents, check_done, check_numbers, run_recipe, run_whole

from nas_encoder import load_genotype

pytestmark = [pytest.mark.nemo, pytest.mark.slow]
RECIPE = "mini/nemo"


# One test, so that workers do not share the trainings' work out among them and do it twice.
def test_the_whole_recipe(nemo_jobs: Path, tmp_path: Path) -> None:
    options = ["--systems", "searched fastconformer", "--genotype", "synth_pdarts"]
    options, printed = run_whole(RECIPE, nemo_jobs, tmp_path, *options)
    exp = tmp_path / "expdir"
    check_documents(exp, printed)
    document = check_numbers(exp, ["Searched", "FastConformer"])
    _, time = document["comparisons"]
    assert time["systems"][1]["epochs"] > 1  # the cheaper one was trained again, for longer
    assert document["facts"]["nemo_toolkit"]
    assert "80 ms" in " ".join(document["notes"])  # infeasible utterances are counted, not hidden
    check_model(exp / "models" / "epochs" / "searched" / "checkpoints" / "searched.nemo")
    check_done(RECIPE, nemo_jobs, options)


def check_model(path: Path) -> None:
    """The saved model holds the genotype, whole, and the width that was matched."""
    with tarfile.open(path) as archive:
        [name] = [name for name in archive.getnames() if name.endswith("model_config.yaml")]
        stream = archive.extractfile(name)
        assert stream is not None
        config = yaml.safe_load(stream.read())
    encoder, shipped = config["encoder"], load_genotype("synth_pdarts").to_dict()
    assert encoder["_target_"] == "nas_encoder.nemo.NASEncoder"
    assert encoder["genotype"]["normal"] == shipped["normal"]
    assert encoder["genotype"]["reduction"] == shipped["reduction"]
    assert config["decoder"]["feat_in"] == encoder["d_model"]


def test_help_and_bad_options(nemo_jobs: Path, tmp_path: Path) -> None:
    shown = run_recipe(RECIPE, nemo_jobs, "--help")
    assert shown.returncode == 0
    for word in ("--stage", "--stop_stage", "--expdir", "--seed", "--nj", "--genotype", "corpus"):
        assert word in shown.stdout
    for options, message in (
        (["--space", "darts"], "unrecognized arguments: --space"),
        (["--systems", "searched transformer"], "got 'searched transformer'"),
        (["--epochs", "-1"], "--epochs: must be a whole number, got '-1'"),
    ):
        refused = run_recipe(RECIPE, nemo_jobs, *options)
        assert refused.returncode == 2
        assert message in refused.stderr
    early = run_recipe(RECIPE, nemo_jobs, "--stage", "4", "--expdir", str(tmp_path / "exp"))
    assert early.returncode == 1
    assert "which was not done; begin at an earlier --stage" in early.stderr
