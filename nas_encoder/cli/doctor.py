"""Say what is installed, whether the encoders are registered, and what to do where they are not.

Starts a fresh Python for each toolkit, imports the toolkit there and looks into its own tables,
so the answer is what a training would see; likewise for Hydra, through which NeMo's scripts find
our configs by name. The exit status is 1 where a toolkit is installed but our encoders are not
registered in it (in Hydra: our configs not found), else 0.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from importlib.util import find_spec
from typing import Any

from nas_encoder import __version__
from nas_encoder.autoload import SWITCH, enabled
from nas_encoder.cli.enable import PACKAGE, PTH, active_at_startup, hook_files
from nas_encoder.common.resources import conf_root
from nas_encoder.extensions import INSTALLED

EXAMPLES = """examples:
  nas-encoder doctor
  nas-encoder doctor --json
"""

TIMEOUT = 300  # seconds; a toolkit's first import on a slow disk takes more than a minute
_GENERAL = ("blocks_", "nas_")  # configurations for any corpus
_MARK = "nas_encoder.doctor:"

# What a fresh Python runs for each toolkit; "found" is what the toolkit knows of ours.
_PROBES = {
    "espnet": """
import espnet2.tasks.asr as module
found = {
    name: f"{cls.__module__}.{cls.__qualname__}"
    for name, cls in module.encoder_choices.classes.items()
    if cls.__module__.startswith("nas_encoder.") and not name.startswith("nas_encoder")
}
if found:  # else nothing of ours can be imported there
    from nas_encoder.espnet.survey import survey
    tables = survey()
""",
    "nemo": """
import nemo.core.classes.common as module
found = {
    prefix.rpartition(".")[2]: prefix
    for prefix in module.ALLOWED_TARGET_PREFIXES
    if prefix.startswith("nas_encoder.")
}
""",
    "hydra": """
import pathlib
import hydra
from hydra.core.global_hydra import GlobalHydra
with hydra.initialize(version_base=None, config_path=None):
    paths = GlobalHydra.instance().config_loader().get_search_path().get_path()
