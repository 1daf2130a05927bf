"""The folder of a search run; its files survive a kill at any moment.

config.yaml (can be given to --config again), run.yaml (seed, data, versions, commit, machine),
metrics.jsonl (an object per epoch or trial), genotype.yaml (the result), report.html,
checksums.json (of the others) and data/ (what each utterance was); then

- of a gradient search: last.ckpt (for --resume) and the one before it, genotypes/ (derived after
  each epoch), tokens.txt, features.json, tensorboard/ and, with a latency budget, operations.yaml;
- of several seeds: seed*/, the folder of each seed's search; the others are those of the best;
- of a search by trials: study.db (the Optuna study, unless another storage is given), result.json
  (error, costs, what cheap scores are worth) and, with several objectives, front/ (the genotypes of
  the Pareto front) and front.json (their objectives).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from nas_encoder.common.documents import differences
from nas_encoder.common.fields import Declared, T
from nas_encoder.common.sealed import ANEW
from nas_encoder.data import FeatureExtractor, TokenSet
from nas_encoder.data.fingerprint import SAME_DATA, Fingerprint, data_changes, summaries
from nas_encoder.errors import CheckpointError
from nas_encoder.genotype import Genotype
from nas_encoder.search.records import R, Record
from nas_encoder.training.checkpoint import State, load_checkpoint, save_checkpoint
from nas_encoder.training.holding import METRICS, RESULT, HeldFolder
from nas_encoder.training.lock import holder_of

logger = logging.getLogger(__name__)

IDENTITY = frozenset({"seed", "seeds", "train", "valid", "table"})  # what a resumed run keeps
AGAIN = "--resume makes it again"


class RunFolder(HeldFolder):
    """What is in a run folder: atomic writes and checks."""

    resumed = False

    def begin(
        self,
        config: Declared,
        run: Mapping[str, Any],
        resume: bool,
        growing: Collection[str] = (),
    ) -> list[str]:
        """Record the run, or find one to resume (``resumed``); refuse to mix two runs.

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
            self.resumed = self.begun()
            return []
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self.error(f"cannot be made: {error.strerror}") from None
        workers = self.workers()
        if workers and not resume:
            raise self.error(f"is in use by {holder_of(workers[0])}; add --resume to join it")
        # A start that failed before its first checkpoint (bad data) leaves nothing to keep.
        kept = self.begun() or bool(workers)
        if kept and not resume:
            raise self.error(
                "already holds a run; add --resume to continue it, or choose another --output"
            )
        self.resumed = kept
        if kept:
            return self._require_same(config, run, growing)
        if foreign := self.foreign():
            found = ", ".join(foreign)
            raise self.error(f"holds what is of no search: {found}; choose another --output")
        self.take_back()
        self.path.mkdir(exist_ok=True)  # which that may have removed
        self.seal()
        (self.path / "genotypes").mkdir(exist_ok=True)
        self.write_yaml("config.yaml", config.to_dict())
        self.write_yaml("run.yaml", run)
        return []

    def _require_same(
        self, config: Declared, run: Mapping[str, Any], growing: Collection[str]
    ) -> list[str]:
        before = config.completed(self.read_yaml("config.yaml"))
        # The machine and the commit of a run may change; what it computes must not.
        old, new = (
            {"run": {key: _spelled(document.get(key)) for key in IDENTITY & run.keys()}}
            for document in (self.run(), run)
        )
        problems, grown = [], []
        for key, was, now in differences(before, config.to_dict()) + differences(old, new):
            if key in growing and was is not None and (now is None or was < now):
                grown.append(f"{key} from {was} to {'no limit' if now is None else now}")
            else:
                rule = " (it can only be raised)" if key in growing else ""
                problems.append(f"{key}: was {was!r} when the run began, now {now!r}{rule}")
        if problems:
            raise CheckpointError(f"cannot resume {self.path}", problems)
        if grown:
            self.write_yaml("config.yaml", config.to_dict())
        return grown

    # -- what is run --------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        """Return the content of run.yaml.

        Raises:
            CheckpointError: The folder holds no search, or the file is damaged.
        """
        document = self.read_yaml("run.yaml")
        if document is None:
            raise self.error("holds no search (no run.yaml)")
        if not isinstance(document, dict):
            raise CheckpointError(str(self.path / "run.yaml"), ["must be a mapping"])
        return document

    def config(self, cls: type[T]) -> T:
        """Return the configuration in config.yaml.

        Raises:
            CheckpointError: There is no such file, or it is damaged.
            ConfigError: It is of another kind of search.
        """
        document = self.read_yaml("config.yaml")
        if document is None:
            raise self.error("holds no search (no config.yaml)")
        return cls.from_dict(document, str(self.path / "config.yaml"))

    def kind(self) -> str:
        """Return the kind of search: ``gradient``, ``seeds`` (several of them) or ``trials``."""
        run = self.run()
        return "seeds" if "seeds" in run else "trials" if "table" in run else "gradient"

    def check_sets(self, sets: Mapping[str, Fingerprint], resumed: bool) -> None:
        """Record what the data are, or compare them with what a resumed run began with.

        Raises:
            CheckpointError: They have changed; the message says which and how.
        """
        if not sets:
            return
        if not resumed:
            if self.writes:
                (self.path / "data").mkdir(exist_ok=True)
                for name, found in sets.items():
                    (self.path / "data" / f"{name}.jsonl.gz").write_bytes(found.pack())
                self.write_yaml("run.yaml", {**self.run(), "data": summaries(sets)})
            return
        kept = self.run().get("data")
        if kept is None:
            logger.warning(
                "%s: an earlier version, which did not record its data, began this run; that they "
                "are the same is not checked",
                self.path,
            )
            return
        self.require_sets(kept, sets)

    def require_sets(
        self, kept: Mapping[str, Mapping[str, Any]], sets: Mapping[str, Fingerprint]
    ) -> None:
        """Refuse data that differ from those with these summaries."""
        files = {name: self.path / "data" / f"{name}.jsonl.gz" for name in kept}
        rows = {name: path.read_bytes() for name, path in files.items() if path.is_file()}
        if problems := data_changes(kept, rows, sets):
            raise CheckpointError(
                f"cannot resume {self.path}, its data have changed", [*problems, SAME_DATA]
            )

    def keep_data(self, tokens: TokenSet, features: FeatureExtractor, resumed: bool) -> None:
        """Save the tokens and the features' settings and statistics.

        Raises:
            CheckpointError: The resumed run has other data, or they cannot be written.
        """
        problems = []
        if resumed:
            for name in ("tokens.txt", "features.json"):
                self.read(name, ANEW)
            if TokenSet.load(self.path / "tokens.txt", kind=tokens.kind) != tokens:
                problems.append(
                    "the tokens of the training data differ from those the run started with"
                )
            if FeatureExtractor.load(self.path / "features.json").cmvn != features.cmvn:
                problems.append("the training audio differs from that the run started with")
        if problems:
            raise CheckpointError(f"cannot resume {self.path}", problems)
        if resumed or not self.writes:
            return
        with TemporaryDirectory() as made:
            tokens.save(Path(made, "tokens.txt"))
            features.save(Path(made, "features.json"))
            for path in Path(made).iterdir():
                self.write(path.name, path.read_bytes())

    def keep_table(self, table: Mapping[str, Any], resumed: bool) -> None:
        """Save the table of latencies of the budgets.

        Raises:
            CheckpointError: The resumed run has another one.
        """
        before = self.read_yaml("operations.yaml") if resumed else None
        if before is not None and differences(before, table):
            raise CheckpointError(
                f"cannot resume {self.path}",
                ["objective.table: its latencies differ from those the run started with"],
            )
        self.write_yaml("operations.yaml", table)

    # -- what has been done -------------------------------------------------------------------

    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Write the state of the run; the previous one stays until the new one is complete.

        Raises:
            CheckpointError: It cannot be written, for example because the disk is full.
        """
        if self.writes:
            save_checkpoint(self.checkpoint, {**state, "run": self._identity()})

    def load_checkpoint(self) -> State | None:
        """Read the state of the run; None if it has none yet.

        Raises:
            CheckpointError: It is missing or damaged, and so is the one before it.
        """

        def wrong(state: State) -> str:
            if "position" not in state:
                return "is no checkpoint of a search"
            return "is of another run" if state.get("run", own) != own else ""

        own = self._identity()
        state = load_checkpoint(self.checkpoint, of="a search", fits=wrong)
        # A kill may have left the record of one epoch before the first checkpoint.
        if state is None and (self.result() is not None or len(self.rows()) > 1):
            raise CheckpointError(str(self.checkpoint), [f"is missing; {ANEW}"])
        return state

    def _identity(self) -> str:
        """Return what tells this run from any other."""
        names = ("config.yaml", "run.yaml")
        parts = [self.read(name, ANEW) or b"" for name in names]
        return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]

    def rows(self) -> list[Any]:
        """Return the parsed lines of metrics.jsonl; one cut off by a kill is dropped.

        Raises:
            CheckpointError: Another line is damaged.
        """
        rows: list[Any] = []
        text = self.read_text(METRICS, "--resume rebuilds it")
        lines = [] if text is None else text.splitlines()
        for number, line in enumerate(lines, 1):
            try:
                rows.append(json.loads(line))
            except (ValueError, RecursionError) as error:
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
        self.write(METRICS, text.encode())

    def save_genotype(self, genotype: Genotype, stage: int, epoch: int) -> None:
        """Write the genotype derived after an epoch (stage and epoch counted from 1)."""
        self.write_yaml(_epoch_name(stage, epoch), genotype.to_dict())

    def genotype(self, stage: int, epoch: int) -> Genotype | None:
        """Return the genotype derived after an epoch (both counted from 1), if recorded.

        Raises:
            CheckpointError: Its file is missing or damaged.
            GenotypeError: It holds no genotype.
        """
        return self._genotype(_epoch_name(stage, epoch), ANEW)

    def seed_path(self, seed: int) -> Path:
        """Return the folder of one seed's search, for runs with several."""
        return self.path / f"seed{seed}"

    def result(self) -> Genotype | None:
        """Return the result; None if the search is not finished.

        Raises:
            CheckpointError: Its file is missing or damaged.
            GenotypeError: It holds no genotype.
        """
        return self._genotype(RESULT, AGAIN)

    def save_result(self, genotype: Genotype) -> None:
        """Write the result."""
        self.write_yaml(RESULT, genotype.to_dict())

    def _genotype(self, name: str, remedy: str) -> Genotype | None:
        document = self.read_yaml(name, remedy)
        if document is None:
            return None
        return Genotype.from_dict(document, str(self.path / name))


def open_folder(path: str | Path) -> RunFolder:
    """Open a run folder; only the first of several processes writes, even before they have met."""
    rank = os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))
    return RunFolder(path, writes=int(rank) == 0)


def _spelled(value: Any) -> Any:
    """Return a path as it is written without './' and a slash at its end; others unchanged."""
    return os.path.normpath(value) if isinstance(value, str) else value


def _epoch_name(stage: int, epoch: int) -> str:
    return f"genotypes/stage{stage}_epoch{epoch:03d}.yaml"
