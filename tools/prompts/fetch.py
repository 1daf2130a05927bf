"""Fetches the recorded prompts that Debian packages: six voices, five languages, 8 kHz.

Needs apt's package lists but no root; elsewhere, or without a network, give a folder with the same
.deb files. The folder is then laid out as 'dpkg -x' unpacks the packages, with their copyright
files, and corpus.json says which versions they are. An interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas_encoder.common.documents import read_yaml
from nas_encoder.errors import DataError
from tools.prompts import deb
from tools.scripts import command
from tools.synth.workspace import finished, publish, workspace

KNOWN = Path(__file__).with_name("packages.yaml")
EXAMPLES = """\
examples:
  python -m tools.prompts.fetch --output prompts
  # On a machine with apt: apt-get download $(python -m tools.prompts.fetch --list). Then here:
  python -m tools.prompts.fetch --output prompts --debs folder/with/the/deb/files
"""


Known = Mapping[str, Mapping[str, str]]  # package -> "version" and "sha256"
Found = dict[str, tuple[Path, dict[str, Any]]]  # package -> its file and what it is


def fetch(output: Path, debs: Path | None = None, known: Known | None = None) -> dict[str, Any]:
    """Make the corpus's folder, if it is not there; return its ``corpus.json``.

    Args:
        output: The folder.
        debs: Folder with the packages' files; None: apt downloads them.
        known: Package -> ``version`` and ``sha256``; by default those of ``packages.yaml``.

    Raises:
        DataError: A package cannot be had, is damaged or not the one that its version says; the
            output folder holds something else.
    """
    known = known or read_yaml(KNOWN, DataError)
    request = {"packages": sorted(known)}
    manifest = finished(output, request)
    if manifest is not None:
        return manifest
    with workspace(output, request) as root:
        store = root / "packages"
        store.mkdir(exist_ok=True)
        found = _in_folder(debs, known) if debs else _by_apt(store, known)
        packages = {}
        for name in sorted(found):
            path, facts = found[name]
            print(f"unpacking {path.name}", file=sys.stderr)
            packages[name] = {**facts, "files": deb.unpack(path, root)}
            if debs:
                shutil.copyfile(path, store / path.name)
        manifest = {
            "arguments": request,
            "from": "a folder" if debs else "apt-get download",
            "packages": packages,
            "sha256": _digest(root / "usr"),
        }
        publish(root, output, manifest)
    return manifest


def _facts(path: Path) -> dict[str, Any]:
    fields = deb.fields_of(path)
    return {
        "name": fields.get("Package", ""),
        "version": fields.get("Version", ""),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }


def _look(folder: Path, known: Known) -> tuple[Found, dict[Path, str]]:
    """Return the packages that are in a folder, and other files -> what is wrong with them."""
    found: Found = {}
    wrong: dict[Path, str] = {}
    for path in sorted(folder.glob("*.deb")):
        try:
            facts = _facts(path)
        except DataError as error:
            if path.name.split("_")[0] in known:
                wrong[path] = error.problems[0]
            continue
        name = facts.pop("name")
        if name not in known:
            continue
        facts["tested"] = facts["version"] == known[name]["version"]
        if facts["tested"] and facts["sha256"] != known[name]["sha256"]:
            wrong[path] = f"is not {name} {facts['version']}: its SHA-256 is {facts['sha256']}"
        elif name in found:
            wrong[path] = f"is {name}, and so is {found[name][0].name}: leave one"
        else:
            found[name] = (path, facts)
    return found, wrong


def _in_folder(folder: Path, known: Known) -> Found:
    if not folder.is_dir():
        raise DataError(str(folder), ["no such folder"])
    found, wrong = _look(folder, known)
    problems = [f"{path.name}: {problem}" for path, problem in wrong.items()]
    problems += [f"{name}_*.deb is missing" for name in known if name not in found]
    if problems:
        raise DataError(str(folder), problems)
    return found


def _by_apt(store: Path, known: Known) -> Found:
    """Download what is not in the store already; what is damaged there is replaced."""
    found, wrong = _look(store, known)
    for path in wrong:
        path.unlink()
    if missing := [name for name in known if name not in found]:
        remedy = "download the .deb files of 'fetch --list' elsewhere and give them with --debs"
        if shutil.which("apt-get") is None:
            raise DataError("apt-get", [f"is not here; {remedy}"])
        print(f"downloading {len(missing)} packages", file=sys.stderr)
        done = subprocess.run(
            ["apt-get", "--quiet", "download", *missing],
            cwd=store,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.startswith("E:")]
            raise DataError("apt-get download", [*said, f"run 'apt-get update' first, or {remedy}"])
    return _in_folder(store, known)


def _digest(folder: Path) -> str:
    """Return the SHA-256 of all files below a folder, with their names."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            total.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return total.hexdigest()


@command
def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="fetch",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--output", type=Path, metavar="DIR", help="corpus folder to make")
    add("--debs", type=Path, metavar="DIR", help="folder with the packages (default: use apt)")
    add("--list", action="store_true", help="print the packages' names and end")
    args = parser.parse_args(arguments)
    if args.list:
        print(*read_yaml(KNOWN, DataError), sep="\n")
        return
    if args.output is None:
        parser.error("--output is required")
    manifest = fetch(args.output, args.debs)
    print(json.dumps(manifest, indent=2))


if __name__ == "__main__":
    sys.exit(main())
