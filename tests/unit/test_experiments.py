"""The engine of the recipes: options, stages, what is done again, resuming, failures, costs."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from forked import Forks
from python_server import commands
from small_workflow import Workflow, environment, wait

from nas_encoder.errors import ConfigError, DataError
from tools.experiments import equal_time
from tools.experiments.equal_time import plan, run_of
from tools.experiments.job_costs import Progress, costs_path, read_costs, training_seconds
from tools.experiments.recipe import read_options
from tools.experiments.resumable import Job, JobError
from tools.experiments.schedules import SCHEDULES, merge, steps_in_epoch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def workflow(tmp_path: Path) -> Workflow:
    return Workflow(tmp_path)


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a `python` whose programs are forks of a process that has Snakemake."""
    forks = Forks(tmp_path_factory.mktemp("forks"), ["snakemake.cli"], environment())
    with contextlib.closing(forks), commands(forks, tmp_path_factory.mktemp("jobs"), []) as folder:
        yield folder


@pytest.fixture
def quick(tmp_path: Path, jobs: Path) -> Workflow:
    """A workflow that starts fast; what is killed is started as users start it."""
    return Workflow(tmp_path, jobs)


@pytest.mark.slow
def test_what_is_done_is_left_out_and_what_changed_is_done_again(quick: Workflow) -> None:
    said = quick.run("--stop_stage", "3")
    assert "5 of 5 steps (100%) done" in said
    # At most --nj cores: the copy takes both, the reports take one each.
    first, *reports = quick.order()[1:]
    assert first == "-copy" and {name[0] for name in reports[:2]} == {"+"} and len(reports) == 4
    header, measured = (quick.exp / "benchmarks" / "copy.tsv").read_text().splitlines()
    assert {"s", "max_rss", "cpu_time"} <= set(header.split("\t"))
    assert float(measured.split("\t")[0]) >= 0.3

    quick.source.write_text("2\n")
    quick.run()
    assert (quick.exp / "copy.txt").read_text() == "2\nfirst\n"
    assert quick.order() == ["+copy", "-copy"]
    assert quick.epochs() == "1 2 3 "  # in an empty folder: its input is another

    quick.run("--word", "two words", "--epochs", "2")
    assert (quick.exp / "copy.txt").read_text() == "2\ntwo words\n"
    assert quick.epochs() == "1 2 "
    quick.order()

    (quick.exp / "model" / "best").unlink()
    said = quick.run("--word", "two words", "--epochs", "2")
    assert "train/it: goes on" in said and (quick.exp / "model" / "best").exists()
    assert not (quick.exp / "order").exists() and quick.epochs() == "1 2 "


@pytest.mark.slow
def test_a_run_that_is_stopped_or_killed_goes_on(workflow: Workflow) -> None:
    """Its jobs end with it, also by SIGKILL; the same command finishes what is left."""
    hold = workflow.exp / "hold"
    hold.touch()
    for number, status, session in ((signal.SIGTERM, 130, 1), (signal.SIGKILL, -9, 2)):
        running = workflow.start("--stop_stage", "2", "--epochs", "4")
        wait(lambda session=session: workflow.begun(session))
        assert "another run works in" in workflow.run(status=1)
        running.send_signal(number)
        _, said = running.communicate(timeout=30)
        assert running.returncode == status, said
        assert ("the same command goes on from here" in said) == (number == signal.SIGTERM)
        wait(workflow.idle)
    hold.unlink()
    said = workflow.run("--epochs", "4")
    assert "train/it: goes on" in said and "rule copy" not in said
    assert workflow.epochs() == "1 2 3 4 "  # none of them twice
    costs = read_costs(workflow.exp, "train/it")
    assert costs["sessions"] == 3 and list(costs["epochs"]) == ["1", "2", "3", "4"]
    state = json.loads((workflow.exp / ".jobs" / "train" / "it.json").read_text())
    seconds = [session["cpu"] for session in state["sessions"]]
    assert costs["cpu_seconds"] == sum(seconds) and seconds[0] > 0.2 and seconds[2] > 0.2
    assert training_seconds(costs, 4) == pytest.approx(0.4, abs=0.2)
    log = (workflow.exp / "log" / "train" / "it.log").read_text()
    assert log.count("1/4epoch started") == 1


