"""From a configuration of trials to a genotype."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from nas_encoder.common.documents import differences
from nas_encoder.common.provenance import environment
from nas_encoder.common.sealed import ANEW
from nas_encoder.data.fingerprint import Fingerprint, summaries
from nas_encoder.errors import CheckpointError, ConfigError, MissingDependencyError
from nas_encoder.genotype import Genotype
from nas_encoder.search.config.trials import TrialsConfig
from nas_encoder.search.folder import RunFolder
from nas_encoder.search.records import TrialRecord
from nas_encoder.search.trials.agreement import Agreement, agreements, course_of
from nas_encoder.search.trials.budget import Affordable, Budget
from nas_encoder.search.trials.evaluate import Evaluator, TableEvaluator
from nas_encoder.tables import STRATEGIES
from nas_encoder.training.holding import STUDY

logger = logging.getLogger(__name__)

GROWING = ("trials.count", "trials.seconds")  # what may be raised when a study is resumed
_WRITE_EVERY = 2.0  # seconds; a table look-up takes far less
_IDENTITY, _PREPARED = "nas_encoder", "prepared"


def require_optuna() -> None:
    """Make sure that trials can be run.

    Raises:
        MissingDependencyError: Optuna is not installed.
    """
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError("optuna", "search", "a search by trials") from error


def run_trials(
    config: TrialsConfig,
    train: str | Path | None,
    output: str | Path,
    valid: str | Path | None = None,
    seed: int | None = None,
    resume: bool = False,
    config_name: str = "",
    storage: str | None = None,
) -> Genotype:
    """Search for a genotype by trials, alone or as one of several workers.

    All processes with the same configuration, seed and storage work on the same study. Each ends
    when the study has all its trials, and writes the same result. Start workers that share a run
    folder with ``resume``. With a higher ``trials.count`` or ``trials.seconds``, ``resume`` makes
    a study longer; the result is that of one that was as long from the start, unless several
    workers take part or the strategy is not ``open_ended``. Arguments and errors are those of
    :func:`nas_encoder.search.run_search`.

    Returns:
        The genotype with the lowest error, also written to ``genotype.yaml`` in the run folder.
        With several objectives, ``front/`` and ``front.json`` hold the Pareto front.
    """
    require_optuna()
    import optuna

    from nas_encoder.search.trials.finalists import chosen, train_finalists
    from nas_encoder.search.trials.initial import enqueue, load_initial
    from nas_encoder.search.trials.results import records_of, save_results, save_summary
    from nas_encoder.search.trials.samplers import build_pruner, build_sampler
    from nas_encoder.search.trials.storage import Storage, quiet, reading_study
    from nas_encoder.search.trials.study import Worker

    seed = seed or 0
    evaluator: Evaluator
    if config.table is not None:
        if train is not None or valid is not None:
            rule = "table: errors are looked up in it; omit --train and --valid"
            raise ConfigError("search", [rule])
        evaluator = TableEvaluator(
            config.table, config.space, config.costs, config.training.epochs, seed
        )
    elif train is None or valid is None:
        rule = "is needed: the trials train networks (only with a table they do not)"
        data = {"train": train, "valid": valid}
        raise ConfigError("search", [f"--{name}: {rule}" for name in data if data[name] is None])
    elif config.supernet is not None:
        from nas_encoder.search.trials.supernet import SupernetEvaluator

        evaluator = SupernetEvaluator(config.supernet, config, train, valid, seed)
    else:
        from nas_encoder.search.trials.training import TrainingEvaluator

        evaluator = TrainingEvaluator(config, train, valid, seed)
    points = load_initial(config.trials.initial, evaluator)
    budget, space = None, evaluator.space
    if config.objective.limited:
        budget = Budget(config.objective, evaluator.costs)
        affordable = Affordable(space, budget)
        if not points:
            affordable.require_one(seed)
        space = affordable
    folder = RunFolder(output)
    run: dict[str, Any] = {
        "seed": seed,
        "train": None if train is None else str(train),
        "valid": None if valid is None else str(valid),
        "table": None if config.table is None else config.table.source,
        "study": None if storage or config.trials.storage else STUDY,  # else elsewhere
        "config": config_name,
        "began": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **environment(),
    }
    own = evaluator.identity()
    if "latencies" in own:  # for its reader; the study compares them
        run["latencies"] = own["latencies"]
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.shared = True
    with ExitStack() as stack:
        # Alone until the study is joined, so that two workers do not begin two searches here.
        with folder.held(wait=True):
            grown = folder.begin(config, run, resume, GROWING)
            folder.check_sets(evaluator.sets, folder.resumed)
            url = storage or config.trials.storage or folder.study_url
            store = Storage(url, config.trials)
            stack.callback(store.close)
            with quiet(), reading_study(store.shown):
                sampler = build_sampler(config, space, seed)
                study = optuna.create_study(
                    storage=store.rdb,
                    sampler=sampler,
                    pruner=build_pruner(config.pruning, evaluator.resource(evaluator.epochs)),
                    study_name=config.study_name,
                    directions=["minimize"] * len(config.objectives),
                    load_if_exists=True,
                )
                identity = {"config": config.identity(), "seed": seed, **own}
                if points:
                    identity["initial"] = {name: found.hash for name, found in points.items()}
                _join(study, config, identity, store.shown, folder, evaluator.sets)
                _require_recorded(folder, lambda: records_of(study, config.objectives))
                enqueue(study, points, evaluator, config.objectives, budget, config.trials.initial)
            sampler.study = study
            stack.enter_context(folder.joined())
        if grown:
            logger.info("the study is made longer: %s", ", ".join(grown))
            if not STRATEGIES[config.strategy].open_ended:
                logger.warning(
                    "'%s' plans for a number of trials: the result is not that of a study that was "
                    "as long from the start",
                    config.strategy,
                )
        _require_same(study, evaluator.prepare(folder), store.shown)
        written = 0.0

        def record() -> None:
            nonlocal written
            if time.monotonic() - written > _WRITE_EVERY:
                folder.write_records(records_of(study, config.objectives))
                written = time.monotonic()

        count, limit = config.trials.count, config.trials.seconds
        worker = Worker(study, store, config.objectives, count, evaluator, record, budget, limit)
        done = worker.run()
        if config.supernet is not None and (last := config.supernet.finalists) is not None:
            from nas_encoder.search.trials.training import TrainingEvaluator

            given = (train or "", valid or "", seed)  # the supernet had both
            train_finalists(
                study,
                chosen(records_of(study, config.objectives), last.count),
                folder,
                space.decode,
                lambda: TrainingEvaluator(config.of_finalists(last), *given),
                record,
            )
        records = records_of(study, config.objectives)
        folder.write_records(records)
        run = {**run, **folder.run()}
        count = count if limit is None else len(records)
        genotype = save_results(folder, records, config, config.objectives, count, run)
        save_summary(folder, records, genotype, compared(config, records))
        evaluator.finish(folder, genotype)
    logger.info(
        "%d trials, %d of them by this worker; genotype %s", len(records), done, genotype.hash
    )
    return genotype


def compared(config: TrialsConfig, trials: Sequence[TrialRecord]) -> list[Agreement]:
    """Return how well the cheap scores of a search's trials rank their final errors."""
    supernet = config.supernet
    course = course_of(config.training, None if supernet is None else supernet.finalists)
    return agreements(trials, course, supernet is not None)


