"""Every recipe has a tiny run: those of ESPnet's corpora here, the others in the files named below.

The numbers mean nothing at this size; what is tested is that every stage runs with the real
programs, and that the documents hold what the stages left behind.
"""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from data_samples import prompts
from debian_samples import prompt_packages
from mini_recipe import check_done, run_whole

from nas_encoder import load_genotype
from tools.prompts.fetch import fetch

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "recipes"
CORPORA = ("aishell", "librispeech", "timit")
# Recipe -> the test that runs it, or its commands one after the other.
ELSEWHERE = {
    "blocks": "integration/test_blocks_workflow.py",
    "mini/espnet": "integration/test_mini_recipe.py",
    "mini/nemo": "integration/test_mini_nemo_recipe.py",
    "streaming": "integration/test_blocks_workflow.py",
    **{f"{corpus}/nemo": "integration/test_nemo_corpora_run.py" for corpus in CORPORA},
}
FILES = ("run.sh", "recipe.yaml", "Snakefile")
FOLDERS = sorted(
    {path.parent.relative_to(RECIPES).as_posix() for name in FILES for path in RECIPES.rglob(name)}
)
ESPNET = [name for name in FOLDERS if name.endswith("/espnet") and name not in ELSEWHERE]
HERE = [*ESPNET, "mini/strategies", "prompts"]


def test_every_recipe_has_a_tiny_run() -> None:
    assert {f"{corpus}/espnet" for corpus in CORPORA} <= set(ESPNET)
    untested = set(FOLDERS) - set(HERE) - set(ELSEWHERE)
    assert not untested, f"no test runs {sorted(untested)}: write one, and name it in ELSEWHERE"
    for name, test in ELSEWHERE.items():
        assert name in FOLDERS, f"{name} is no recipe any more"
        assert name.split("/")[0] in (ROOT / "tests" / test).read_text(encoding="utf-8")
    for name in FOLDERS:
        missing = [file for file in FILES if not (RECIPES / name / file).is_file()]
        assert not missing, f"recipes/{name} lacks {missing}"


@pytest.mark.espnet
@pytest.mark.slow
@pytest.mark.parametrize("folder", ESPNET)
def test_the_tiny_run(folder: str, espnet_jobs: Path, tmp_path: Path) -> None:
    options, _ = run_whole(folder, espnet_jobs, tmp_path)
    check_results(tmp_path / "expdir")
    check_done(folder, espnet_jobs, options)


@pytest.mark.espnet  # only for the process that ESPnet's recipes share
@pytest.mark.slow
def test_the_other_recipes(espnet_jobs: Path, tmp_path: Path) -> None:
    root, debs = prompts(tmp_path / "root"), tmp_path / "debs"
    debs.mkdir()
    # Instead of stage 1, which wants the published packages.
    fetch(tmp_path / "downloads" / "prompts", debs, prompt_packages(root, debs))
    run_whole("prompts", espnet_jobs, tmp_path)
    checked = json.loads((tmp_path / "expdir" / "check.json").read_text(encoding="utf-8"))
    assert checked["train"]["utterances"] > 4
    run_whole("mini/strategies", espnet_jobs, tmp_path / "strategies")


def check_results(exp: Path) -> None:
    """Every encoder was trained and decoded whole, and the trainings' time could be read."""
    chosen: Any = yaml.safe_load((exp / "options.yaml").read_text(encoding="utf-8"))
    searches = chosen["search"].split()
    genotypes = {f"searched_{name}": exp / "search" / name / "genotype.yaml" for name in searches}
    genotypes |= dict(word.split("=") for word in chosen["genotype"].split())
    encoders = [*chosen["encoders"].split(), *genotypes]
    document = json.loads((exp / "results" / "results.json").read_text(encoding="utf-8"))
    rows = {(row["encoder"], row["dataset"], row["unit"]): row for row in document["rows"]}
    splits = ("dev", *chosen["tests"].split())
    datasets = [f"{kind}/{split}" for kind in chosen["decoding"].split() for split in splits]
    assert set(rows) == set(product(encoders, datasets, ("WER", "CER")))
    for row in rows.values():
        assert row["units"] >= row["utterances"] >= 4
    for name in encoders:
        assert document["parameters"][name] > 1000
        assert list(document["training"][name]["epochs"]) == ["1"]
        assert document["training"][name]["epochs"]["1"]["wall"] > 0
    for name, source in genotypes.items():
        saved = yaml.safe_load((exp / "models" / name / "config.yaml").read_text(encoding="utf-8"))
        assert load_genotype(saved["encoder_conf"]["genotype"]).hash == load_genotype(source).hash
    assert (document["origin"]["seed"], document["tiny"]) == (1, True)
