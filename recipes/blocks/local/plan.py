"""What is done, from the options of run.sh: corpora, encoders, trainings and their folders."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from nas_encoder.common.documents import read_yaml
from nas_encoder.errors import ConfigError
from recipes.blocks.local.encoders import Encoder, found_by, read_encoders
from tools.experiments.recipe import ROOT

RECORDED = "recorded"
FIRST = "first"
RANDOM, ONESHOT, HYPERBAND = "random", "oneshot", "hyperband"
FAST = "fast"  # evolution within a latency that is predicted, so whatever else runs meanwhile
TABLE = "latency_table.yaml"
# Searches that are made where random points are trained.
ONE_CORPUS = (RANDOM, ONESHOT, HYPERBAND)
_LACKING = ("shared_draws", "oneshot_trials", "extend", "fast_ms", "fast_rate")


class Plan:
    """The runs of the workflow.

    Args:
        recipe: Folder of the recipe.
        options: Options of ``run.sh``.

    Raises:
        ConfigError: An option names a corpus or an encoder that there is not; all are listed.
    """

    def __init__(self, recipe: Path, options: Mapping[str, Any]) -> None:
        # Runs of earlier versions lack some.
        self.recipe = recipe
        self.options = {**dict.fromkeys(_LACKING, 0), "fast_known": "", **options}
        known = read_yaml(self.conf("corpora"), ConfigError)
        self._all = read_encoders(self.conf("encoders"))
        self.searches, self.rates = self._words("searches"), self._words("rates")
        named = {encoder.search for encoder in self._all.values()}
        self._all |= dict(found_by(name) for name in self.searches if name not in named)
        self.seeds, self.extend = self._words("seeds"), int(self.options["extend"])
        names = self._words("corpora")
        wanted = list(self._all) if options["encoders"] == "all" else self._words("encoders")
        problems = [f"corpora: unknown '{name}'" for name in names if name not in known]
        problems += [f"encoders: unknown '{name}'" for name in wanted if name not in self._all]
        for option in ("search_corpora", "draw_corpora", "epochs_corpora"):
            problems += [
                f"{option}: '{name}' is not a corpus of the list" for name in self._words(option)
                if name not in known
            ]  # fmt: skip
        if FAST in self.searches:
            first_trials = [own["known"] for own in self.search_config["trials"]["initial"]]
            problems += [
                f"fast_known: '{name}' is none of what {self.conf('search').name} begins with"
                for name in self._words("fast_known")
                if name not in first_trials
            ]
        if not self.rates or not self.seeds:
            problems.append("rates, seeds: must name at least one each")
        if problems:
            raise ConfigError("options", problems)
        self.corpora: dict[str, Mapping[str, Any]] = {name: known[name] for name in names}
        self.encoders = {name: self._all[name] for name in wanted}
        self.search_corpora = [name for name in self._words("search_corpora") if name in names]
        self._chance = [name for name in self._words("draw_corpora") if name in self.search_corpora]
        self.draw_corpora = self._searched_on(RANDOM)
        self.shared_corpora = self._searched_on(ONESHOT) if self.options["shared_draws"] else []
        self.search_runs = [
            (strategy, corpus)
            for strategy in self.searches
            for corpus in self._searched_on(strategy)
        ]
        first = options["first_corpus"]
        self.first = first if first in self.search_corpora else next(iter(self.search_corpora), "")
        # Names of the folders of corpora and data; another size or seed is another corpus.
        self.folders = {name: self._folder(name) for name in names}
        self.limits = {
            "time": ("seconds", options["seconds"]),
            "epochs": ("epochs", options["epochs"]),
        }

    def conf(self, name: str) -> Path:
        """Return a document of the recipe's ``conf``."""
        return self.recipe / "conf" / f"{name}.yaml"

    def _searched_on(self, strategy: str) -> list[str]:
        """Return the corpora on which a strategy searches."""
        if strategy not in self.searches:
            return []
        return self._chance if strategy in ONE_CORPUS else self.search_corpora

    def _words(self, option: str) -> list[str]:
        return str(self.options[option]).split()

    def _folder(self, corpus: str) -> str:
        if self.corpora[corpus]["layout"] == RECORDED:
            return "prompts_16000"
        size = "{n_train}_{n_dev}_{n_test}_seed{seed}".format(**self.options)
        return f"hard_{corpus}_{size}"

    @cached_property
    def search_config(self) -> Mapping[str, Any]:
        """The document ``conf/search.yaml``."""
        document: Mapping[str, Any] = read_yaml(self.conf("search"), ConfigError)
        return document

    @property
    def space(self) -> str:
        """The space that is searched."""
        return str(self.search_config["space"])

    @property
    def bins(self) -> int:
        """Features of a frame, of all trainings."""
        document = read_yaml(self.conf("train"), ConfigError)
        return int(document["data"]["features"]["num_mel_bins"])

    # -- commands -----------------------------------------------------------------------------

    def _corpus_in(self, folder: str) -> tuple[str, Mapping[str, Any]]:
        name = next(name for name, own in self.folders.items() if own == folder)
        return name, self.corpora[name]

    def corpus_command(self, folder: str, downloads: str) -> str:
        """Return the command that makes a corpus; $JOBS, which does not change what it makes."""
        _, corpus = self._corpus_in(folder)
        output, options = shlex.quote(f"{downloads}/{folder}"), self.options
        if corpus["layout"] == RECORDED:
            debs = options["debs"] and f" --debs {shlex.quote(str(self.recipe / options['debs']))}"
            return f"python -m tools.prompts.fetch --output {output}{debs}"
        script = shlex.quote(str(ROOT / "tools" / "synth_corpus.py"))
        return (
            f"python {script} --layout {corpus['layout']} --output {output}"
            f" --train {options['n_train']} --dev {options['n_dev']} --test {options['n_test']}"
            f" --speakers {options['speakers']} --seed {options['seed']} --jobs $JOBS"
            f" {options['conditions']}"
        )

    def data_command(self, folder: str, downloads: str, data: str) -> str:
        """Return the command that prepares a corpus."""
        name, corpus = self._corpus_in(folder)
        kind = "prompts" if corpus["layout"] == RECORDED else corpus["layout"]
        source = Path(downloads, folder, corpus.get("root", ""))
        paths = shlex.join([kind, str(source), f"{data}/{folder}"])
        return f"nas-encoder data prepare {paths} {corpus.get('prepare', '')}"

    # -- encoders -----------------------------------------------------------------------------

    def of_corpus(self, corpus: str) -> dict[str, Encoder]:
        """Return the encoders of the list that are trained on a corpus.

        Those of a search are there if the search was made; that of the first corpus is the
        corpus's own there.
        """
        return {
            name: encoder
            for name, encoder in self.encoders.items()
            if encoder.search is None
            or (encoder.search, self._origin(corpus, encoder)) in self.search_runs
        }

    def _origin(self, corpus: str, encoder: Encoder) -> str:
        """Return the corpus that an encoder was searched on; empty if it is not trained here."""
        if encoder.corpus is None:
            return corpus if corpus in self.search_corpora else ""
        origin = self.first if encoder.corpus == FIRST else encoder.corpus
        return origin if origin in self.search_corpora and origin != corpus else ""

    def draws(self, corpus: str) -> list[str]:
        """Return the names of the random genotypes that are trained on a corpus."""
        count = self.options["draws"] if corpus in self.draw_corpora else 0
        return [f"draw-{number}" for number in range(1, count + 1)]

    def shared(self, corpus: str) -> list[str]:
        """Return the names of the random genotypes of the supernet's part that are trained."""
        count = self.options["shared_draws"] if corpus in self.shared_corpora else 0
        return [f"shared-{number}" for number in range(1, count + 1)]

    def shared_scores(self) -> list[str]:
        """Return the files of scores with shared weights."""
        return [f"shared/{corpus}/scores.json" for corpus in self.shared_corpora]

    def search_options(self, strategy: str) -> str:
        """Return the options of a strategy, and the run's own.

        ``fast`` is evolution within a latency.

        Hyperband has the training time of the others; its longest trials are trainings in full.
        """
        own = str(self.options["search_opts"])
        if strategy == FAST:
            return f"{self._fast()} {own}".rstrip()
        if strategy != HYPERBAND:
            return own
        total = float(self.options["trials"] * self.options["trial_seconds"])
        each = self.options["seconds"]
        return (
            f"--set trials.count=100000 --set trials.seconds={total:g}"
            f" --set training.seconds={each} {own}"
        ).rstrip()

    def _fast(self) -> str:
        within = self._words("fast_known")
        known = [k for k in self.search_config["trials"]["initial"] if k["known"] in within]
        settings = {
            "strategy": "evolution",
            "objective.table": TABLE,
            "objective.latency_ms": self.options["fast_ms"],
            "training.lr": self.options["fast_rate"],
            "trials.initial": json.dumps(known),
        }
        words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        return shlex.join(words)

    def table(self, strategy: str) -> list[str]:
        """Return the table of latencies that a search predicts with, if it does."""
        return [TABLE] if strategy == FAST else []

    def table_command(self) -> str:
        """Return the command that measures it, for the lengths and sizes of the searches."""
        search = self.search_config
        least, most = (
            search["objective"]["at_least"]["parameters"],
            search["objective"]["parameters"],
        )
        frames = round(100 * search["measure"]["seconds"])
        return (
            f"python -m recipes.blocks.local.table --output {TABLE} -- --operations"
            f" --space {self.space} --input-size {self.bins} --frames {frames} --checks 24"
            f" --check-parameters {least} {most} {self.options['table_opts']}"
        )

    def oneshot(self) -> str:
        """Return the options that give a one-shot search the training time of the others."""
        total = float(self.options["trials"] * self.options["trial_seconds"])
        each = self.options["trial_seconds"]
        finalists = max(1, round(total / 4 / each))
        return (
            f"--set training.seconds={total / 2:g} --set supernet.finalists.count={finalists}"
            f" --set supernet.finalists.seconds={each}"
            f" --set trials.count={max(finalists, self.options['oneshot_trials'])}"
        )

    def found_by(self, strategy: str) -> str | None:
        """Return the encoder that is what a strategy found on the corpus itself, if listed."""
        for name, encoder in self.encoders.items():
            if encoder.search == strategy and encoder.corpus is None:
                return name
        return None

    def genotype(self, corpus: str, encoder: str) -> list[str]:
        """Return the file with the genotype that was found for an encoder, if it has one."""
        if encoder in self.draws(corpus):
            return [f"draws/{corpus}/{encoder}.yaml"]
        if encoder in self.shared(corpus):
            return [f"shared/{corpus}/{encoder}.yaml"]
        found = self.encoders[encoder]
        if found.search is None:
            return []
        return [f"search/{found.search}/{self._origin(corpus, found)}/genotype.yaml"]

    def specs(self) -> list[str]:
        """Return the documents that build all encoders."""
        return [
            f"encoders/{corpus}/{name}.yaml"
            for corpus in self.corpora
            for name in (*self.of_corpus(corpus), *self.draws(corpus), *self.shared(corpus))
        ]

    # -- trainings ----------------------------------------------------------------------------

    def tuned_runs(self) -> Iterator[tuple[str, str, str]]:
        """Yield corpus, condition and encoder of all trainings at a chosen rate."""
        epochs = self._words("epochs_corpora")
        for corpus in self.corpora:
            for condition in ("time", "epochs") if corpus in epochs else ("time",):
                for name in self.of_corpus(corpus):
                    yield corpus, condition, name

    def untuned_runs(self) -> Iterator[dict[str, str]]:
        """Yield the wildcards of the trainings at the rate that random points are trained with.

        The points themselves have one seed; what the searches found is trained with that rate and
        all seeds, to be ranked among them.
        """
        for corpus in dict.fromkeys([*self.draw_corpora, *self.shared_corpora]):
            own = {"corpus": corpus, "condition": "time", "rate": str(self.options["draw_rate"])}
            for name in (*self.draws(corpus), *self.shared(corpus)):
                yield {**own, "encoder": name, "seed": self.seeds[0]}
            for name, encoder in self.of_corpus(corpus).items():
                for seed in self.seeds if encoder.search is not None else ():
                    yield {**own, "encoder": name, "seed": seed}

    def rate_in(self, chosen: Path) -> str:
        """Return the rate that :mod:`recipes.blocks.local.choose` chose, as it is in paths."""
        return self._named(_read(chosen)["peak"])

    def tried(self, chosen: Path | None) -> list[str]:
        """Return the rates of a round: the grid's, or those of the round before and the next."""
        if chosen is None:
            return self.rates
        found = _read(chosen)
        return [self._named(float(rate)) for rate in (*found["errors"], found["next"])]

    def is_final(self, chosen: Path) -> bool:
        """Return whether no further rate is to be tried."""
        return _read(chosen)["next"] is None

    def last_choice(self, expdir: Path, corpus: str, encoder: str) -> Path:
        """Return the file of the last round that there is."""
        folder = expdir / "chosen" / corpus / encoder
        path = folder / "0.json"
        for number in range(1, self.extend + 1):
            if not path.is_file() or self.is_final(path):
                break
            further = folder / f"{number}.json"
            path = further if further.is_file() else path
        return path

    def untuned(self, expdir: Path) -> list[str]:
        """Return the encoders whose rates are not chosen yet, as CORPUS/ENCODER."""
        found = {run[::2]: self.last_choice(expdir, *run[::2]) for run in self.tuned_runs()}
        return [
            "/".join(run)
            for run, path in found.items()
            if not path.is_file() or not self.is_final(path)
        ]

    def _named(self, peak: float) -> str:
        """Return a rate as it is in paths: as in the options, if it is there."""
        return next((rate for rate in self.rates if float(rate) == peak), f"{peak:g}")


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
