"""The report of a search: one HTML file that needs nothing else."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nas_encoder.common.documents import read_yaml, write_atomically
from nas_encoder.errors import CheckpointError, MissingDependencyError
from nas_encoder.genotype import Genotype
from nas_encoder.network.budgets import TITLES, readable
from nas_encoder.network.choices.parameters import skip_list
from nas_encoder.search.config.gradient import dump
from nas_encoder.search.folder import RunFolder
from nas_encoder.search.gradient.findings import Finding, findings
from nas_encoder.search.gradient.rederive import read_config
from nas_encoder.search.records import Cost, EpochRecord
from nas_encoder.search.report.edges import edge_courses, edge_map
from nas_encoder.search.report.next_steps import next_steps
from nas_encoder.search.report.page import (
    commands,
    document,
    duration,
    escape,
    image,
    number,
    section,
    table,
)
from nas_encoder.search.report.pictures import (
    Picture,
    costs,
    curves,
    kinds_of,
    operation_shares,
    require_matplotlib,
    to_png,
)
from nas_encoder.spaces import get_space
from nas_encoder.spaces.cells.architecture import CellArchitecture
from nas_encoder.spaces.cells.space import CellSpace
from nas_encoder.spaces.nasbench_asr.architecture import SkipArchitecture
from nas_encoder.spaces.picture import architecture_lines, draw

logger = logging.getLogger(__name__)

NAME = "report.html"


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
    from nas_encoder.search.report.seeds import SeedsReport
    from nas_encoder.search.report.trials import TrialsReport, is_of_trials

    require_matplotlib()
    path = folder.path / NAME
    report: Report | SeedsReport | TrialsReport
    if is_of_trials(folder):
        report = TrialsReport(folder)
    elif "seeds" in folder.run():
        report = SeedsReport(folder)
    else:
        report = Report(folder)
    write_atomically(path, report.html().encode(), CheckpointError)
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
        return self._of(self.rows[-1]) if self.rows else None

    def _of(self, row: EpochRecord) -> Genotype | None:
        path = self.folder.genotype_path(*row.place)
        return self._read(path) if path.is_file() else None

    # -- the document -------------------------------------------------------------------------

    def html(self) -> str:
        """Return the whole document."""
        title = f"Search of {self.config.name}"
        return document(
            title,
            [
                f"<h1>{escape(title)}</h1>",
                f'<p class="sub">{escape(self._state())}</p>',
                *(f'<p class="warn">{escape(text)}</p>' for text in self.warnings()),
                *self._result(),
                *self._costs(),
                *(section(p.title, p.text, p.png) for p in self._courses()),
                *self._stages(),
                *self._epochs(),
                *commands("What to run next", next_steps(self)),
                *self._provenance(),
            ],
        )

    def _state(self) -> str:
        total = sum(stage.epochs for stage in self.config.stages)
        seconds = sum(row.seconds for row in self.rows)
        state = "finished" if self.finished else "not finished"
        # A stage may end before its last epoch, so a finished search needs not have them all.
        return (
            f"{self.config.strategy} in the space {self.config.space}, seed "
            f"{self.run.get('seed')}: {state}, {len(self.rows)} of {total} epochs in "
            f"{duration(seconds)}"
        )

    def findings(self) -> list[Finding]:
        """Return what the last epoch that chose operations says about the search's health."""
        chosen = self.choosing()
        last = chosen[-1] if chosen else (self.rows[-1] if self.rows else None)
        found = [] if last is None else findings(last, self.genotype)
        if last is not None and self.rows[-1] is not last:
            # The network that is trained last says whether anything was learned.
            found = [finding for finding in found if finding.kind != "unlearned"]
            found += [f for f in findings(self.rows[-1], None) if f.kind == "unlearned"]
        return found

    def warnings(self) -> list[str]:
        """Return what a reader should know before trusting the genotype."""
        found = []
        if not self.finished:
            found.append("The search is not finished; what follows is the state so far.")
        if not self.rows:
            return [*found, "No epoch is done yet."]
        return [*found, *(finding.text for finding in self.findings()), *self.exceeded()]

    def exceeded(self) -> list[str]:
        """Return a sentence for each budget that the genotype does not keep."""
        return [
            f"The genotype costs {readable(name, cost.derived)} of {TITLES[name]}, more than the "
            f"budget of {readable(name, cost.budget)}. A larger objective.weight or more epochs "
            "would pull it below."
            for name, cost in self.last_costs().items()
            if cost.budget is not None and cost.exceeded
        ]

    def last_costs(self) -> Mapping[str, Cost]:
        """Return what the last genotype costs, by quantity; nothing where that is not known."""
        return (self.rows[-1].costs or {}) if self.rows else {}

    def choosing(self) -> list[EpochRecord]:
        """Return the epochs in which operations are chosen: no warm-up or retraining stage."""
        return [row for row in self.rows if row.searching]

    def _result(self) -> list[str]:
        if self.genotype is None:
            return []
        lines = "\n".join(architecture_lines(self.genotype))
        counts = [
            (kind, ", ".join(f"{count} {op}" for op, count in used.most_common()))
            for kind, used in _used(self.genotype).items()
        ]
        name = "Genotype" if self.finished else "Genotype so far"
        return [
            f"<h2>{name} {escape(self.genotype.name)}</h2>",
            f'<p class="note">Hash {escape(self.genotype.hash)}.</p>',
            image(to_png(draw(self.genotype)), "the genotype"),
            f"<pre>{escape(lines)}</pre>",
            table(("", "operations"), counts),
        ]

    def _costs(self) -> list[str]:
        found = self.last_costs()
        if not found:
            return []
        lines = []
        for name, cost in found.items():
            budget = cost.budget
            share = "" if budget is None else f"{100 * cost.derived / budget:.1f} %"
            lines.append(
                (
                    TITLES[name],
                    readable(name, cost.derived),
                    "" if budget is None else readable(name, budget),
                    share,
                )
            )
        objective = self.config.objective
        picture = costs(self.rows)
        assert picture is not None
        size = f"{objective.seconds:g} s of speech"
        if isinstance(get_space(self.config.space), CellSpace):
            layers, channels = objective.cell_size
            size = f"{layers} cells, {channels} channels, {size}"
        text = f"{picture.text} {size}."
        return [
            section(picture.title, text, picture.png),
            table(("", "genotype", "budget", "share of the budget"), lines),
        ]

    def _courses(self) -> Iterable[Picture]:
        if not self.rows:
            return
        yield curves(self.rows)
        rows = self.choosing()
        if not rows:
            return
        yield operation_shares(rows, self.operations)
        for kind in kinds_of(rows):
            yield edge_courses(rows, kind, self.operations, self.genotype)

    def _stages(self) -> Iterable[str]:
        """Yield what each stage ended with: its cells and the probabilities behind them."""
        rows = self.choosing()
        for index, row in enumerate(rows):
            if index + 1 < len(rows) and rows[index + 1].stage == row.stage:
                continue
            genotype = self._of(row)
            after = f"after epoch {row.epoch} of stage {row.stage}"
            if genotype is not None and genotype != self.genotype:
                yield f"<h2>Derived {after}</h2>"
                yield image(to_png(draw(genotype)), f"what is derived {after}")
            picture = edge_map(row, self.operations, genotype, f"Edges {after}")
            yield section(picture.title, picture.text, picture.png)

    def _epochs(self) -> list[str]:
        if not self.rows:
            return []
        kinds = kinds_of(self.rows)
        head = (
            "stage",
            "epoch",
            "training loss",
            "validation loss",
            "token error rate, %",
            f"entropy, % of uniform ({', '.join(kinds)})" if kinds else "entropy",
            "genotype",
            "changed choices",
            "time",
        )
        lines, before = [], None
        for row in self.rows:
            genotype = self._of(row)
            entropy = map(row.relative_entropy, kinds)
            lines.append(
                (
                    f"{row.stage} {row.phase}",
                    row.epoch,
                    number(row.train_loss, 3),
                    number(row.valid_loss, 3),
                    number(row.valid_ter, 1),
                    ", ".join(number(100 * e, 1) for e in entropy if e is not None),
                    row.genotype,
                    _changed(before, genotype),
                    duration(row.seconds),
                )
            )
            before = genotype
        text = (
            "Changed choices: edges, blocks, nodes or skips, against the genotype of the epoch "
            "before."
        )
        return ["<h2>Epochs</h2>", f'<p class="note">{text}</p>', table(head, lines)]

    def _provenance(self) -> list[str]:
        return [
            "<h2>Provenance</h2>",
            table(("", ""), [(key, "" if v is None else v) for key, v in self.run.items()]),
            "<h2>Configuration</h2>",
            f"<pre>{escape(dump(self.config))}</pre>",
        ]