@pytest.mark.slow
def test_a_failed_job_and_a_missing_stage(quick: Workflow) -> None:
    said = quick.run("--source", str(quick.source) + "s", status=1)
    assert "the sources" in said and "begin at an earlier" not in said
    early = quick.run("--stage", "2", status=1)
    assert "which was not done; begin at an earlier --stage" in early
    assert "copy.txt" in early
    said = quick.run("--stop_stage", "3", "--status", "3", status=1)
    log = quick.exp / "log" / "report" / "left.log"
    assert "Error in rule report" in said and f"{log} ends:\n    it broke" in said
    assert not (quick.exp / "report" / "left.txt").exists()  # nobody takes it for finished


@pytest.mark.slow
def test_the_workflow_runs_on_a_cluster(workflow: Workflow) -> None:
    """Every job is a script that is submitted; a shell stands in for the batch system."""
    hold = workflow.exp / "hold"
    hold.touch()
    running = workflow.start("--stop_stage", "2", "--profile", "shell")
    wait(lambda: workflow.begun(1))
    running.send_signal(signal.SIGTERM)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130 and said.count("with external jobid") == 2
    wait(workflow.idle)  # what was submitted is cancelled
    hold.unlink()
    said = workflow.run("--profile", "shell")
    assert said.count("with external jobid") == 1 and "2 of 2 steps (100%) done" in said
    assert workflow.order() == ["+copy", "-copy"] and workflow.epochs() == "1 2 3 "
    assert read_costs(workflow.exp, "train/it")["sessions"] == 2
    assert "Nothing to be done" in workflow.run()  # on this machine it is done too


def run(script: str, folder: str = "model", inputs: Sequence[str] = ()) -> None:
    paths = list(map(Path, inputs))
    Job("train/a", ["sh", "-c", script], Path(folder), paths, [Path("model/two")]).run()


def failure(script: str, folder: str = "model", inputs: Sequence[str] = ()) -> str:
    with pytest.raises((JobError, ConfigError)) as caught:
        run(script, folder, inputs)
    return str(caught.value)


def test_a_folder_is_gone_on_with_only_where_the_job_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    # It fails after its first step and resumes from there the second time.
    script = "mkdir -p model; if [ -e model/one ]; then touch model/two; "
    script += "else touch model/one; echo it broke; exit 3; fi"
    source = Path("source")
    source.write_text("1")
    found = failure(script, inputs=["source"])
    assert "'train/a' ended with status 3; read log/train/a.log" in found and "it broke" in found
    run(script, inputs=["source"])
    assert "goes on" in capsys.readouterr().err
    assert read_costs(tmp_path, "train/a")["sessions"] == 2
    source.write_text("2")
    assert "ended with status 3" in failure(script, inputs=["source"])
    assert not Path("model", "two").exists()  # it began with an empty folder
    assert "did not write model/two" in failure("mkdir -p model")
    assert "not found" in failure("exec no-such-program")


def test_what_cannot_be_gone_on_with_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    script = "mkdir -p model; test ! -e model/bad || { echo it is bad; exit 1; }; "
    script += "test -e ok || { touch model/bad ok; exit 1; }; echo anew; touch model/two"
    failure(script)
    run(script)
    assert "begins anew" in capsys.readouterr().err
    assert Path("log/train/a.log").read_text() == "it is bad\nanew\n"
    # Whoever went on and then failed has nothing wrong with its checkpoint.
    script = "mkdir -p model; touch model/kept; echo INFO: 2/3epoch started; exit 1"
    failure(script)
    failure(script)
    assert "begins anew" not in capsys.readouterr().err
    assert Path("model", "kept").exists()


def test_only_folders_of_the_experiment_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "exp").mkdir()
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "exp")
    assert "not inside" in failure("true", "../mine")
    assert "not inside" in failure("true", ".")
    assert (tmp_path / "mine").is_dir()
    # What somebody else has put there is not removed either.
    Path("model").mkdir()
    Path("model", "best.pth").write_text("a week's training")
    assert "was not made by this workflow" in failure("true")
    assert Path("model", "best.pth").exists()


