"""The report of a search with several seeds: what they agree on, and which one is best."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations

from nas_encoder.errors import CheckpointError
from nas_encoder.genotype import Genotype
from nas_encoder.network.budgets import TITLES, readable
from nas_encoder.search.folder import RunFolder
from nas_encoder.search.report.build import Report, choices_of
from nas_encoder.search.report.next_steps import resume_seeds, train_steps
from nas_encoder.search.report.page import (
    commands,
    document,
    duration,
    escape,
    image,
    number,
    table,
)
from nas_encoder.search.report.pictures import Picture, compared_curves, to_png
from nas_encoder.spaces.cells.architecture import CellArchitecture
from nas_encoder.spaces.picture import architecture_lines, draw


class SeedsReport:
    """What is in the run folder of several seeds, and its HTML.

    Raises:
        CheckpointError: A file in it is damaged.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.run = folder.run()
        seeds = self.run.get("seeds")
        if not isinstance(seeds, list) or not seeds:
            raise CheckpointError(str(folder.path / "run.yaml"), ["seeds: must be a list"])
        begun = {seed: folder.seed_path(seed) for seed in seeds}
        self.seeds: list[int] = seeds
        self.reports = {
            seed: Report(RunFolder(path))
            for seed, path in begun.items()
            if (path / "run.yaml").is_file()
        }
        self.genotype = folder.result()

    def html(self) -> str:
        """Return the whole document."""
        name = next(iter(self.reports.values())).config.name if self.reports else "nothing yet"
        title = f"Search of {name} with {len(self.seeds)} seeds"
        return document(
            title,
            [
                f"<h1>{escape(title)}</h1>",
                f'<p class="sub">{escape(self._state())}</p>',
                *(f'<p class="warn">{escape(text)}</p>' for text in self.warnings()),
                *self._result(),
                *self._candidates(),
                *self._agreement(),
                *self._curves(),
                *self._cells(),
                *commands("What to run next", self._next()),
                "<h2>Provenance</h2>",
                table(("", ""), [(key, "" if v is None else v) for key, v in self.run.items()]),
            ],
        )

    def _state(self) -> str:
        done = sum(report.finished for report in self.reports.values())
        seconds = sum(row.seconds for report in self.reports.values() for row in report.rows)
        state = "finished" if self.genotype is not None else "not finished"
        return f"{state}: {done} of {len(self.seeds)} searches in {duration(seconds)}"

    def warnings(self) -> list[str]:
        """Return what a reader should know before trusting the result."""
        found = []
        if self.genotype is None:
            found.append("Not all seeds are finished; what follows is the state so far.")
        for seed, report in self.reports.items():
            found += [
                f"Seed {seed}: {text}"
                for text in (*(f.text for f in report.findings()), *report.exceeded())
            ]
        return found

    def _result(self) -> list[str]:
        if self.genotype is None:
            return []
        lines = "\n".join(architecture_lines(self.genotype))
        return [
            f"<h2>Genotype {escape(self.genotype.name)}</h2>",
            f'<p class="note">Of seed {escape(self.genotype.provenance.get("seed"))}, the lowest '
            f"token error rate on the validation data. Hash {escape(self.genotype.hash)}.</p>",
            image(to_png(draw(self.genotype)), "the genotype"),
            f"<pre>{escape(lines)}</pre>",
        ]

    def _candidates(self) -> list[str]:
        names = list(
            dict.fromkeys(name for report in self.reports.values() for name in report.last_costs())
        )
        lines = []
        for seed, report in self.reports.items():
            last, costs = report.rows[-1] if report.rows else None, report.last_costs()
            lines.append(
                (
                    seed,
                    "" if report.genotype is None else report.genotype.hash,
                    f"{len(report.rows)}" + ("" if report.finished else " so far"),
                    number(last.valid_ter if last else None, 1),
                    number(last.valid_loss if last else None, 3),
                    *(readable(n, costs[n].derived) if n in costs else "" for n in names),
                    f"seed{seed}/report.html",
                )
            )
        trained = any(row.phase == "retrain" for r in self.reports.values() for row in r.rows)
        what = (
            "the derived network, trained from scratch"
            if trained
            else "the supernet (no derived network was trained: set 'selection' for that)"
        )
        head = ["seed", "genotype", "epochs", "token error rate, %", "validation loss"]
        head += [TITLES[name] for name in names]
        return [
            "<h2>Candidates</h2>",
            f'<p class="note">Validation figures of {what}. Each search has a report of its '
            "own.</p>",
            table([*head, "report"], lines),
        ]

    def _agreement(self) -> list[str]:
        found = {
            seed: report.genotype
            for seed, report in self.reports.items()
            if report.genotype is not None
        }
        if len(found) < 2:
            return []
        lines = [
            (f"{first} and {second}", _agree(found[first], found[second]))
            for first, second in combinations(found, 2)
        ]
        text = (
            "Choices that two seeds have in common. Where all is chance, two cell genotypes of "
            "7 operations have 1.5 of 16 edges in common on average."
            if any(isinstance(g.architecture, CellArchitecture) for g in found.values())
            else "Choices that two seeds have in common."
        )
        return [
            "<h2>Do the seeds agree?</h2>",
            f'<p class="note">{escape(text)}</p>',
            table(("seeds", "same choices"), lines),
        ]

    def _curves(self) -> Iterable[str]:
        rows = {f"seed {seed}": r.rows for seed, r in self.reports.items() if r.rows}
        if rows:
            picture: Picture = compared_curves(rows)
            yield f'<h2>{escape(picture.title)}</h2><p class="note">{escape(picture.text)}</p>'
            yield image(picture.png, picture.title)

    def _cells(self) -> Iterable[str]:
        for seed, report in self.reports.items():
            if report.genotype is not None and report.genotype != self.genotype:
                so_far = "" if report.finished else " so far"
                yield f"<h2>Seed {seed}{so_far}</h2>"
                yield image(to_png(draw(report.genotype)), f"the genotype of seed {seed}")

    def _next(self) -> list[tuple[str, str]]:
        if self.genotype is None:
            return [("Go on with the searches:", resume_seeds(self.folder.path, self.run))]
        sizes = next(iter(self.reports.values())).config.objective.cell_size
        return list(train_steps(self.folder.path, self.genotype, sizes))


def _agree(first: Genotype, second: Genotype) -> str:
    mine, other = choices_of(first), choices_of(second)
    return f"{len(mine & other)} of {len(mine)}"