def choices_of(genotype: Genotype) -> set[tuple[Any, ...]]:
    """Return what a genotype chose: its edges, its blocks, or its operations and skips."""
    architecture = genotype.architecture
    if isinstance(architecture, CellArchitecture):
        cells = (("normal", architecture.normal), ("reduction", architecture.reduction))
        return {
            (kind, node, edge)
            for kind, cell in cells
            for node, edges in enumerate(cell.nodes)
            for edge in edges
        }
    if isinstance(architecture, SkipArchitecture):
        operations = {(number, node.op) for number, node in enumerate(architecture.nodes)}
        return operations | {
            (number, source, source in architecture.nodes[number].skips)
            for number, source in skip_list(len(architecture.nodes))
        }
    return set(enumerate(getattr(architecture, "blocks", ())))


def _used(genotype: Genotype) -> dict[str, Counter[str]]:
    """Return how often a genotype holds each operation, by kind."""
    architecture = genotype.architecture
    if isinstance(architecture, CellArchitecture):
        return {
            "normal cell": Counter(edge.op for edge in architecture.normal.edges),
            "reduction cell": Counter(edge.op for edge in architecture.reduction.edges),
        }
    if isinstance(architecture, SkipArchitecture):
        return {"nodes": Counter(node.op for node in architecture.nodes)}
    return {"blocks": Counter(getattr(architecture, "blocks", ()))}


def _changed(before: Genotype | None, after: Genotype | None) -> str:
    if before is None or after is None:
        return ""
    return f"{len(choices_of(after) - choices_of(before))} of {len(choices_of(after))}"