LOG = """\
[vm] 2026-01-01 00:00:00,000 (trainer:336) INFO: {0}/{1}epoch started
[vm] 2026-01-01 00:00:09,000 (trainer:811) INFO: {0}epoch:train:1-20batch: iter_time=0.062
[vm] 2026-01-01 00:00:10,000 (trainer:394) INFO: {0}epoch results: [train] loss_ctc=1.5, \
time=8 seconds, total_count=62, [valid] loss_ctc=1.2, cer_ctc=0.125, loss_att=nan, \
time=1.5 seconds, total_count=5
"""


def test_epochs_and_their_cost_are_read_from_espnets_log() -> None:
    epochs: dict[str, dict[str, float]] = {}
    progress = Progress(epochs)
    started, _, results = LOG.format(1, 3).splitlines()
    assert progress.line(started, 12.0, 13.0) == "epoch 1/3 began"
    assert (
        progress.line(results, 20.0, 25.0)
        == "epoch 1/3, 12.0 s each, 0.4 min left, valid CER 12.5 %"
    )
    progress.line(LOG.format(2, 3).splitlines()[0], 20.0, 25.0)
    # Killed in epoch 2, which the second session repeats.
    again = Progress(epochs)
    for epoch, began, ended in ((2, 15.0, 22.0), (3, 22.0, 30.0)):
        first, between, last = LOG.format(epoch, 3).splitlines()
        again.line(first, began, began + 1)
        assert again.line(between, ended, ended) == ""
        again.line(last, ended, ended + 2)
    assert {epoch: cost["cpu"] for epoch, cost in epochs.items()} == {"1": 8.0, "2": 7.0, "3": 8.0}
    assert [cost["wall"] for cost in epochs.values()] == [12.0, 8.0, 8.0]
    costs = {"job": "train/a", "epochs": epochs}
    assert training_seconds(costs, 3) == 23.0 and training_seconds(costs, 3, "wall") == 28.0
    # An epoch whose end nobody saw counts as the mean of the others.
    del epochs["2"]
    assert training_seconds(costs, 3) == 24.0
    with pytest.raises(DataError, match="'train/a'.*no time of any epoch"):
        training_seconds({"job": "train/a", "epochs": {}}, 3)


def test_progress_bars_are_read_too() -> None:
    progress = Progress({})
    assert not progress.begun
    assert progress.line("search  42%|####    | 00:10<00:14", 1.0, 1.0) == "42 %"
    assert progress.begun and progress.epochs == {}


def write_costs(expdir: Path, system: str, seconds: float) -> None:
    path = costs_path(expdir, f"train/epochs/{system}")
    path.parent.mkdir(parents=True, exist_ok=True)
    epochs = {str(epoch): {"cpu": seconds / 4, "wall": seconds} for epoch in range(1, 5)}
    path.write_text(json.dumps({"job": system, "epochs": epochs}))


def test_equal_time_is_planned_from_what_the_trainings_have_cost(tmp_path: Path) -> None:
    (tmp_path / "conf" / "epochs").mkdir(parents=True)
    for name in ("slow", "searched", "other"):
        config = tmp_path / "conf" / "epochs" / f"{name}.yaml"
        config.write_text("max_epoch: 4\nnum_iters_per_epoch: 50\n")
    write_costs(tmp_path, "slow", 100.0)
    write_costs(tmp_path, "searched", 20.0)
    planned = tmp_path / "conf" / "time" / "other.yaml"

    def planned_run(seconds: float) -> str:
        write_costs(tmp_path, "other", seconds)
        arguments = ["--toolkit", "espnet", "--expdir", tmp_path]
        arguments += ["--systems", "searched", "slow", "--system", "other", "--output", planned]
        arguments += ["--same", planned.with_suffix(".same")]
        assert equal_time.main(list(map(str, arguments))) == 0
        return run_of(tmp_path, "time", "other")

    assert planned_run(50.0) == "time/other"
    assert yaml.safe_load(planned.read_text())["max_epoch"] == 8
    assert planned_run(95.0) == "epochs/other"  # as long already: no other training
    assert planned_run(200.0) == "time/other"
    assert yaml.safe_load(planned.read_text())["max_epoch"] == 2


