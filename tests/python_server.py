"""Runs the jobs of a recipe, ``python -m ...`` and ``nas-encoder ...``, in forks of one process.

Imported, it offers :func:`commands`: a folder to be put first on a PATH, whose ``python`` and
``nas-encoder`` hand programs of the packages ``SERVED`` over to that process and pass on their
status; all else is left to the interpreter. As a script, started by :class:`forked.Forks`, it is
that process. So a recipe's jobs import a toolkit (10 s of CPU), torch, lhotse and Lightning once in
all, and are otherwise the same programs with the same arguments, folder, variables and output.
What ``resumable`` runs, and measures, is a fork of it, so that the costs are the program's.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from forked import Forks, finish

MODULES = (
    "nas_encoder.cli.search",
    "nas_encoder.data",
    "nas_encoder.search.run",
    "nas_encoder.search.gradient.loop",
    "nas_encoder.search.trials.run",
    "kaldialign",
    "lhotse",
    "lightning.fabric",
    "matplotlib.figure",
    "snakemake.cli",
    "torch.utils.tensorboard",
)
SERVED = ("espnet2", "nas_encoder", "recipes", "snakemake", "tools")
# It must start fast: no site-packages (-S), no variables of Python's (-E).
CLIENT = """#!{python} -ES
import array, json, os, signal, socket, struct, sys
words = {words} + sys.argv[1:]
if words[:1] != ["-m"] or words[1].split(".")[0] not in {served}:
    os.execv({python!r}, [{python!r}, *words])
with socket.socket(socket.AF_UNIX) as server:
    server.connect({path!r})
    sent = json.dumps([words, os.getcwd(), dict(os.environ)]).encode()
    files = array.array("i", [0, 1, 2])
    head = struct.pack("I", len(sent))
    server.sendmsg([head], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
    server.sendall(sent)
    job = struct.unpack("i", server.recv(4, socket.MSG_WAITALL))[0]
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: os.kill(job, number))
    answer = server.recv(4, socket.MSG_WAITALL)
status = struct.unpack("i", answer)[0] if answer else 70
if status < 0:
    signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
sys.exit(status)
"""


@contextlib.contextmanager
def commands(toolkit: Forks, folder: Path, modules: Sequence[str] = MODULES) -> Iterator[Path]:
    """Start the process from one that has a toolkit; yield the folder with the two commands.

    Args:
        toolkit: The process.
        folder: An empty one.
        modules: What the new process imports too.
    """
    path = folder / "socket"
    for name, words in (("python", []), ("nas-encoder", ["-m", "nas_encoder"])):
        client = CLIENT.format(python=sys.executable, words=words, served=SERVED, path=str(path))
        (folder / name).write_text(client)
        (folder / name).chmod(0o755)
    server = toolkit.start([__file__, folder, *modules], folder)
    until = time.monotonic() + 300
    while not path.exists():
        assert time.monotonic() < until, toolkit.log()
        time.sleep(0.05)
    try:
        yield folder
    finally:
        (folder / "end").touch()
        with socket.socket(socket.AF_UNIX) as last:  # it looks for `end` after each connection
            last.connect(str(path))
        done = server.wait(60)
        assert done.returncode == 0, done.stderr


def serve(folder: Path, modules: Sequence[str]) -> list[str]:
    """Run programs until the end; in a fork, return its program."""
    for module in modules:
        import_module(module)
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(folder / "opening"))
        door.listen(64)
        (folder / "opening").rename(folder / "socket")
        keepers: set[int] = set()
        while True:
            client, _ = door.accept()
            if (folder / "end").exists():
                return []
            if (keeper := os.fork()) == 0:
                door.close()
                return keep(client, folder)
            client.close()
            keepers.add(keeper)
            keepers -= {pid for pid in keepers if os.waitpid(pid, os.WNOHANG)[0]}


def keep(client: socket.socket, folder: Path) -> list[str]:
    """Fork a program, which ends with its client, and send its status; in the fork, return it."""
    head, files, _, _ = socket.recv_fds(client, 4, 3)
    sent = client.recv(struct.unpack("I", head)[0], socket.MSG_WAITALL)
    words, place, variables = json.loads(sent)
    job = os.fork()
    if job == 0:
        client.close()
        enter(words, place, variables, files, folder)
        return list(words)
    client.sendall(struct.pack("i", job))
    process = os.pidfd_open(job)
    if client in select.select([process, client], [], [])[0]:
        os.kill(job, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(job, 0)[1])
    with contextlib.suppress(BrokenPipeError):
        client.sendall(struct.pack("i", status))
    os._exit(0)


def enter(
    words: Sequence[str], place: str, variables: dict[str, str], files: Sequence[int], folder: Path
) -> None:
    """Give this fork what ``python -m`` would have."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(place)
    os.environ.clear()
    os.environ.update(variables)
    own = [place, *filter(None, variables.get("PYTHONPATH", "").split(os.pathsep))]
    sys.path[:] = [*own, *(path for path in sys.path[1:] if path not in own)]
    sys.argv = list(words[1:])
    sys.executable = str(folder / "python")  # of the processes that it starts
    if words[1] == "tools.experiments.resumable":
        subprocess.Popen = Child  # type: ignore[misc]


class Child(subprocess.Popen[Any]):
    """The command of a ``resumable``: a fork that executes nothing, if its program is served."""

    def __init__(self, words: Sequence[Any], **options: Any) -> None:
        command = list(map(str, words[3:]))  # the first are of a shell, which executes the others
        if command[:1] == ["nas-encoder"]:
            command[:1] = ["python", "-m", "nas_encoder"]
        if command[:2] == ["python", "-m"] and command[2].split(".")[0] in SERVED:
            options["preexec_fn"] = partial(become, command[1:])
        super().__init__(words, **options)


def become(words: Sequence[str]) -> None:
    """Be a program, in a process that has its output already."""
    os.closerange(3, 1 << 12)  # one of them is open until this ends: Popen would wait
    subprocess.Popen = Child.__base__  # type: ignore[misc,assignment]
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.argv = list(words[1:])
    finish(words)


if __name__ == "__main__":
    if chosen := serve(Path(sys.argv[1]), sys.argv[2:]):
        finish(chosen)
