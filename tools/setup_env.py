"""Build ``.venv``: the real ESPnet, the real NeMo and this package, from pinned versions.

It uses only the standard library, because it runs before anything is installed. Every step leaves a
stamp in ``.venv/.setup`` of what went into it (requirements, pins, interpreter, earlier steps) and
is skipped where that is valid, so that an interrupted run is resumed where it stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = "requirements/constraints.txt"
FREE_GIB = 4  # the finished environment with a CPU build of torch takes about 2.6 GiB
TEMP_GIB = 1
LOG_LINES = 25

# (pattern in pip's output, what it means and what to do)
DIAGNOSES = (
    (
        r"No space left on device|Disk quota exceeded",
        "the disk is full. Free some space (also in the folder for temporary files: set TMPDIR "
        "to one on a larger disk), then run it again",
    ),
    (
        r"NewConnectionError|Name or service not known|name resolution|ConnectionResetError"
        r"|Network is unreachable|Connection refused|timed out|ProxyError|IncompleteRead"
        r"|Remote end closed|SSLError|CERTIFICATE_VERIFY_FAILED|ConnectTimeout",
        "the package index could not be reached. Check the network, the proxy settings and "
        "`pip config list`, then run it again",
    ),
    (
        r"DO NOT MATCH THE HASHES|BadZipFile|not a valid zip",
        "a download was damaged. Run `.venv/bin/python -m pip cache purge`, then run it again",
    ),
    (
        r"Python\.h: No such file|command '?\S*(gcc|cc|g\+\+)\S*'? failed|unable to execute",
        "a package that comes as source did not compile. It needs gcc, g++ and the headers of "
        "this Python (on Debian and Ubuntu: build-essential and python3-dev)",
    ),
    (
        r"No matching distribution found|Could not find a version",
        "the package index in use does not offer a pinned version, or could not be reached. "
        "Compare `pip config list` with what you expect",
    ),
)


class SetupError(Exception):
    """The set-up cannot continue; the message says why and what to do."""


@dataclass(frozen=True)
class Step:
    """One step of the set-up."""

    name: str  # name of its stamp and log
    title: str  # what it does and why, in one line
    inputs: tuple[str, ...]  # files whose content determines what it installs
    # Arguments of "pip install", or a function that may return a line for the user:
    action: Sequence[str] | Callable[[Environment], str | None]
    beside: Sequence[str] = ()  # arguments of a second pip, which runs meanwhile


class Environment:
    """The environment being built.

    Args:
        venv: Its folder.
        lock: Descriptor of the lock. Child processes inherit it, so a pip that outlives a
            killed set-up keeps the next one waiting.
    """

    def __init__(self, venv: Path, lock: int) -> None:
        self.venv, self.lock = venv, lock
        self.python = venv / "bin" / "python"
        self.state = venv / ".setup"  # the lock, the stamps and the logs

    def site_packages(self) -> Path:
        """Folder that packages are installed into."""
        found = sorted(self.venv.glob("lib/python3.*/site-packages"))
        if len(found) != 1:
            raise SetupError(f"{self.venv} is damaged; delete it, then run it again")
        return found[0]

    def run(self, name: str, *commands: Sequence[str | Path]) -> str:
        """Run commands side by side, log and return their output; SetupError if one fails."""
        log = self.state / f"{name}.log"
        processes: list[subprocess.Popen[bytes]] = []
        with log.open("wb") as stream:
            try:
                for command in commands:
                    process = subprocess.Popen(
                        command,
                        cwd=ROOT,
                        env=clean_environment(),
                        stdin=subprocess.DEVNULL,
                        stdout=stream,
                        stderr=subprocess.STDOUT,
                        pass_fds=(self.lock,),
                    )
                    processes.append(process)
                status = next(filter(None, [process.wait() for process in processes]), 0)
            except BaseException:
                for process in processes:
                    process.terminate()
                    process.wait()
                raise
        text = log.read_text(encoding="utf-8", errors="replace")
        if status == 0:
            return text
        lines = [line for line in text.splitlines() if line.strip()]
        tail = "\n".join(f"    {line}" for line in lines[-LOG_LINES:])
        meaning = next(
            (meaning for pattern, meaning in DIAGNOSES if re.search(pattern, text)),
            "the cause is not one that this script knows; the log may tell",
        )
        raise SetupError(
            f"step '{name}' failed (exit status {status}): {meaning}.\n{tail}\n  whole log: {log}"
        )


def clean_environment() -> dict[str, str]:
    """Environment variables for child processes, without those that redirect an install."""
    unwanted = ["PYTHONPATH", "PYTHONHOME", "PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT"]
    unwanted.append("PYTHONDONTWRITEBYTECODE")  # until the last step has compiled all
    variables = {key: value for key, value in os.environ.items() if key not in unwanted}
    variables.update(
        PYTHONNOUSERSITE="1",
        PIP_DISABLE_PIP_VERSION_CHECK="1",
        PIP_PROGRESS_BAR="off",
        PIP_COMPILE="0",  # left to the last step; also where pip builds a source package
        # Also constrain what source packages are built with; newer releases of pip have a
        # separate option for that. A relative path, because pip splits the value at blanks.
        PIP_CONSTRAINT=CONSTRAINTS,
        PIP_BUILD_CONSTRAINT=CONSTRAINTS,
        NAS_ENCODER_AUTOLOAD="0",
    )
    return variables


def require_space(folder: Path, gibibytes: float) -> None:
    """Raise SetupError if less than ``gibibytes`` are free in ``folder``."""
    free = shutil.disk_usage(folder).free / 2**30
    if free < gibibytes:
        raise SetupError(
            f"{folder} has {free:.1f} GiB free and the set-up needs {gibibytes} GiB there. Free "
            "some space (for the folder of temporary files: or set TMPDIR), then run it again"
        )


@contextlib.contextmanager
def locked(path: Path) -> Iterator[int]:
    """Hold the lock on the environment; wait while another set-up has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = path.read_text(encoding="utf-8").strip() or "unknown"
            say(f"another set-up is at work here (process {owner}); waiting for it to finish")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def delete(path: Path) -> None:
    """Delete a file, a link or a whole folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def remove_damaged(site_packages: Path) -> list[str]:
    """Delete the metadata of partly installed packages, so that pip installs them again.

    pip considers a package installed as soon as its ``METADATA`` exists, but writes ``INSTALLER``
    and the final ``RECORD`` only after all of its files. An interrupted removal leaves ``~...``.

    Returns:
        The names of what was deleted.
    """
    damaged = [
        info
        for info in site_packages.glob("*.dist-info")
        if not all((info / part).is_file() for part in ("METADATA", "INSTALLER", "RECORD"))
    ]
    damaged += site_packages.glob("~*")
    for path in damaged:
        delete(path)
    return sorted(path.name for path in damaged)


def create_venv(env: Environment) -> None:
    """Create an empty environment; delete the remains of an earlier attempt."""
    for path in env.venv.iterdir():
        if path != env.state:
            delete(path)
    # Not sys.executable, which may be the .venv/bin/python just deleted.
    base: str = getattr(sys, "_base_executable", sys.executable)
    env.run("venv", [base, "-I", "-m", "venv", env.venv])


def make_torchaudio_importable(env: Environment) -> str | None:
    """Remove torchaudio's native libraries if they cannot be loaded for lack of CUDA."""
    probe = (
        "import torch\n"
        "try:\n"
        "    import torchaudio\n"
        "except OSError as error:\n"
        "    print('cuda' if torch.version.cuda else 'cpu', error)\n"
        "else:\n"
        "    print('fine')\n"
    )
    answer = env.run("torchaudio-libraries", [env.python, "-c", probe]).strip().splitlines()[-1]
    if answer == "fine":
        return None
    if not answer.startswith("cpu "):
        raise SetupError(f"torchaudio does not load beside a CUDA build of torch: {answer}")
    libraries = sorted((env.site_packages() / "torchaudio" / "lib").glob("*.so"))
    for library in libraries:
        library.unlink()
    env.run("torchaudio-libraries", [env.python, "-c", "import torchaudio"])
    return (
        f"torch is a CPU-only build, torchaudio is built for CUDA and could not be imported: "
        f"removed its {len(libraries)} native libraries. Its pure-Python parts (features, deltas) "
        "work; forced_align and rnnt_loss are absent"
    )


