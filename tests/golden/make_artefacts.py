"""Make artefacts/: what commit 9cd53a1 writes, and what it made of it itself.

Run with that commit's package, from the root of the checkout; ESPnet and NeMo are needed:

    git worktree add --detach OLD 9cd53a1
    PYTHONPATH=OLD:tests OMP_NUM_THREADS=1 python -m golden.make_artefacts

tests/integration/test_earlier_artefacts.py reads them with the present code. What is imported here
is that commit's, wherever it is now. Searches that are not finished were killed by SIGKILL. Events
of TensorBoard, reports and pictures, which nothing reads, are left out, and weights are rounded to
three or four binary digits, so that they are small. There is no reason to make them again but a
gap: what a later commit writes goes into a folder of its own.
"""

# ruff: noqa: I001  (the order depends on which of the modules are still there)

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import yaml
from golden.artefact_cases import (
    DATA,
    GRADIENT_CASES,
    LATENCIES,
    MEASURE,
    SEED,
    TABLE,
    TRIALS_CASES,
    gradient_document,
    trials_document,
)

COMMIT = "9cd53a1"
FOLDER = Path(__file__).with_name("artefacts")
TONES = {"a": 400.0, "b": 800.0, "c": 1400.0, "d": 2300.0}  # Hz
IGNORED = ("tensorboard", "report.html", "__pycache__", "*.lock", "*-shm")


def main() -> None:
    """Make all archives."""
    import nas_encoder

    package = Path(nas_encoder.__file__).parent
    command = ["git", "-C", str(package), "rev-parse", "--short=7", "HEAD"]
    commit = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    if commit != COMMIT:
        raise SystemExit(f"{package} is at {commit}, not at {COMMIT}; set PYTHONPATH")
    groups = sys.argv[1:] or ["data", "gradient", "trials", "tables", "toolkits", "interface"]
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        write_data()
        for group in groups:
            Path(group).mkdir(exist_ok=True)
            expected: dict[str, Any] = {"commit": COMMIT}
            make_group(group, expected)
            text = json.dumps(expected, indent=1)
            Path(group, "expected.json").write_text(text + "\n", encoding="utf-8")
            pack(group)


def make_group(group: str, expected: dict[str, Any]) -> None:
    """Make one folder of artefacts; ``expected`` gets what the tests compare with."""
    if group == "gradient":
        gradient_searches(expected)
    elif group == "trials":
        trial_searches(expected)
    elif group == "tables":
        tables(expected)
    elif group == "toolkits":
        from golden.artefact_networks import encoders, espnet_models, nemo_models

        for make in (encoders, espnet_models, nemo_models):
            forked(lambda make=make: store(make), f"{make.__name__}")  # type: ignore[misc]
            expected[make.__name__] = restore(make)
    elif group == "interface":
        from golden.artefact_interface import interface

        forked(lambda: store(interface), "interface")
        expected |= restore(interface)


# -- processes -----------------------------------------------------------------------------------


def store(make: Callable[[], Any]) -> None:
    Path(f"{make.__name__}.json").write_text(json.dumps(make()), encoding="utf-8")


def restore(make: Callable[[], Any]) -> Any:
    return json.loads(Path(f"{make.__name__}.json").read_text("utf-8"))


def forked(job: Callable[[], Any], name: str, killed: bool = False) -> None:
    """Do a job in a process of its own, which must end well, or by SIGKILL."""
    print(name, flush=True)
    sys.stdout.flush()
    child = os.fork()
    if not child:
        try:
            job()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code != (-signal.SIGKILL if killed else 0):
        raise SystemExit(f"{name}: exit status {code}")


def kill_after(owner: Any, function: str, count: int) -> None:
    """Let this process die when the n-th call of a method has returned."""
    original, calls = getattr(owner, function), 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        result = original(*args, **kwargs)
        calls += 1
        if calls == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, function, counted)


def kill_within(owner: Any, function: str, count: int) -> None:
    """Let this process die when the n-th iterator of a method has yielded once."""
    original, calls = getattr(owner, function), 0

    def counted(*args: Any, **kwargs: Any) -> Iterator[Any]:
        nonlocal calls
        calls += 1
        for item in original(*args, **kwargs):
            yield item
            if calls == count:
                os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, function, counted)


