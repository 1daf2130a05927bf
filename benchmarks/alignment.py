"""Boundary errors and memory of ``nas-encoder align`` on synthetic speech whose times are known.

    python -m benchmarks.alignment FOLDER

makes a corpus in TIMIT's layout, checks its boundaries against the signal, trains two encoders with
ESPnet (39 phones, CTC, nine epochs, about ten CPU minutes), and prints, as JSON lines, the boundary
errors of both, of the model that ships (words), and of an hour of concatenated utterances by both
methods, with peak memory and CPU seconds. What is in the folder already is not made again.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
import yaml
from lhotse import CutSet

from nas_encoder.alignment.boundaries import Interval, boundary_differences, summarize
from nas_encoder.common.provenance import machine
from nas_encoder.data import open_cuts

ROOT = Path(__file__).resolve().parents[1]
RATE, SEED, EPOCHS, HOURS = 16000, 1, 9, 1.0
ENCODERS: dict[str, dict[str, Any]] = {
    "hourglass": {
        "encoder": "nas",
        "encoder_conf": {"genotype": {"known": "hourglass", "width": 64, "blocks": [2, 5, 2]}},
    },
    "conformer": {
        "encoder": "conformer",
        "encoder_conf": {
            "output_size": 56, "attention_heads": 4, "num_blocks": 3, "linear_units": 224,
            "input_layer": "conv2d", "macaron_style": True, "rel_pos_type": "latest",
            "pos_enc_layer_type": "rel_pos", "selfattention_layer_type": "rel_selfattn",
            "activation_type": "swish", "use_cnn_module": True, "cnn_module_kernel": 31,
        },
    },
}  # fmt: skip
COMMON: dict[str, Any] = {
    "frontend": "default",
    "frontend_conf": {"n_fft": 512, "win_length": 400, "hop_length": 160, "n_mels": 40},
    "specaug": "specaug",
    "specaug_conf": {
        "apply_time_warp": False, "apply_freq_mask": True, "freq_mask_width_range": [0, 6],
        "num_freq_mask": 1, "apply_time_mask": True, "num_time_mask": 1,
        "time_mask_width_ratio_range": [0.0, 0.05],
    },
    "model_conf": {"ctc_weight": 1.0},
    "optim": "adam", "optim_conf": {"lr": 0.002}, "scheduler": "onecyclelr",
    "scheduler_conf": {"max_lr": 0.003, "total_steps": 1125, "pct_start": 0.2},
    "grad_clip": 5.0, "batch_type": "sorted", "batch_size": 8, "num_workers": 0,
    "max_epoch": EPOCHS, "best_model_criterion": [["valid", "cer_ctc", "min"]],
    "keep_nbest_models": 1, "num_att_plot": 0, "use_matplotlib": False,
    "use_tensorboard": False, "seed": SEED, "normalize": "global_mvn",
    "token_type": "word", "token_list": "tokens.txt",
}  # fmt: skip


def call(folder: Path, *words: object) -> None:
    """Run ``python -m`` in a folder."""
    subprocess.run([sys.executable, "-m", *map(str, words)], cwd=folder, check=True)


def prepare(folder: Path) -> None:
    """Make the corpus, its data, its tokens and ESPnet's statistics."""
    if not (folder / "timit" / "corpus.json").exists():
        sizes = "--train 1000 --dev 60 --test 80 --speakers 40 4 8".split()
        corpus = [sys.executable, ROOT / "tools" / "synth_corpus.py", "--layout", "timit"]
        place = ["--output", folder / "timit", "--seed", str(SEED)]
        subprocess.run([*corpus, *place, *sizes], check=True)
    if not (folder / "data" / "prepared.json").exists():
        words = "nas_encoder data prepare timit timit data --phones 39 --partial".split()
        call(folder, *words)
    if not (folder / "tokens.txt").exists():
        options = ["--input", "data/espnet/train/text", "--output", "tokens.txt"]
        symbols = ["<blank>:0", "<unk>:1", "<sos/eos>:-1"]
        added = [word for symbol in symbols for word in ("--add_symbol", symbol)]
        kind = ["--token_type", "word", "--field", "2-", "--write_vocabulary", "true"]
        call(folder, "espnet2.bin.tokenize_text", *kind, *options, *added)
    if not (folder / "stats" / "train" / "feats_stats.npz").exists():
        shapes = [f"data/espnet/{part}/wav.scp" for part in ("train", "dev")]
        _train(folder, "hourglass", "stats/1", shapes, "--collect_stats", "true")
        call(
            folder,
            "espnet2.bin.aggregate_stats_dirs",
            "--input_dir",
            "stats/1",
            "--output_dir",
            "stats",
        )


def train(folder: Path, name: str) -> Path:
    """Train an encoder; return the folder of the model."""
    if not (folder / name / "valid.cer_ctc.ave.pth").exists():
        shapes = [f"stats/{part}/speech_shape" for part in ("train", "valid")]
        _train(folder, name, name, shapes)
    return folder / name


def _train(folder: Path, name: str, output: str, shapes: Sequence[str], *more: str) -> None:
    config = {**COMMON, **ENCODERS[name]}
    config["normalize_conf"] = {"stats_file": "stats/train/feats_stats.npz"}
    if more:
        config |= {"normalize": None, "normalize_conf": {}}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
    words: list[str] = ["--config", f"{name}.yaml", "--output_dir", output, *more]
    for kind, split, shape in zip(("train", "valid"), ("train", "dev"), shapes, strict=True):
        for file, item in (("wav.scp", "speech,sound"), ("text", "text,text")):
            place = f"data/espnet/{split}/{file},{item}"
            words += [f"--{kind}_data_path_and_name_and_type", place]
        words += [f"--{kind}_shape_file", shape]
        if not more:
            words += [f"--{kind}_shape_file", f"stats/{kind}/text_shape"]
    call(folder, "espnet2.bin.asr_train", *words)