def compile_modules(env: Environment) -> None:
    """Byte-compile what may be imported, on several cores; pip would use one, for tests too."""
    # Imports would do it again in every process where PYTHONDONTWRITEBYTECODE is set.
    command: list[str | Path] = [env.python, "-I", ROOT / "tools" / "bytecode.py"]
    folders = (env.site_packages(), env.venv / "espnet-202611")
    cores = min(os.cpu_count() or 1, 8)
    env.run("bytecode", *([*command, str(n), str(cores), *folders] for n in range(cores)))


def requirements(name: str, title: str, *options: str) -> Step:
    """Return the step that installs ``requirements/<name>.txt``."""
    file = f"requirements/{name}.txt"
    return Step(name, title, (file, CONSTRAINTS), [*options, "-c", CONSTRAINTS, "-r", file])


WHEELS = ".venv/.setup/wheels"
BUILT = ("--find-links", WHEELS)  # by the step of NeMo
STEPS = (
    Step("venv", "an empty virtual environment with the pip it comes with", (), create_venv),
    requirements("torch", "PyTorch, which everything else builds on"),
    requirements("torchaudio", "torchaudio, which NeMo imports"),
    Step(
        "torchaudio-libraries",
        "check that torchaudio imports beside this PyTorch",
        (),
        make_torchaudio_importable,
    ),
    replace(
        requirements("nemo", "NVIDIA NeMo, what it needs, and building what has no wheel"),
        beside=("wheel", "--no-deps", "-w", WHEELS, "-r", "requirements/sources.txt"),
    ),
    requirements("espnet-nodeps", "ESPnet, without its outdated pins", "--no-deps", *BUILT),
    requirements("espnet", "what ESPnet needs at run time", *BUILT),
    requirements("dev", "the extras, tools and test packages of this project", *BUILT),
    Step(
        "project",
        "nas_encoder itself, editable, with its registration hook",
        ("pyproject.toml", "setup.py", "nas_encoder/nas_encoder_autoload.pth"),
        ["--no-deps", "--no-build-isolation", "--editable", "."],
    ),
    requirements(
        "espnet-202611",
        "ESPnet 202611, in a folder of its own for the tests",
        *("--no-deps", "--ignore-requires-python", "--upgrade"),
        *("--target", ".venv/espnet-202611"),
    ),
    Step("bytecode", "byte-compile what was installed", ("tools/bytecode.py",), compile_modules),
)