def command(*words: str) -> None:
    from nas_encoder.cli.main import main as nas_encoder

    with contextlib.redirect_stdout(io.StringIO()):
        status = nas_encoder(list(words))
    if status:
        raise SystemExit(f"{' '.join(words)}: exit status {status}")


# -- data ----------------------------------------------------------------------------------------


def write_data() -> None:
    """Write Kaldi folders of tones, 8 kHz and 8 bits, and one utterance at 16 kHz."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 8), ("valid", 3), ("test", 3)):
        folder = Path("data", part)
        (folder / "wav").mkdir(parents=True)
        lines: dict[str, list[str]] = {"wav.scp": [], "text": [], "utt2spk": []}
        for number in range(count):
            key = f"s{number % 3}-{part}{number}"
            text = "".join(rng.permutation(list(TONES)))
            path = folder / "wav" / f"{key}.wav"
            size = int(rng.integers(3600, 4400))
            soundfile.write(path, speak(text, size, 8000), 8000, subtype="PCM_U8")
            lines["wav.scp"].append(f"{key} {path}")
            lines["text"].append(f"{key} {text}")
            lines["utt2spk"].append(f"{key} {key.split('-')[0]}")
        for name, content in lines.items():
            (folder / name).write_text("\n".join(sorted(content)) + "\n", encoding="utf-8")
    soundfile.write("data/speech.wav", speak("abcd", 12000, 16000), 16000, subtype="PCM_U8")


def speak(text: str, size: int, rate: int) -> Any:
    time = np.arange(size // len(text)) / rate
    pieces = [np.sin(2 * np.pi * TONES[letter] * time) * np.hanning(len(time)) for letter in text]
    return 0.6 * np.concatenate(pieces)


# -- searches ------------------------------------------------------------------------------------


def search(name: str, output: str, arguments: list[str], *more: str) -> None:
    config = f"{output.split('/')[0]}/configs/{name}.yaml"
    command("search", "--config", config, *arguments, "--output", output, *more)


def run_case(
    group: str,
    name: str,
    document: dict[str, Any],
    arguments: list[str],
    kill: Callable[[], None],
) -> dict[str, Any]:
    """Make a finished run and one that was killed; return what the latter came to, resumed."""
    config = Path(group, "configs", f"{name}.yaml")
    config.parent.mkdir(exist_ok=True)
    config.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    finished, half, resumed = (f"{group}/{part}/{name}" for part in ("finished", "half", "resumed"))
    forked(lambda: search(name, finished, arguments), finished)

    def until_killed() -> None:
        kill()
        search(name, half, arguments)

    forked(until_killed, half, killed=True)
    for checkpoint in [*Path(finished).glob("**/last.ckpt"), *Path(half).glob("**/last.ckpt")]:
        forked(lambda: make_smaller(checkpoint.parent), str(checkpoint))  # noqa: B023
    shutil.copytree(half, resumed)
    forked(lambda: search(name, resumed, arguments, "--resume"), resumed)
    found = {"arguments": arguments, "space": document["space"], "strategy": document["strategy"]}
    for part in (finished, half, resumed):
        found[part.split("/")[1]] = outcome(Path(part))
    shutil.rmtree(resumed)
    return found


def make_smaller(folder: Path) -> None:
    """Round the weights of a checkpoint; the architecture's parameters stay as they are."""
    from golden.artefact_networks import rounded

    from nas_encoder.search.runfolder import RunFolder

    state = RunFolder(folder).load_checkpoint()
    assert state is not None
    for part in ("network", "weights_optimizer"):
        state[part] = rounded(state[part])
    RunFolder(folder).save_checkpoint(state)


def outcome(folder: Path) -> dict[str, Any]:
    """Return the rows, and the hash and the text of the result, of a folder or of each seed."""
    found: dict[str, Any] = {"hash": None}
    if (folder / "genotype.yaml").is_file():
        from nas_encoder import load_genotype

        found["hash"] = load_genotype(folder / "genotype.yaml").hash
    for path in sorted(folder.glob("**/metrics.jsonl")):
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        found.setdefault("rows", {})[str(path.relative_to(folder))] = rows
    return found