def truth_of_labels(folder: Path) -> dict[str, Any]:
    """Compare labels with the signal: first sounds, and closures and releases of stops.

    Energy (of the second difference, at releases) crosses the middle, in logarithms, of its levels
    25 ms before and after.
    """
    late = []
    for path in sorted((folder / "timit").glob("data/TEST/*/*/*.PHN")):
        rows = [line.split() for line in path.read_text().splitlines()]
        samples = soundfile.read(path.with_suffix(".WAV"))[0]
        edges = np.convolve(samples, [1, -2, 1], "same")
        for before, after in zip(rows[:-1], rows[1:], strict=True):
            closures = ("pcl", "tcl", "kcl")
            if before[2] == "h#" or before[2] in closures or after[2] in closures:
                signal = edges if before[2] in closures else samples
                late += list(_crossing(signal, int(after[0])))
    errors = np.abs(late)
    return {
        "places": len(errors),
        "median_ms": float(np.median(errors)),
        "within_2_ms": float(np.mean(errors <= 2)),
    }


def _crossing(signal: npt.NDArray[np.float64], at: int, reach: int = 400) -> Iterator[float]:
    if not reach <= at <= len(signal) - reach:
        return
    power = np.convolve(signal[at - reach : at + reach] ** 2, np.ones(32) / 32, "same")
    level = np.log(np.sqrt(power) + 1e-5)
    low, high = np.median(level[:150]), np.median(level[-150:])
    above = level >= (low + high) / 2
    places = np.flatnonzero(above[1:] != above[:-1])
    if abs(high - low) >= 1.5 and len(places):
        yield float((places - reach)[np.abs(places - reach).argmin()] / RATE * 1000)


def write_hour(folder: Path) -> None:
    """Concatenate utterances with pauses of 0.3 to 3 s; keep the true times."""
    rng = np.random.default_rng(0)
    cuts = [
        cut for part in ("train", "test", "dev") for cut in open_cuts(folder / "data", split=part)
    ]
    pieces, lines, truth, at = [np.zeros(RATE)], [], [], RATE
    for cut in cuts:
        if at >= HOURS * 3600 * RATE:
            break
        (segment,) = cut.supervisions
        phones = [one for one in segment.alignment["phone"] if one.symbol]
        begin = [at / RATE + one.start for one in phones]
        truth.append(
            [[s, s + one.duration, one.symbol] for s, one in zip(begin, phones, strict=True)]
        )
        lines.append(segment.text)
        pieces += [cut.load_audio()[0], np.zeros(int(RATE * rng.uniform(0.3, 3)))]
        at += sum(map(len, pieces[-2:]))
    samples = np.concatenate(pieces) + 1e-4 * rng.standard_normal(at)
    soundfile.write(folder / "hour.wav", np.clip(samples, -1, 1), RATE, subtype="PCM_16")
    (folder / "hour.txt").write_text("\n".join(lines) + "\n")
    (folder / "hour.json").write_text(json.dumps(truth))


def align_hour(folder: Path, model: Path, method: str) -> dict[str, Any]:
    """Align the hour in a process of its own; return errors, memory and time."""
    output = folder / f"hour_{method}"
    if not (output / "alignment.json").exists():
        files = ["--audio", "hour.wav", "--text", "hour.txt", "--output", output]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        memory = ["--memory", 4000] if method == "ctc-segmentation" else []
        call(folder, "nas_encoder", "align", model, *files, "--method", method, *memory)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        # The largest of all children: exact is measured first, as it needs less.
        used = {"peak_mb": round(after.ru_maxrss / 1024), "cpu_seconds": round(seconds)}
        (output / "used.json").write_text(json.dumps(used))
    cuts = sorted(CutSet.from_file(output / "cuts.jsonl.gz"), key=lambda cut: float(cut.start))
    signed = {}
    for cut, rows in zip(cuts, json.loads((folder / "hour.json").read_text()), strict=True):
        found = [
            Interval(cut.start + one.start, cut.start + one.start + one.duration, one.symbol)
            for one in cut.supervisions[0].alignment["token"]
        ]
        true = [Interval(*row) for row in rows]
        signed[cut.id] = boundary_differences(true, found, cut.id)[1:-1]  # speech, not pauses
    return {**summarize(signed).figures(), **json.loads((output / "used.json").read_text())}


def main() -> None:
    """Measure."""
    folder = Path(sys.argv[1]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if sys.argv[2:] == ["--hour"]:
        write_hour(folder)
        return

    def show(what: str, row: dict[str, Any]) -> None:
        print(json.dumps({"what": what, **row}), flush=True)

    from nas_encoder.alignment.evaluation import evaluate

    prepare(folder)
    show("machine", {"machine": machine(), "seed": SEED})
    show("labels against the signal", truth_of_labels(folder))
    if not (folder / "hour.json").exists():
        # In another process: a child's peak counts that of its parent up to the fork.
        call(ROOT, "benchmarks.alignment", folder, "--hour")
    for method in ("exact", "ctc-segmentation"):  # in this order: see above
        show(f"hour, {method}", align_hour(folder, train(folder, "hourglass"), method))
    for name in ENCODERS:
        report = evaluate(train(folder, name), folder / "data", "phone", split="test")
        show(name, report.to_dict())
    shipped = ROOT / "nas_encoder" / "nemo" / "pretrained" / "synth_ctc_char.nemo"
    report = evaluate(shipped, folder / "data", "word", split="test", case="upper")
    show("synth_ctc_char (words)", report.to_dict())


if __name__ == "__main__":
    main()
