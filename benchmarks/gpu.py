"""What a GPU has to show, in at most --minutes: one command, one JSON file.

- ``supernet``: benchmarks/supernet.py, steps of the cells' supernet and the paper's search in
  hours; benchmarks/SUPERNET.md says what to look at.
- ``oneshot_*``: benchmarks/oneshot.py, a step of the blocks' shared weights in float32 and bf16,
  with and without torch.compile.
- ``latency``: the zoo, block encoders of 13 and 30 M and the toolkits' encoders, 10 s of features,
  batches of 1 and 32, in float32 and bf16.
- ``espnet``, ``nemo``: benchmarks/gpu_training.py, ten training steps with mixed precision.

Each part is a process of its own with a time limit. One that fails, takes too long or lacks its
toolkit is recorded with the reason, and the next one begins. The file is written after each part;
what a file given again has done already is not repeated.

    python benchmarks/gpu.py --device cuda --json gpu.json
    python benchmarks/gpu.py --device cpu --tiny --slow 5 --json tiny.json   # does everything run?
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch

from nas_encoder import build_encoder, list_genotypes, load_genotype
from nas_encoder.common.documents import write_atomically
from nas_encoder.common.provenance import environment
from nas_encoder.deploy.timing import measure
from nas_encoder.network.complexity import count_parameters
from nas_encoder.spaces import get_space

FOLDER = Path(__file__).parent
DONE, SKIPPED, FAILED, LATE = "done", "skipped", "failed", "took too long"
MISSING = 3  # exit status of a part whose toolkit is not installed
SHOWN = 2000  # characters of a failed part's last words
_CELLS = "--quick --frames 32 --batch 2 --bins 8 --channels 2 --stages 3 --no-st-nas --repeats 1"
_STEP = "--batch 2 --frames 64 --draws 1 --repeats 1"
# Part -> (seconds it may take, script and options, those of --tiny).
PARTS: dict[str, tuple[int, str, str]] = {
    "supernet": (240, "supernet.py --paper --json", f"supernet.py --json {_CELLS}"),
    "oneshot_float32": (40, "oneshot.py step --draws 2", f"oneshot.py step {_STEP}"),
    "oneshot_bf16": (40, "oneshot.py step --draws 2 --bf16", f"oneshot.py step {_STEP} --bf16"),
    "oneshot_bf16_compile": (
        120,
        "oneshot.py step --draws 1 --bf16 --compile",
        f"oneshot.py step {_STEP} --bf16 --compile",
    ),
    "latency": (100, "gpu.py --part latency", "gpu.py --part latency --tiny"),
    "espnet": (80, "gpu_training.py espnet", "gpu_training.py espnet --tiny"),
    "nemo": (80, "gpu_training.py nemo", "gpu_training.py nemo --tiny"),
}


def run_part(name: str, device: str, tiny: bool, limit: float) -> dict[str, Any]:
    """Run a part; return its state and what it printed."""
    _, full, small = PARTS[name]
    script, *options = (small if tiny else full).split()
    command = [sys.executable, str(FOLDER / script), *options, "--device", device]
    began = time.monotonic()
    entry: dict[str, Any] = {"command": " ".join(["python", f"benchmarks/{script}", *command[2:]])}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return entry | {"state": LATE, "why": f"stopped after {limit:.0f} s", "seconds": limit}
    entry["seconds"] = round(time.monotonic() - began, 1)
    last = done.stderr.strip()[-SHOWN:]
    if done.returncode:
        state = SKIPPED if done.returncode == MISSING else FAILED
        return entry | {"state": state, "why": last or f"status {done.returncode}"}
    # The object is the last thing printed: on a line of its own, or on several from a brace on.
    lines = done.stdout.splitlines()
    first = max(place for place, line in enumerate(lines) if line.startswith("{"))
    return entry | {"state": DONE, "result": json.loads("\n".join(lines[first:]))}


def latency(device: str, tiny: bool) -> dict[str, Any]:
    """Measure encoders at batches of 1 and 32, each batch and precision in turns."""
    from blocks import BINS, PEERS, scaled_encoders

    frames, batches, repeats = (64, (1, 2), 2) if tiny else (1000, (1, 32), 10)
    torch.manual_seed(0)
    encoders: dict[str, tuple[Any, int]] = {}
    for name in list_genotypes()[: 1 if tiny else None]:
        sizes = dict(get_space(load_genotype(name).space).sizes)
        sizes |= {"channels": 4, "layers": 3} if tiny and sizes else {}
        encoders[name] = (build_encoder(name, input_size=40, **sizes), 40)
    scaled = scaled_encoders(
        ["hourglass"], ["1M"] if tiny else ["13M", "30M"], {} if tiny else PEERS
    )
    encoders |= {name: (module, BINS) for name, module in scaled.items()}
    rows: list[dict[str, Any]] = []
    for precision in ("float32", "bf16"):
        for batch in batches:
            calls, about = {}, {"batch": batch, "precision": precision}
            for name, (module, bins) in encoders.items():
                module.to(device).eval()
                x = torch.randn(batch, frames, bins, device=device)
                lengths = torch.full((batch,), frames, device=device)
                call = partial(_encode, module, x, lengths, precision == "bf16")
                try:
                    call()
                except torch.OutOfMemoryError as error:  # the others have their numbers
                    rows.append({"encoder": name, **about, "why": str(error)})
                    continue
                calls[name] = call
            taken = measure(calls, repeats, warm_up=1)
            for name, found in taken.items():
                row = {"encoder": name, **about, "parameters": count_parameters(encoders[name][0])}
                rows.append(row | {"ms": 1e3 * found.median, "iqr_ms": 1e3 * found.iqr})
    return {**environment(), "frames": frames, "rows": rows}


@torch.inference_mode()
def _encode(module: Any, x: torch.Tensor, lengths: torch.Tensor, bf16: bool) -> None:
    with torch.autocast(x.device.type, torch.bfloat16) if bf16 else nullcontext():
        module(x, lengths)


def summary(name: str, entry: Mapping[str, Any]) -> str:
    """Return a line on a part."""
    why = str(entry.get("why", "")).splitlines()
    return f"{name:<22}{entry['state']:<15}{entry['seconds']:>7.1f} s  {why[-1] if why else ''}"


def main() -> int:
    """Run the parts; 1 if one failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="smallest sizes")
    parser.add_argument("--minutes", type=float, default=12.0, help="of all parts (default 12)")
    parser.add_argument(
        "--slow", type=float, default=1.0, metavar="N", help="each part may take N times as long"
    )
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--part", choices=["latency"], help=argparse.SUPPRESS)
    parser.add_argument("--json", metavar="FILE", help="where the results go")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device here; --device cpu --tiny tries the script", file=sys.stderr)
        return 2
    if args.part:
        print(json.dumps(latency(args.device, args.tiny)))
        return 0
    path = Path(args.json) if args.json else None
    arguments = {"device": args.device, "tiny": args.tiny}
    document: dict[str, Any] = {**environment(), "arguments": arguments, "parts": {}}
    if path is not None and path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        if before.get("arguments") == arguments and before.get("commit") == document["commit"]:
            kept = {n: own for n, own in before["parts"].items() if own["state"] == DONE}
            document["parts"] = kept
    end = time.monotonic() + 60 * args.minutes
    for name in args.parts:
        if name in document["parts"]:
            print(f"{name:<22}done before", flush=True)
            continue
        left = end - time.monotonic()
        limit = min(args.slow * PARTS[name][0], left)
        if left < 5:
            entry = {
                "state": SKIPPED,
                "why": f"the {args.minutes:g} minutes are over",
                "seconds": 0,
            }
        else:
            entry = run_part(name, args.device, args.tiny, limit)
        document["parts"][name] = entry
        print(summary(name, entry), flush=True)
        if path is not None:
            write_atomically(path, (json.dumps(document, indent=1) + "\n").encode())
    states = [entry["state"] for entry in document["parts"].values()]
    return int(FAILED in states or LATE in states)


if __name__ == "__main__":
    sys.exit(main())