def gradient_searches(expected: dict[str, Any]) -> None:
    import nas_encoder.search.report  # noqa: F401  # before the forks
    from nas_encoder.search.runfolder import RunFolder

    forked(lambda: command(*MEASURE.split()), LATENCIES)
    for name, (_, count) in GRADIENT_CASES.items():
        document = gradient_document(name)
        arguments = DATA if "seeds" in document else [*DATA, "--seed", str(SEED)]
        expected[name] = run_case(
            "gradient",
            name,
            document,
            arguments,
            lambda count=count: kill_after(RunFolder, "save_checkpoint", count),  # type: ignore[misc]
        )


def trial_searches(expected: dict[str, Any]) -> None:
    import nas_encoder.search.trials.report  # noqa: F401  # before the forks
    from nas_encoder.search.trials.evaluate import TableEvaluator
    from nas_encoder.search.trials.training import TrainingEvaluator

    for name in TRIALS_CASES:
        document = trials_document(name)
        owner = TableEvaluator if "table" in document else TrainingEvaluator
        arguments = ["--seed", str(SEED)] + ([] if "table" in document else DATA)
        expected[name] = run_case(
            "trials",
            name,
            document,
            arguments,
            lambda owner=owner: kill_within(owner, "errors", 4),  # type: ignore[misc]
        )


# -- tables --------------------------------------------------------------------------------------


def tables(expected: dict[str, Any]) -> None:
    """A finished table, one whose building was killed, and two shards."""
    from nas_encoder.search.tabular.training import Trainer

    Path("tables/quick.yaml").write_text(yaml.safe_dump(TABLE), encoding="utf-8")
    data = [*DATA, "--test", "data/test"]

    def build(output: str, *more: str) -> None:
        command("table", "build", "--config", "tables/quick.yaml", *data, "--output", output, *more)

    def until_killed() -> None:
        original = Trainer._save

        def save(self: Any) -> None:
            self.checkpoint_seconds = 0.0
            original(self)

        Trainer._save = save  # type: ignore[method-assign]
        kill_after(Trainer, "_save", 5)  # in the second training
        build("tables/half.sqlite")

    forked(lambda: build("tables/finished.sqlite"), "finished.sqlite")
    forked(until_killed, "half.sqlite", killed=True)
    for part in (1, 2):
        shard = f"tables/part{part}.sqlite"
        forked(lambda: build(shard, "--shard", f"{part}/2"), shard)  # noqa: B023
    for suffix in ("", ".ckpt"):
        shutil.copy(f"tables/half.sqlite{suffix}", f"resumed.sqlite{suffix}")
    forked(lambda: build("resumed.sqlite", "--resume"), "resumed.sqlite")
    forked(
        lambda: command(
            "table", "merge", "tables/part1.sqlite", "tables/part2.sqlite", "--output", "m.sqlite"
        ),
        "merged",
    )
    expected["arguments"] = data
    for name in ("tables/finished", "tables/half", "tables/part1", "resumed", "m"):
        expected[Path(name).name] = numbers(f"{name}.sqlite")


def numbers(path: str) -> list[Any]:
    try:
        from nas_encoder.tabular import load_table
    except ModuleNotFoundError:  # where this script writes, at the earlier commit
        from nas_encoder.search.tabular import load_table

    return [
        [target, seed, key, list(training.val), training.test]
        for (target, seed), rows in load_table(path).trainings.items()
        for key, training in sorted(rows.items())
    ]


# -- the archives --------------------------------------------------------------------------------


def pack(group: str) -> None:
    """Write a folder as an archive that depends on its files' content alone."""
    FOLDER.mkdir(exist_ok=True)
    skip = shutil.ignore_patterns(*IGNORED)
    target = FOLDER / f"{group}.tar.xz"

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        folder, name = os.path.split(member.name)
        if skip(folder, [name]):
            return None
        member.uid = member.gid = member.mtime = 0
        member.uname = member.gname = ""
        return member

    with tarfile.open(target, "w:xz", preset=9) as archive:
        archive.add(group, filter=plain)
    print(f"{target}: {target.stat().st_size / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
