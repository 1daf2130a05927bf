"""The report of a search: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import html
import logging
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nas_encoder.errors import CheckpointError, MissingDependencyError
from nas_encoder.genotype import Cell, CellArchitecture, Genotype
from nas_encoder.genotype.draw import architecture_lines, draw
from nas_encoder.genotype.io import read_yaml, write_atomically
from nas_encoder.search.config import dump
from nas_encoder.search.gradient.choices import KINDS
from nas_encoder.search.plots import (
    Picture,
    curves,
    edge_map,
    operation_shares,
    relative_entropy,
    require_matplotlib,
    to_png,
)
from nas_encoder.search.rederive import read_config
from nas_encoder.search.runfolder import RunFolder
from nas_encoder.spaces import get_space

logger = logging.getLogger(__name__)

NAME = "report.html"
UNIFORM = 0.97  # of the entropy of a uniform choice: as good as not moved
_HARDLY_LEARNED = 90.0  # token error rate in %
_CHEAP = ("pool", "skip_connect")

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2329; max-width: 62rem;
       margin: 2rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.7rem; margin-bottom: 0.2rem; } h2 { margin-top: 2.2rem; font-size: 1.25rem; }
p.sub { color: #55606b; margin-top: 0; } img { max-width: 100%; height: auto; }
pre { background: #f3f5f7; padding: 0.8rem 1rem; overflow-x: auto; border-radius: 4px; }
table { border-collapse: collapse; } td, th { padding: 0.2rem 0.8rem 0.2rem 0; text-align: left;
       vertical-align: top; border-bottom: 1px solid #e3e7ea; font-variant-numeric: tabular-nums; }
.warn { border-left: 4px solid #d55e00; background: #fdf1e8; padding: 0.6rem 1rem;
        margin: 0.6rem 0; } .note { color: #55606b; }
"""


def write_report(folder: RunFolder) -> Path | None:
    """Write ``report.html`` into a run folder, at the end of a search.

    A search never dies because of its report: whatever goes wrong here is logged, and
    ``nas-encoder report`` can make it later.

    Returns:
        The file, or None where it could not be made.
    """
    try:
        return build_report(folder)
    except MissingDependencyError as error:
        logger.warning("no report is written: %s", error)
    except Exception:  # logged whole; the search's result is on disk already
        logger.exception("no report is written; the search's result is not affected")
    return None


def build_report(folder: RunFolder) -> Path:
    """Write ``report.html`` into a run folder; it may be that of an unfinished run.

    Raises:
        CheckpointError: It is no run folder, a file in it is damaged, or it cannot be written.
        MissingDependencyError: matplotlib is not installed.
    """
    if not (folder.path / "run.yaml").is_file():
        raise CheckpointError(f"run folder {folder.path}", ["holds no search (no run.yaml)"])
    require_matplotlib()
    path = folder.path / NAME
    write_atomically(path, Report(folder).html().encode(), CheckpointError)
    return path