def test_equal_time_is_met_by_epochs_and_steps() -> None:
    config = {"max_epoch": 10, "num_iters_per_epoch": 62, "scheduler_conf": {"max_lr": 0.002}}
    for seconds, budget in ((40.0, 350.0), (130.0, 350.0), (380.0, 350.0), (900.0, 350.0)):
        planned = plan(config, seconds, budget, SCHEDULES["espnet"])
        steps = planned["max_epoch"] * planned["num_iters_per_epoch"]
        assert steps / 620 == pytest.approx(budget / seconds, rel=0.02)
        assert planned["num_iters_per_epoch"] == pytest.approx(62, rel=0.15)
        assert planned["scheduler_conf"] == {"max_lr": 0.002, "total_steps": steps}
    assert config["max_epoch"] == 10


def test_configs_merge_deeply() -> None:
    assert merge({"a": {"x": 1, "y": 2}, "b": [1]}, {"a": {"y": 3}, "b": [2], "c": 4}) == {
        "a": {"x": 1, "y": 3},
        "b": [2],
        "c": 4,
    }
    assert (steps_in_epoch(1000, 16), steps_in_epoch(3, 16)) == (62, 1)


OPTIONS = {"steps": 400, "systems": "a b", "words": ""}


def options(folder: Path, *arguments: str, **sections: Any) -> dict[str, Any]:
    document = {"about": "It.", "stages": {"one": "first", "two": "last"}, "options": OPTIONS}
    document |= {"tiny": {"steps": 4}, "patterns": {"systems": "a( (b|c))+"}, **sections}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(document))
    return read_options(folder, list(arguments))


def test_a_recipe_declares_its_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = options(tmp_path, "--steps", "0010", "--systems", "a c b", "--stop-stage", "1")
    assert (found["steps"], found["systems"], found["stop_stage"]) == (10, "a c b", 1)
    assert found["expdir"] == str(tmp_path / "exp") and options(tmp_path)["stop_stage"] == 2
    assert options(tmp_path, "--words", "--set x=1")["words"] == "--set x=1"
    typed = options(tmp_path, "--words", "--set x=1", "--systems", "a b")["command"]
    assert typed.endswith("run.sh --words '--set x=1' --systems 'a b'")
    tiny = ("--tiny", "true")
    assert options(tmp_path, *tiny)["steps"] == 4
    assert options(tmp_path, *tiny, "--steps", "9")["steps"] == 9  # what is typed is what is done
    sizes = {"small": {"steps": 40}}
    assert options(tmp_path, *tiny, "--small", sizes=sizes)["steps"] == 4
    with pytest.raises(SystemExit):
        options(tmp_path, "--help")
    shown = capsys.readouterr().out
    for line in ("It.", "  2  two         last", "(400)", "(a b)", "--nj", "EXPDIR/log"):
        assert line in shown


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--steps", "-1"], "--steps: must be a whole number, got '-1'"),
        (["--nj", "two"], "--nj: must be a whole number, got 'two'"),
        (["--systems", "b"], "--systems: must match 'a( (b|c))+', got 'b'"),
        (["--systems", "a d"], "got 'a d'"),
        (["--nj"], "--nj: expected one argument"),
        (["--nonsense", "1"], "unrecognized arguments: --nonsense"),
        (["5"], "unrecognized arguments: 5"),
    ],
)
def test_bad_options_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        options(tmp_path, *arguments)
    assert caught.value.code == 2
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize("name", ["espnet", "nemo", "strategies"])
def test_recipes_can_be_read(name: str) -> None:
    found = read_options(ROOT / "recipes" / "mini" / name, ["--tiny", "true", "--nj", "3"])
    assert found["n_train"] <= 40 and found["stop_stage"] == found["last_stage"] > 5
    assert found["command"] == f"recipes/mini/{name}/run.sh --tiny true --nj 3"