folders = [e.path.removeprefix("file://") for e in paths if e.provider == "nas_encoder"]
found = {file.stem: str(file) for folder in folders for file in pathlib.Path(folder).glob("*.yaml")}
""",
}
_REPORT = f"""
import json, sys
sys.stdout.write("\\n{_MARK}" + json.dumps([found, tables]) + "\\n")
"""

_FIND_US = f"pip install {PACKAGE.parent}, or PYTHONPATH={PACKAGE.parent}"

_DISTRIBUTIONS = {"espnet": "espnet", "nemo": "nemo_toolkit", "hydra": "hydra-core"}
_TITLES = {"espnet": "ESPnet", "nemo": "NeMo", "hydra": "Hydra"}
_ADAPTERS = {
    "espnet": "nas_encoder.espnet",
    "nemo": "nas_encoder.nemo",
    "hydra": "hydra_plugins.nas_encoder_searchpath",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def run(args: argparse.Namespace) -> int:
    """Print the findings; return 1 if a registration is missing."""
    if sys.stderr.isatty():
        print("importing the toolkits in fresh processes, about 20 s ...", file=sys.stderr)
    report = examine()
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        print("\n".join(as_text(report)))
    return 1 if any(toolkit["problem"] for toolkit in report["toolkits"].values()) else 0


def examine() -> dict[str, Any]:
    """Return what :func:`run` prints, as plain types."""
    hook = {
        "files": [str(path) for path in hook_files()],
        "active": active_at_startup(),
        "switched_off": not enabled(),
    }
    with ThreadPoolExecutor() as pool:  # the threads only wait for their Python processes
        waiting = {name: pool.submit(_toolkit, name, hook) for name in _PROBES}
    toolkits = {name: answer.result() for name, answer in waiting.items()}
    return {
        "nas_encoder": {"version": __version__, "location": str(PACKAGE)},
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "torch": _torch(),
        "hook": hook,
        "toolkits": toolkits,
        "extensions": _extensions(),
        "extras": _extras(),
    }


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _torch() -> dict[str, Any]:
    version = _version("torch")
    if version is None:
        return {"version": None, "cuda": None, "devices": []}
    import torch

    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"version": torch.__version__, "cuda": torch.version.cuda, "devices": devices}


def _toolkit(name: str, hook: dict[str, Any]) -> dict[str, Any]:
    """Examine one toolkit; ``problem`` and ``todo`` are None if all is well."""
    facts: dict[str, Any] = {
        "version": _version(_DISTRIBUTIONS[name]),
        "adapter": _has_adapter(name),
        "registered": {},
        "tables": {},
        "problem": None,
        "todo": None,
    }
    if facts["version"] is None and name != "hydra":  # which comes with NeMo
        facts["todo"] = f"to use it: pip install 'nas_encoder[{name}]'"
    elif facts["version"] is not None and facts["adapter"]:
        facts["registered"], facts["tables"], problem, todo = _ask(name, hook)
        facts |= {"problem": problem, "todo": todo}
    elif facts["version"] is not None and name == "hydra":
        facts["problem"] = f"Python does not find the plug-in {_ADAPTERS[name]}"
        facts["todo"] = _FIND_US
        package = find_spec("hydra_plugins")
        if package is not None and package.origin is not None:
            facts["problem"] = f"{package.origin} hides the plug-ins of all other packages"
            configs = conf_root() / "train" / "nemo"
            todo = f"delete that file (Hydra wants none there), or add --config-dir={configs}"
            facts["todo"] = todo
    return facts


def _ask(
    name: str, hook: dict[str, Any]
) -> tuple[dict[str, str], dict[str, Any], str | None, str | None]:
    """Return what a toolkit, and each of its tables, knows of ours; a problem; what to do."""
    command = [sys.executable, "-c", f"tables = {{}}{_PROBES[name]}{_REPORT}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        problem = f"its import took longer than {TIMEOUT} s"
        return {}, {}, problem, "try again when the machine is less busy"
    marked = [line for line in done.stdout.splitlines() if line.startswith(_MARK)]
    last = done.stderr.strip().rpartition("\n")[2].strip()
    if not marked:
        problem = f"its import fails: {last or f'exit status {done.returncode}'}"
        return {}, {}, problem, "repair the toolkit's installation first"
    registered, tables = json.loads(marked[-1][len(_MARK) :])
    lacking = [table for table, facts in tables.items() if facts["state"] == "missing"]
    if lacking:
        todo = "this ESPnet may be newer than this nas_encoder; report this"
        return registered, tables, f"not in {', '.join(lacking)}", todo
    if registered:
        return registered, tables, None, None
    if name == "hydra":
        return {}, {}, last or "its folder of configs is missing", "install nas_encoder again"
    return {}, {}, *_why_not(done.stderr, hook)


def _why_not(stderr: str, hook: dict[str, Any]) -> tuple[str, str]:
    """Return why nothing of ours is registered, and what to do."""
    if hook["switched_off"]:
        return f"{SWITCH} switches the registration off", f"unset {SWITCH}"
    warned = [line for line in stderr.splitlines() if "nas_encoder could not register" in line]
    if warned:
        return warned[0].partition("RuntimeWarning: ")[2], "report this with the text above"
    if not hook["files"]:
        return "no start-up file in this environment", "nas-encoder enable"
    if not hook["active"]:
        return f"{hook['files'][0]} does not find the package when Python starts", _FIND_US
    return "the hook is active, but the toolkit did not go through it", "report this"


def _has_adapter(toolkit: str) -> bool:
    try:
        spec = find_spec(_ADAPTERS[toolkit])
    except ModuleNotFoundError:  # its parent package is missing
        return False
    return spec is not None and spec.origin is not None  # a bare folder is not a package


def _extensions() -> dict[str, str | None]:
    """Return the error of each package that extends our tables, None if it has none."""
    INSTALLED.load()
    return {name: INSTALLED.failed.get(name) for name in INSTALLED.found}


def _extras() -> dict[str, dict[str, str | None]] | None:
    """Return the packages of each extra with their versions, None if not installed."""
    try:
        requirements = metadata.requires("nas_encoder") or []
    except metadata.PackageNotFoundError:
        return None
    extras: dict[str, dict[str, str | None]] = {}
    for requirement in requirements:
        extra = re.search(r"""extra\s*==\s*["']([^"']+)["']""", requirement)
        name = re.match(r"[A-Za-z0-9._-]+", requirement)
        if extra is None or name is None or extra[1] in (*_PROBES, "all", "dev"):
            continue
        extras.setdefault(extra[1], {})[name[0]] = _version(name[0])
    return extras


def as_text(report: dict[str, Any]) -> list[str]:
    """Return the report as lines of text."""
    torch, hook = report["torch"], report["hook"]
    lines = [
        _line("nas_encoder", report["nas_encoder"]["version"], report["nas_encoder"]["location"]),
        _line("Python", report["python"]["version"], report["python"]["executable"]),
    ]
    if torch["version"] is None:
        lines.append(_line("torch", "-", "not installed -> pip install torch"))
    else:
        cuda = f"CUDA {torch['cuda']}" if torch["cuda"] else "built without CUDA"
        lines.append(
            _line("torch", torch["version"], f"{cuda}; {_listed(torch['devices'], 'no GPU')}")
        )
    state = "switched off" if hook["switched_off"] else "active" if hook["active"] else "inactive"
    where = _listed(hook["files"], f"no {PTH} in this environment")
    lines.append(_line("import hook", state, where))
    for name, toolkit in report["toolkits"].items():
        lines.append(_line(_TITLES[name], toolkit["version"] or "-", _finding(toolkit, name)))
        states: dict[str, list[str]] = {}
        for table, facts in toolkit["tables"].items():
            short = table.removeprefix("espnet2.tasks.").removesuffix(".encoder_choices")
            states.setdefault(facts["state"], []).append(short)
        lines += [_line("", state, ", ".join(tables)) for state, tables in states.items()]
        if toolkit["todo"]:
            lines.append(_line("", "", f"-> {toolkit['todo']}"))
    for name, error in report["extensions"].items():
        detail = name if error is None else f"{name}: {error}"
        lines.append(_line("extension", "ok" if error is None else "FAILS", detail))
    if report["extras"] is None:
        lines.append(_line("extras", "-", "not known: the package runs from a plain folder"))
    for extra, packages in (report["extras"] or {}).items():
        missing = [name for name, version in packages.items() if version is None]
        finding = f"lacks {', '.join(missing)} -> pip install 'nas_encoder[{extra}]'"
        lines.append(_line(f"[{extra}]", "ok" if not missing else "-", finding * bool(missing)))
    return lines


def _finding(toolkit: dict[str, Any], name: str) -> str:
    good, bad = ("registered", "NOT registered")
    if name == "hydra":
        good, bad = ("finds our configs", "does NOT find our configs")
    if toolkit["version"] is None:
        return "not installed"
    if toolkit["problem"]:
        return f"{bad}: {toolkit['problem']}"
    if not toolkit["adapter"]:
        return "not registered: this version of nas_encoder has no adapter for it"
    names = sorted(toolkit["registered"])
    general = [own for own in names if name != "hydra" or own.startswith(_GENERAL)]
    rest = len(names) - len(general)
    more = f" and {rest} for corpora (nas-encoder config nemo --list)" if rest else ""
    return f"{good}: {', '.join(general)}{more}"


def _listed(items: list[str], otherwise: str) -> str:
    return ", ".join(items) or otherwise


def _line(subject: str, state: str, detail: str) -> str:
    return f"{subject:<12} {state:<14} {detail}".rstrip()