class Report:
    """What is in a run folder, and its HTML.

    Raises:
        CheckpointError: A file in the folder is damaged.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.run = folder.run()
        self.config = read_config(folder)
        self.rows = folder.epochs()
        self.operations = list(get_space(self.config.space).operations)
        result = folder.path / "genotype.yaml"
        self.finished = result.is_file()
        self.genotype = self._read(result) if self.finished else self._latest()

    def _read(self, path: Path) -> Genotype:
        return Genotype.from_dict(read_yaml(path), str(path))

    def _latest(self) -> Genotype | None:
        return self._of_row(self.rows[-1]) if self.rows else None

    def _of_row(self, row: Mapping[str, Any]) -> Genotype | None:
        path = self.folder.genotype_path(row["stage"] - 1, row["epoch"] - 1)
        return self._read(path) if path.is_file() else None

    # -- the document -------------------------------------------------------------------------

    def html(self) -> str:
        """Return the whole document."""
        title = f"Search of {self.config.name}"
        body = [
            f"<h1>{_escape(title)}</h1>",
            f'<p class="sub">{_escape(self._state())}</p>',
            *(f'<p class="warn">{_escape(text)}</p>' for text in self.warnings()),
            *self._result(),
            *(_section(picture) for picture in self._pictures()),
            *self._epochs(),
            *self._next(),
            *self._provenance(),
        ]
        return (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{_escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n"
            + "\n".join(body)
            + "\n</body></html>\n"
        )

    def _state(self) -> str:
        total = sum(stage.epochs for stage in self.config.stages)
        seconds = sum(row.get("seconds") or 0.0 for row in self.rows)
        state = "finished" if self.finished else "not finished"
        return (
            f"{self.config.strategy} in the space {self.config.space}, seed "
            f"{self.run.get('seed')}: {state}, {len(self.rows)} of {total} epochs in "
            f"{_duration(seconds)}"
        )

    def warnings(self) -> list[str]:
        """Return what a reader should know before trusting the genotype."""
        found = []
        if not self.finished:
            found.append("The search is not finished; what follows is the state so far.")
        if not self.rows:
            return [*found, "No epoch is done yet."]
        last = self.rows[-1]
        for kind in KINDS:
            share = relative_entropy(last, kind)
            if share is not None and share > UNIFORM:
                found.append(
                    f"The parameters of the {kind} cell have hardly left the uniform choice "
                    f"(entropy {100 * share:.1f} % of uniform): its operations are little better "
                    "than chance. More epochs, more data or a larger architecture.lr may help."
                )
        error_rate = last.get("valid_ter")
        if error_rate is not None and error_rate > _HARDLY_LEARNED:
            found.append(
                f"The supernet's token error rate on the validation data is {error_rate:.1f} %: "
                "it has hardly learned the task, so its preferences mean little."
            )
        if self.genotype is not None:
            found += [
                text for kind, cell in _cells(self.genotype) for text in _dominance(kind, cell)
            ]
        return found

    def _result(self) -> list[str]:
        if self.genotype is None:
            return []
        lines = "\n".join(architecture_lines(self.genotype))
        counts = [
            (kind, ", ".join(f"{count} {op}" for op, count in _count(cell).most_common()))
            for kind, cell in _cells(self.genotype)
        ]
        name = "Genotype" if self.finished else "Genotype so far"
        return [
            f"<h2>{name} {_escape(self.genotype.name)}</h2>",
            f'<p class="note">Hash {_escape(self.genotype.hash)}.</p>',
            _image(to_png(draw(self.genotype)), "the cells"),
            f"<pre>{_escape(lines)}</pre>",
            _table(("cell", "operations"), counts),
        ]

    def _pictures(self) -> Iterable[Picture]:
        if not self.rows:
            return
        yield curves(self.rows)
        rows = [row for row in self.rows if row.get("probabilities")]
        if not rows:
            return
        yield operation_shares(rows, self.operations)
        for index, row in enumerate(rows):
            if index + 1 == len(rows) or rows[index + 1]["stage"] != row["stage"]:
                genotype = self._of_row(row)
                cells = dict(_cells(genotype)) if genotype is not None else None
                title = f"Edges after epoch {row['epoch']} of stage {row['stage']}"
                yield edge_map(row, self.operations, cells, title)

    def _epochs(self) -> list[str]:
        if not self.rows:
            return []
        head = (
            "stage",
            "epoch",
            "training loss",
            "validation loss",
            "token error rate, %",
            "entropy, % of uniform (normal, reduction)",
            "genotype",
            "changed edges",
            "time",
        )
        lines, before = [], None
        for row in self.rows:
            genotype = self._of_row(row)
            entropy = [relative_entropy(row, kind) for kind in KINDS]
            lines.append(
                (
                    row["stage"],
                    row["epoch"],
                    _number(row.get("train_loss"), 3),
                    _number(row.get("valid_loss"), 3),
                    _number(row.get("valid_ter"), 1),
                    ", ".join(_number(None if e is None else 100 * e, 1) for e in entropy),
                    row.get("genotype") or "",
                    _changed(before, genotype),
                    _duration(row.get("seconds") or 0.0),
                )
            )
            before = genotype
        text = "Changed edges: of both cells, against the genotype of the epoch before."
        return ["<h2>Epochs</h2>", f'<p class="note">{text}</p>', _table(head, lines)]

    def _next(self) -> list[str]:
        folder = shlex.quote(str(self.folder.path))
        config = shlex.quote(f"{self.folder.path}/config.yaml")
        data = f"--train {shlex.quote(str(self.run.get('train')))}"
        if self.run.get("valid") is not None:
            data += f" --valid {shlex.quote(str(self.run['valid']))}"
        seed = int(self.run.get("seed") or 0)
        steps: list[tuple[str, str]] = []
        if not self.finished:
            steps.append(
                (
                    "Go on with the search:",
                    f"nas-encoder search --config {config} {data} --output {folder} --seed {seed} "
                    "--resume",
                )
            )
        else:
            steps += [
                (
                    "Look at the cells and at what the network costs:",
                    f"nas-encoder show {folder}/genotype.yaml --plot cells.svg",
                ),
                (
                    "Train it: in the training config of an ESPnet2 recipe,",
                    f"encoder: nas\nencoder_conf:\n    genotype: {self.folder.path}/genotype.yaml\n"
                    "    channels: 24\n    layers: 17",
                ),
                (
                    "See how much of the result is chance: search with other seeds and compare, "
                    "and train a random genotype of the same space beside the one found:",
                    f"nas-encoder search --config {config} {data} --output "
                    f"{shlex.quote(f'{self.folder.path}_seed{seed + 1}')} --seed {seed + 1}",
                ),
            ]
        parts = ["<h2>What to run next</h2>"]
        for text, command in steps:
            parts += [f"<p>{_escape(text)}</p>", f"<pre>{_escape(command)}</pre>"]
        return parts

    def _provenance(self) -> list[str]:
        return [
            "<h2>Provenance</h2>",
            _table(("", ""), [(key, "" if v is None else v) for key, v in self.run.items()]),
            "<h2>Configuration</h2>",
            f"<pre>{_escape(dump(self.config))}</pre>",
        ]


def _cells(genotype: Genotype) -> list[tuple[str, Cell]]:
    architecture = genotype.architecture
    if not isinstance(architecture, CellArchitecture):
        return []
    return [(kind, getattr(architecture, kind)) for kind in KINDS]


def _count(cell: Cell) -> Counter[str]:
    return Counter(edge.op for edge in cell.edges)


def _dominance(kind: str, cell: Cell) -> list[str]:
    cheap = sum(any(part in edge.op for part in _CHEAP) for edge in cell.edges)
    if 2 * cheap < len(cell.edges):
        return []
    return [
        f"{cheap} of {len(cell.edges)} edges of the {kind} cell are pooling or skip connections. "
        "They have no weights and so look good early in a search, a known failure of DARTS; "
        "regularization.at_most limits them in the normal cell."
    ]


def _changed(before: Genotype | None, after: Genotype | None) -> str:
    if before is None or after is None:
        return ""
    edges = [
        {
            (kind, node, edge)
            for kind, cell in _cells(genotype)
            for node, edges in enumerate(cell.nodes)
            for edge in edges
        }
        for genotype in (before, after)
    ]
    return f"{len(edges[1] - edges[0])} of {len(edges[1])}"


def _section(picture: Picture) -> str:
    return (
        f'<h2>{_escape(picture.title)}</h2>\n<p class="note">{_escape(picture.text)}</p>\n'
        + _image(picture.png, picture.title)
    )


def _image(png: bytes, what: str) -> str:
    data = base64.b64encode(png).decode()
    return f'<img alt="{_escape(what)}" src="data:image/png;base64,{data}">'


def _table(head: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    top = "".join(f"<th>{_escape(cell)}</th>" for cell in head) if any(head) else ""
    rows = "".join(
        "<tr>" + "".join(f"<td>{_escape(cell)}</td>" for cell in line) + "</tr>\n" for line in lines
    )
    return f"<table>\n{f'<tr>{top}</tr>' if top else ''}\n{rows}</table>"


def _escape(value: object) -> str:
    return html.escape(str(value), quote=True)


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