def digests() -> dict[str, str]:
    """Return each step's digest of what determines its result, earlier steps included."""
    state = hashlib.sha256(f"{sys.version}\n{sys.base_prefix}\n{ROOT}".encode())
    result = {}
    for step in STEPS:
        state.update(step.name.encode())
        for file in step.inputs:
            state.update((ROOT / file).read_bytes())
        result[step.name] = state.hexdigest()
    return result


def pending(env: Environment, wanted: dict[str, str]) -> list[Step]:
    """Return the steps to do: the first without a valid stamp and all that follow."""
    for number, step in enumerate(STEPS):
        stamp = env.state / f"{step.name}.stamp"
        if not stamp.is_file() or stamp.read_text(encoding="utf-8") != wanted[step.name]:
            return list(STEPS[number:])
    return []


def say(text: str) -> None:
    """Print a line immediately, even into a pipe."""
    print(f"setup: {text}", flush=True)


def build(env: Environment) -> bool:
    """Do all pending steps; return whether there were any."""
    wanted = digests()
    todo = pending(env, wanted)
    if not todo:
        return False
    require_space(env.venv, FREE_GIB if len(todo) == len(STEPS) else TEMP_GIB)
    require_space(Path(tempfile.gettempdir()), TEMP_GIB)
    if shutil.which("gcc") is None and shutil.which("cc") is None:
        raise SetupError("no C compiler found; some packages come as source and need gcc")
    for step in todo:
        (env.state / f"{step.name}.stamp").unlink(missing_ok=True)
    if todo[0].name != "venv":
        if removed := remove_damaged(env.site_packages()):
            say(f"cut short earlier and installed again now: {', '.join(removed)}")
    for step in todo:
        started, note, took = time.monotonic(), None, ""
        print(f"setup: [{STEPS.index(step) + 1}/{len(STEPS)}] {step.title} ...", end="", flush=True)
        try:
            if callable(step.action):
                note = step.action(env)
            else:
                pip: tuple[str | Path, ...] = (env.python, "-m", "pip", "--no-input")
                beside = [[*pip, *step.beside]] if step.beside else []
                env.run(step.name, [*pip, "install", *step.action], *beside)
            took = f" {time.monotonic() - started:.0f} s"
        finally:
            print(took, flush=True)
        if note:
            say(f"      {note}")
        stamp = env.state / f"{step.name}.stamp"
        stamp.with_suffix(".new").write_text(wanted[step.name], encoding="utf-8")
        stamp.with_suffix(".new").replace(stamp)
    return True


def main(argv: Sequence[str] | None = None) -> int:
    """Build the environment, then let ``nas-encoder doctor`` inspect it."""
    parser = argparse.ArgumentParser(prog="make setup", description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--if-needed", action="store_true", help="say and inspect nothing where all is complete")
    add("--no-doctor", action="store_true", help="inspect nothing, because the tests do")
    args = parser.parse_args(argv)
    # A request to end acts like Ctrl-C, so that the running pip ends too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    venv = ROOT / ".venv"
    started = time.monotonic()
    try:
        with locked(venv / ".setup" / "lock") as lock:
            env = Environment(venv, lock)
            changed = build(env)
        if not changed and args.if_needed:
            return 0
        done = f"done in {time.monotonic() - started:.0f} s"
        say(done if changed else "nothing to do, .venv is complete")
        if args.no_doctor:
            return 0
        say("nas-encoder doctor:")
        status = subprocess.run([venv / "bin" / "nas-encoder", "doctor"], cwd=ROOT).returncode
        if status != 0:
            raise SetupError(
                f"`nas-encoder doctor` found the environment unfit (exit status {status}); what it "
                "says above tells what to do. To start afresh: delete .venv, then run it again"
            )
    except (SetupError, OSError) as error:
        print(f"setup: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nsetup: interrupted; run it again and it goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