def _join(
    study: Any,
    config: TrialsConfig,
    identity: Mapping[str, Any],
    storage: str,
    folder: RunFolder,
    sets: Mapping[str, Fingerprint],
) -> None:
    """Refuse to mix two searches in one study.

    Raises:
        CheckpointError: The study is of another search or other data; all differences are listed.
    """
    begun = bool(study.get_trials(deepcopy=False))  # first, before another worker can interfere
    before = study.user_attrs.get(_IDENTITY)
    if before is None:
        if begun or len(study.directions) != len(config.objectives):
            raise CheckpointError(
                f"storage {storage}",
                [
                    f"its study '{study.study_name}' was not made by this command; choose "
                    "another trials.study"
                ],
            )
        study.set_user_attr(_IDENTITY, {**identity, "data": summaries(sets)})
        return
    before = {**before, "config": config.identity_of(before.get("config", {}))}
    data = before.pop("data", None)  # not recorded by earlier versions
    if data is not None:
        folder.require_sets(data, sets)
    before.get("table", {}).setdefault("sha256", identity.get("table", {}).get("sha256"))
    if "latencies" in identity:  # likewise
        before.setdefault("latencies", identity["latencies"])
    problems = [
        f"{key}: was {was!r} when the study '{study.study_name}' began, now {now!r}"
        for key, was, now in differences(before, identity)
    ]
    if problems:
        raise CheckpointError(f"cannot join the study in {storage}", problems)


def _require_same(study: Any, prepared: str, storage: str) -> None:
    """Refuse a study whose other workers score with something else.

    Raises:
        CheckpointError: They do.
    """
    if not prepared:
        return
    before = study.user_attrs.get(_PREPARED)
    if before is None:
        study.set_user_attr(_PREPARED, prepared)
    elif before != prepared:
        raise CheckpointError(
            f"cannot join the study in {storage}",
            [
                f"its supernet was {before}, here it is {prepared}: machines train different ones; "
                "copy last.ckpt, or share the run folder"
            ],
        )


def _require_recorded(folder: RunFolder, read: Callable[[], list[TrialRecord]]) -> None:
    """Refuse a study that lacks trials which metrics.jsonl records; rebuild a damaged record.

    Raises:
        CheckpointError: The study is not the one that the folder's trials were in.
    """
    try:
        recorded = folder.records(TrialRecord)
    except CheckpointError as error:
        logger.warning("%s; it is rebuilt from the study", error)
        recorded = []
    known = read()  # only now: another worker may just have finished a trial
    study = {trial.number: trial for trial in known}
    # Another worker may have told later that a trial was refused, or trained its genotype.
    lost = [t for t in recorded if not _same(study.get(t.number), t)]
    if lost:
        raise CheckpointError(
            str(folder.metrics),
            [
                f"{len(lost)} of {len(recorded)} recorded trials are not those of the study, "
                f"first: number {lost[0].number}; the study is damaged or another one: {ANEW}"
            ],
        )
    folder.write_records(known)


def _same(one: TrialRecord | None, other: TrialRecord) -> bool:
    """Return whether two records are of the same result."""
    later: dict[str, Any] = {"refused": None, "trained": None, "trained_seconds": None}
    return one is not None and replace(one, **later) == replace(other, **later)
