"""The folder of a search run; its files survive a kill at any moment.

config.yaml (can be given to --config again), run.yaml (seed, data, versions, commit, machine),
metrics.jsonl (an object per epoch or trial), genotype.yaml (the result) and report.html; then

- of a gradient search: last.ckpt (for --resume), genotypes/ (derived after each epoch), tokens.txt,
  features.json, tensorboard/ and, with a latency budget, operations.yaml (the table of latencies);
- of several seeds: seed*/, the folder of each seed's search; the others are those of the best;
- of a search by trials: study.db (the Optuna study, unless another storage is given) and, with
  several objectives, front/ (the genotypes of the Pareto front) and front.json (their objectives).
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from nas_encoder.common.documents import differences, read_yaml, write_atomically, write_yaml
from nas_encoder.common.fields import Declared, T
from nas_encoder.data import FeatureExtractor, TokenSet
from nas_encoder.errors import CheckpointError
from nas_encoder.genotype import Genotype
from nas_encoder.search.records import R, Record
from nas_encoder.training.checkpoint import load_checkpoint, save_checkpoint

CHECKPOINT = "last.ckpt"
STUDY = "study.db"
IDENTITY = frozenset({"seed", "seeds", "train", "valid", "table"})  # what a resumed run keeps


class RunFolder:
    """Paths, atomic writes and checks of a run folder; only one of several processes ``writes``."""

    def __init__(self, path: str | Path, writes: bool = True) -> None:
        self.path = Path(path)
        self.writes = writes

    @property
    def checkpoint(self) -> Path:
        """The file with the state of an unfinished run."""
        return self.path / CHECKPOINT

    @property
    def metrics(self) -> Path:
        """The file that records epochs or trials."""
        return self.path / "metrics.jsonl"

    @property
    def study_url(self) -> str:
        """The SQLAlchemy URL of the study's file, in which '?' would begin options."""
        path = str(self.path.resolve() / STUDY)
        plain = not set(path) & set("?{}")  # Optuna fills in what is in braces
        return f"sqlite:///{path}" if plain else f"sqlite:///file:{quote(path)}?uri=true"

    def begin(
        self,
        config: Declared,
        run: Mapping[str, Any],
        resume: bool,
        growing: Collection[str] = (),
    ) -> list[str]:
        """Record the run; refuse to mix two runs.

        Args:
            config: The configuration; options that a run of an older version lacks count as their
                defaults there.
            run: What else defines the run, and where and when it started.
            resume: Whether to resume a run in the folder.
            growing: Numbers of the configuration that may rise when a run is resumed.

        Returns:
            What has risen, for people.

        Raises:
            CheckpointError: The folder cannot be created or written to, it holds a run and
                ``resume`` is off, or the resumed run has another configuration, seed or data.
        """
        if not self.writes:
            return []
        try:
            (self.path / "genotypes").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._error(f"cannot be made: {error.strerror}") from None
        # A run that failed before its first checkpoint (bad data) leaves nothing to keep.
        kept = any(
            (self.path / name).exists()
            for name in (CHECKPOINT, STUDY, "metrics.jsonl", "genotype.yaml")
        ) or any(self.path.glob("seed*/metrics.jsonl"))
        if kept and not resume:
            raise self._error(
                "already holds a run; add --resume to continue it, or choose another --output"
            )
        if kept:
            return self._require_same(config, run, growing)
        self._write_yaml("config.yaml", config.to_dict())
        self._write_yaml("run.yaml", run)
        return []

    def _require_same(
        self, config: Declared, run: Mapping[str, Any], growing: Collection[str]
    ) -> list[str]:
        before = config.completed(read_yaml(self.path / "config.yaml", CheckpointError))
        # The machine and the commit of a run may change; what it computes must not.
        old, new = (
            {"run": {key: document.get(key) for key in IDENTITY & run.keys()}}
            for document in (self.run(), run)
        )
        problems, grown = [], []
        for key, was, now in differences(before, config.to_dict()) + differences(old, new):
            if key in growing and was < now:
                grown.append(f"{key} from {was} to {now}")
            else:
                rule = " (it can only be raised)" if key in growing else ""
                problems.append(f"{key}: was {was!r} when the run began, now {now!r}{rule}")
        if problems:
            raise CheckpointError(f"cannot resume {self.path}", problems)
        if grown:
            self._write_yaml("config.yaml", config.to_dict())
        return grown

    def run(self) -> dict[str, Any]:
        """Return the content of run.yaml.

        Raises:
            CheckpointError: The folder holds no search, or the file is damaged.
        """
        path = self.path / "run.yaml"
        if not path.is_file():
            raise self._error("holds no search (no run.yaml)")
        document = read_yaml(path, CheckpointError)
        if not isinstance(document, dict):
            raise CheckpointError(str(path), ["must be a mapping"])
        return document

    def config(self, cls: type[T]) -> T:
        """Return the configuration in config.yaml.

        Raises:
            CheckpointError: There is no such file.
            ConfigError: It is damaged, or of another kind of search.
        """
        path = self.path / "config.yaml"
        return cls.from_dict(read_yaml(path, CheckpointError), str(path))

    def kind(self) -> str:
        """Return the kind of search: ``gradient``, ``seeds`` (several of them) or ``trials``."""
        run = self.run()
        return "seeds" if "seeds" in run else "trials" if "table" in run else "gradient"

    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Write the state of the run; the previous one stays until the new one is complete.

        Raises:
            CheckpointError: It cannot be written, for example because the disk is full.
        """
        if self.writes:
            save_checkpoint(self.checkpoint, state)

    def load_checkpoint(self) -> dict[str, Any] | None:
        """Read the state of the run; None if it has none yet.

        Raises:
            CheckpointError: It is damaged.
        """
        state = load_checkpoint(self.checkpoint, of="a search")
        if state is not None and "position" not in state:
            raise CheckpointError(str(self.checkpoint), ["is no checkpoint of a search"])
        return state

    def rows(self) -> list[Any]:
        """Return the parsed lines of metrics.jsonl; one cut off by a kill is dropped.

        Raises:
            CheckpointError: Another line is damaged.
        """
        rows: list[Any] = []
        exists = self.metrics.exists()
        lines = self.metrics.read_text(encoding="utf-8").splitlines() if exists else []
        for number, line in enumerate(lines, 1):
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                if number < len(lines):
                    raise CheckpointError(str(self.metrics), [f"line {number}: {error}"]) from None
        return rows

    def records(self, kind: type[R]) -> list[R]:
        """Return the recorded epochs of a gradient search, or trials.

        Raises:
            CheckpointError: A line is damaged or of another kind; all are named.
        """
        found, problems = [], []
        for number, row in enumerate(self.rows(), 1):
            try:
                found.append(kind.from_row(row))
            except CheckpointError as error:
                problems += [f"line {number}: {problem}" for problem in error.problems]
        if problems:
            raise CheckpointError(str(self.metrics), problems)
        return found

    def write_records(self, records: Iterable[Record]) -> None:
        """Rewrite metrics.jsonl."""
        text = "".join(json.dumps(record.to_row()) + "\n" for record in records)
        if self.writes:
            write_atomically(self.metrics, text.encode(), CheckpointError)

    def save_genotype(self, genotype: Genotype, stage: int, epoch: int) -> None:
        """Write the genotype derived after an epoch (stage and epoch counted from 1)."""
        name = self.genotype_path(stage, epoch).relative_to(self.path)
        self._write_yaml(name, genotype.to_dict())

    def genotype_path(self, stage: int, epoch: int) -> Path:
        """Return the path of the genotype derived after an epoch (both counted from 1)."""
        return self.path / "genotypes" / f"stage{stage}_epoch{epoch:03d}.yaml"

    def seed_path(self, seed: int) -> Path:
        """Return the folder of one seed's search, for runs with several."""
        return self.path / f"seed{seed}"

    def result(self) -> Genotype | None:
        """Return the result; None if the search is not finished.

        Raises:
            CheckpointError: Its file is damaged.
        """
        path = self.path / "genotype.yaml"
        if not path.is_file():
            return None
        return Genotype.from_dict(read_yaml(path, CheckpointError), str(path))

    def save_result(self, genotype: Genotype) -> None:
        """Write the result."""
        self._write_yaml("genotype.yaml", genotype.to_dict())

    def keep_data(self, tokens: TokenSet, features: FeatureExtractor, resumed: bool) -> None:
        """Save the tokens and the features' settings and statistics.

        Raises:
            CheckpointError: The resumed run has other data, or they cannot be written.
        """
        problems = []
        if resumed and TokenSet.load(self.path / "tokens.txt", kind=tokens.kind) != tokens:
            problems.append(
                "the tokens of the training data differ from those the run started with"
            )
        if resumed and FeatureExtractor.load(self.path / "features.json").cmvn != features.cmvn:
            problems.append("the training audio differs from that the run started with")
        if problems:
            raise CheckpointError(f"cannot resume {self.path}", problems)
        if not self.writes:
            return
        try:
            tokens.save(self.path / "tokens.txt")
            features.save(self.path / "features.json")
        except OSError as error:
            raise self._error(f"cannot be written: {error.strerror}") from None

    def keep_table(self, table: Mapping[str, Any], resume: bool) -> None:
        """Save the table of latencies of the budgets.

        Raises:
            CheckpointError: The resumed run has another one.
        """
        path = self.path / "operations.yaml"
        if resume and path.exists() and differences(read_yaml(path, CheckpointError), table):
            raise CheckpointError(
                f"cannot resume {self.path}",
                ["objective.table: its latencies differ from those the run started with"],
            )
        self._write_yaml("operations.yaml", table)

    def _error(self, problem: str) -> CheckpointError:
        return CheckpointError(f"run folder {self.path}", [problem])

    def _write_yaml(self, name: str | Path, document: Mapping[str, Any]) -> None:
        if self.writes:
            write_yaml(self.path / name, dict(document), CheckpointError)


def open_folder(path: str | Path) -> RunFolder:
    """Open a run folder; only the first of several processes writes, even before they have met."""
    rank = os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))
    return RunFolder(path, writes=int(rank) == 0)
