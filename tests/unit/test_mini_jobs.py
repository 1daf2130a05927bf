"""The job pool of the mini recipe: order, markers, resuming, failures, the cost of epochs."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nas_encoder.errors import ConfigError
from recipes.mini.espnet.local import training_config as espnet_config
from recipes.mini.espnet.local.training_config import steps_in_epoch
from recipes.mini.local.config import merge
from recipes.mini.local.equal_time import plan
from recipes.mini.local.jobs import Job, Markers, parse_jobs
from recipes.mini.local.pool import JobError, Pool
from recipes.mini.local.training_log import LogWatch, epoch_seconds


def shell(name: str, script: str, **options: object) -> Job:
    return Job(name, 1, ("sh", "-c", script), **options)  # type: ignore[arg-type]


def run(root: Path, *jobs: Job, cores: int = 2) -> str:
    out = io.StringIO()
    Pool(jobs, Markers(root), cores, out).run()
    return out.getvalue()


def test_declarations() -> None:
    first, second = parse_jobs(
        [
            r"--name a --stage 1 --outputs x,y -- printf %s\\n 'two words' -- --more",
            "",
            "--name b/c_1 --stage 2 --after a --inputs x --fresh d --unless e --cores 2 -- true",
        ]
    )
    assert first == Job(
        "a", 1, ("printf", "%s\\n", "two words", "--", "--more"), outputs=(Path("x"), Path("y"))
    )
    assert second == Job(
        "b/c_1", 2, ("true",), ("a",), (Path("x"),), (), Path("d"), Path("e"), cores=2
    )


def test_all_bad_declarations_are_reported_together() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_jobs(
            [
                "--name a --stage 1 true",
                "--name a --stage 1 --",
                "--name a --stage x -- true",
                "--name ../a --stage 1 -- true",
                "--name b --stage 1 --after c -- true",
                "--name c --stage 1 --nonsense 1 -- true",
                "--name c --stage 1 -- true",
                "--name c --stage 1 -- true",
            ]
        )
    text = str(caught.value)
    for expected in (
        "line 1: no '--'",
        "line 2: no command",
        "line 3: argument --stage",
        "line 4: --name: must match",
        "line 6: unrecognized arguments",
        "line 8: --name: 'c' is declared twice",
        "'b': --after: 'c' is declared after it",
    ):
        assert expected in text
    assert len(caught.value.problems) == 7


def test_order_and_second_run(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    jobs = [
        shell("slow", f"sleep 0.5; echo slow >> {log}"),
        shell("last", f"echo last >> {log}", after=("slow",)),
        shell("quick", f"echo quick >> {log}"),
    ]
    run(tmp_path / "exp", *jobs)
    assert log.read_text().split() == ["quick", "slow", "last"]
    text = run(tmp_path / "exp", *jobs)
    assert text.count("done before") == 3
    assert len(log.read_text().split()) == 3


def test_a_job_is_done_again_where_its_inputs_command_or_outputs_changed(tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_text("1")
    job = shell("copy", f"cat {source} > {copy}", inputs=(source,), outputs=(copy,))
    run(tmp_path / "exp", job)
    source.write_text("2")
    run(tmp_path / "exp", job)
    assert copy.read_text() == "2"
    copy.unlink()
    run(tmp_path / "exp", job)
    assert copy.read_text() == "2"
    other = shell("copy", f"printf 3 > {copy}", inputs=(source,), outputs=(copy,))
    run(tmp_path / "exp", other)
    assert copy.read_text() == "3"


def test_at_most_so_many_cores_are_used(tmp_path: Path) -> None:
    mark = f"echo + >> {tmp_path}/n; sleep 0.4; echo - >> {tmp_path}/n"
    run(tmp_path / "exp", shell("a", mark, cores=2), shell("b", mark), shell("c", mark), cores=2)
    order = (tmp_path / "n").read_text().split()
    assert order[:2] == ["+", "-"]
    assert order[2:4] == ["+", "+"]


def test_a_failing_job_names_its_log_and_shows_its_end(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(JobError) as caught:
        run(tmp_path, shell("sleeper", "sleep 60"), shell("a/b", "echo it broke; exit 3"))
    assert time.monotonic() - began < 20  # the other one was ended
    text = str(caught.value)
    assert "'a/b' ended with status 3" in text
    assert str(tmp_path / "log" / "a" / "b.log") in text and "it broke" in text
    assert "did not write" in _failure(tmp_path, shell("c", "true", outputs=(tmp_path / "x",)))
    assert "cannot start" in _failure(tmp_path, Job("d", 1, ("no-such-program",)))
    assert "no such file" in _failure(tmp_path, shell("e", "true", inputs=(tmp_path / "y",)))
    assert "begin at an earlier --stage" in _failure(tmp_path, shell("f", "true", after=("z",)))


def _failure(root: Path, job: Job) -> str:
    with pytest.raises((JobError, ConfigError)) as caught:
        run(root, job)
    return str(caught.value)


def test_a_folder_is_gone_on_with_only_where_the_job_is_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    # Fails after its first step, and goes on from there the second time.
    script = f"""
        mkdir -p {folder}
        if [ -e {folder}/one ]; then touch {folder}/two; else touch {folder}/one; exit 1; fi
    """
    source = tmp_path / "source"
    source.write_text("1")
    job = shell("train", script, inputs=(source,), fresh=folder, outputs=(folder / "two",))
    _failure(tmp_path, job)
    assert "goes on" in run(tmp_path, job)
    assert Markers(tmp_path).read("train")["sessions"] == 2
    source.write_text("2")
    assert "ended with status 1" in _failure(tmp_path, job)  # it began with an empty folder
    assert not (folder / "two").exists()


def test_what_cannot_be_gone_on_with_begins_anew(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    script = f"mkdir -p {folder}; test ! -e {folder}/bad || exit 1; test -e {tmp_path}/ok || "
    script += f"{{ touch {folder}/bad {tmp_path}/ok; exit 1; }}; touch {folder}/done"
    job = shell("train", script, fresh=folder, outputs=(folder / "done",))
    _failure(tmp_path, job)
    assert "begins anew" in run(tmp_path, job)


def test_only_folders_of_the_experiment_are_removed(tmp_path: Path) -> None:
    outside = tmp_path / "mine"
    outside.mkdir()
    job = shell("train", "true", fresh=outside)
    assert "not inside" in _failure(tmp_path / "exp", job)
    assert outside.is_dir()


def test_a_job_that_is_not_needed_satisfies_who_waits_for_it(tmp_path: Path) -> None:
    same, out = tmp_path / "same", tmp_path / "out"
    same.touch()
    first = shell("a", f"touch {out}", unless=same, outputs=(out,))
    assert "not needed" in run(tmp_path, first, shell("b", "true", after=("a",)))
    assert not out.exists()
    run(tmp_path, shell("c", "true", after=("a",)))  # a later call, which does not declare it
    same.unlink()
    run(tmp_path, first)
    assert out.exists()


def test_a_killed_run_can_be_repeated(tmp_path: Path) -> None:
    """SIGKILL of the runner ends its jobs too; the same command finishes what is left."""
    exp = tmp_path / "exp"
    jobs = tmp_path / "jobs"
    jobs.write_text(
        f"--name first --stage 1 -- sh -c 'echo x >> {tmp_path}/first'\n"
        f"--name second --stage 1 --after first -- sh -c "
        f"'test -e {tmp_path}/go || sleep 60; touch {tmp_path}/second'\n"
    )
    command = [sys.executable, "-m", "recipes.mini.local.run_jobs", str(jobs)]
    command += ["--expdir", str(exp), "--nj", "1"]
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    runner = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while Markers(exp).read("second").get("status") != "started":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    busy = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert busy.returncode == 1 and "another run works" in busy.stderr
    runner.send_signal(signal.SIGKILL)
    runner.wait()
    (tmp_path / "go").touch()
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "first: done before" in again.stdout
    assert (tmp_path / "second").exists()
    assert (tmp_path / "first").read_text() == "x\n"


LOG = """\
[vm] 2026-01-01 00:00:00,000 (trainer:336) INFO: {0}/{1}epoch started
[vm] 2026-01-01 00:00:09,000 (trainer:811) INFO: {0}epoch:train:1-20batch: iter_time=0.062
[vm] 2026-01-01 00:00:10,000 (trainer:394) INFO: {0}epoch results: [train] loss_ctc=1.5, \
time=8 seconds, total_count=62, [valid] loss_ctc=1.2, cer_ctc=0.125, loss_att=nan, \
time=1.5 seconds, total_count=5
"""


def test_epochs_and_their_cost_are_read_from_espnets_log(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    watch = LogWatch(path)
    assert not watch.poll(1.0, 1.0)
    started, results = LOG.format(1, 3).split("\n", 1)
    with path.open("a") as stream:
        stream.write(started[:-5])
        stream.flush()
        assert not watch.poll(11.0, 12.0)  # half a line
        stream.write(started[-5:] + "\n")
        stream.flush()
        assert watch.poll(12.0, 13.0)
        stream.write(results)
        stream.flush()
        assert watch.poll(20.0, 25.0)
    assert watch.status(26.0) == "epoch 1/3, 12.0 s each, 0.4 min left, valid CER 12.5 %"
    # Killed in epoch 2, which the second session repeats.
    again = LogWatch(path, watch.rows, session=2)
    with path.open("a") as stream:
        stream.write(LOG.format(2, 3).split("\n", 1)[0] + "\n")
        stream.flush()
        again.poll(15.0, 16.0)
        stream.write(LOG.format(2, 3).split("\n", 1)[1])
        stream.flush()
        again.poll(22.0, 24.0)
        stream.write(LOG.format(3, 3))
        stream.flush()
        again.poll(30.0, 33.0)
    assert epoch_seconds(again.rows) == {1: 8.0, 2: 7.0, 3: 8.0}
    assert epoch_seconds(again.rows, "wall") == {1: 12.0, 2: 8.0, 3: 9.0}


def test_progress_bars_are_read_too(tmp_path: Path) -> None:
    path = tmp_path / "search.log"
    watch = LogWatch(path)
    path.write_text("search  42%|####    | 00:10<00:14\rsearch  57%|#####   | 00:1")
    watch.poll(1.0, 1.0)
    assert watch.status(1.0) == "42 %"


def test_equal_time_is_met_by_epochs_and_steps() -> None:
    config = {"max_epoch": 10, "num_iters_per_epoch": 62, "scheduler_conf": {"max_lr": 0.002}}
    for seconds, budget in ((40.0, 350.0), (130.0, 350.0), (380.0, 350.0), (900.0, 350.0)):
        planned = plan(config, seconds, budget, espnet_config)
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
