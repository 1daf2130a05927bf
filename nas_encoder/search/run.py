"""From speech data to a genotype and a report: the entry point of every search."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas_encoder.common.documents import read_yaml
from nas_encoder.common.provenance import environment
from nas_encoder.data.fingerprint import SAME_DATA
from nas_encoder.errors import CheckpointError, ConfigError
from nas_encoder.genotype import Genotype
from nas_encoder.search.config.gradient import SearchConfig
from nas_encoder.search.config.trials import TrialsConfig
from nas_encoder.search.folder import RunFolder, open_folder
from nas_encoder.search.gradient.loaders import SearchLoaders
from nas_encoder.search.gradient.loop import GradientSearch
from nas_encoder.search.gradient.objective import Objective
from nas_encoder.search.gradient.recorder import Recorder
from nas_encoder.search.records import TrialRecord
from nas_encoder.search.report.build import write_report
from nas_encoder.search.seeds import choose
from nas_encoder.search.trials.run import GROWING, run_trials
from nas_encoder.spaces import get_space
from nas_encoder.training.devices import open_fabric
from nas_encoder.training.loaders import open_data
from nas_encoder.training.stopping import stoppable

if TYPE_CHECKING:
    from lightning.fabric import Fabric

logger = logging.getLogger(__name__)

_SEEDS = 2**63  # torch takes no more


def run_search(
    config: SearchConfig | TrialsConfig,
    train: str | Path | None,
    output: str | Path,
    valid: str | Path | None = None,
    seed: int | None = None,
    resume: bool = False,
    config_name: str = "",
    fabric: Fabric | None = None,
    storage: str | None = None,
) -> Genotype:
    """Search for a genotype, with gradients (one or several seeds) or by trials; write a report.

    Args:
        config: The checked configuration.
        train: Kaldi/ESPnet folder, NeMo manifest or lhotse cuts; not needed by trials that look
            errors up in a table.
        output: The run folder.
        valid: Validation data of the same kinds, for the score; with ``architecture_data: valid``
            the architecture learns from them too. By default the architecture's half of the
            training data; trials that train need validation data.
        seed: Seed of all randomness; by default the configuration's seeds, each in turn, or 0.
        resume: Resume the run in ``output``; start one where there is none.
        config_name: Recorded in the genotype.
        fabric: The devices, if the caller has opened them already.
        storage: For trials, an Optuna storage URL in place of ``trials.storage``; not recorded.

    Returns:
        The genotype, also in ``genotype.yaml`` of the run folder. Of several seeds, the one with
        the lowest validation token error rate, on a tie the lowest loss, then the first; its
        provenance names the others. Of trials, see :func:`.trials.run.run_trials`.

    Raises:
        ConfigError: A budget needs a table of latencies, a device is missing, or an argument does
            not fit the strategy.
        DataError: The data cannot be used; all problems found are listed, before any training.
        CheckpointError: The run folder holds another run, is in use, or cannot be written.
        StoppedError: SIGINT or SIGTERM stopped it; it can be resumed.
        MissingDependencyError: Optuna is needed and not installed.
    """
    problems = [] if str(output).strip() else ["--output: is empty"]
    if not 0 <= (seed or 0) < _SEEDS:
        problems.append(f"--seed: must be in 0..{_SEEDS - 1}, got {seed}")
    if problems:
        raise ConfigError("search", problems)
    by_trials = isinstance(config, TrialsConfig)
    if not by_trials:
        _check_arguments(config, train, storage)
    folder = RunFolder(output) if by_trials else open_folder(output)
    about: dict[str, Any] = {
        "train": None if train is None else str(train),
        "valid": None if valid is None else str(valid),
        "config": config_name,
        "began": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **environment(),
    }
    with stoppable():
        if seed is None and config.seeds:
            run: dict[str, Any] = {"seeds": list(config.seeds), **about}
            genotype = _search_seeds(config, folder, run, resume, storage)
        elif isinstance(config, TrialsConfig):
            genotype = run_trials(config, train, output, valid, seed, resume, config_name, storage)
        else:
            run = {"seed": seed or 0, **about, "devices": config.trainer.devices}
            with folder.held():
                genotype = _search(config, folder, run, resume, fabric)
        if folder.writes:
            write_report(folder)
    logger.info("genotype %s is %s", genotype.hash, folder.path / "genotype.yaml")
    return genotype


def _check_arguments(config: Any, train: object, storage: str | None) -> None:
    problems = []
    if train is None:
        problems.append("--train: is needed for a search with gradients")
    if storage is not None:
        problems.append(f"--storage: is for searches by trials, not for '{config.strategy}'")
    if problems:
        raise ConfigError("search", problems)


def _search(
    config: SearchConfig,
    folder: RunFolder,
    run: dict[str, Any],
    resume: bool,
    fabric: Fabric | None,
) -> Genotype:
    """Search with one seed."""
    network, shift = config.encoder_config(config.stages[-1]), config.features.frame_shift
    objective = Objective.of(config.objective, get_space(config.space), network, shift)
    folder.begin(config, run, resume)
    resumed = folder.resumed
    if config.objective.table is not None:
        folder.keep_table(read_yaml(config.objective.table, ConfigError), resumed)
    # Only now, so that what fails early does not start other processes.
    fabric = fabric or open_fabric(config.trainer)
    fabric.barrier()
    state = folder.load_checkpoint() if resumed else None
    factor = config.encoder_config(config.stages[0]).subsampling_factor
    data = open_data(
        config,
        {"train": run["train"], "valid": run["valid"]},
        factor=factor,
        min_length=factor,
        seed=run["seed"],
        halves=True,
        progress=fabric.is_global_zero,
        check=lambda sets: folder.check_sets(sets, resumed),
    )
    folder.keep_data(data.tokens, data.features, resumed)
    scored, own_valid = config.trainer.score_utterances, run["valid"] is not None
    loaders = SearchLoaders.of(data, fabric, config.architecture_data, own_valid, scored)
    recorder = Recorder(folder, config, {**run, **folder.run()}, state)
    search = GradientSearch(
        config.new_strategy(),
        config,
        config.batch.accumulate,
        loaders,
        run["seed"],
        folder,
        recorder,
        fabric,
        objective,
    )
    genotype = recorder.genotype(search.run(state))
    folder.save_result(genotype)
    recorder.close()
    return genotype


def _search_seeds(
    config: SearchConfig | TrialsConfig,
    folder: RunFolder,
    run: dict[str, Any],
    resume: bool,
    storage: str | None,
) -> Genotype:
    """Search with each of ``config.seeds``, each in a run folder below this one."""
    with ExitStack() as stack:
        if isinstance(config, TrialsConfig):  # several workers may take part
            folder.shared = True
            with folder.held(wait=True):
                folder.begin(config, run, resume, GROWING)
                stack.enter_context(folder.joined())
            return _search_each(config, folder, run, storage)
        stack.enter_context(folder.held())
        folder.begin(config, run, resume)
        return _search_each(config, folder, run, storage)


def _search_each(
    config: SearchConfig | TrialsConfig, folder: RunFolder, run: dict[str, Any], storage: str | None
) -> Genotype:
    fabric = None if isinstance(config, TrialsConfig) else open_fabric(config.trainer)
    found: dict[int, Genotype] = {}
    data: dict[int, Any] = {}  # what each was searched on
    for place, seed in enumerate(config.seeds, 1):
        logger.info("seed %d, %d of %d", seed, place, len(config.seeds))
        own: SearchConfig | TrialsConfig
        if isinstance(config, TrialsConfig):
            own = config.of_one_seed(seed, shared=bool(storage or config.trials.storage))
        else:
            own = config.of_one_seed()
        search = open_folder(folder.seed_path(seed))
        # Resume a seed that has started, start the others. A study may have to become longer.
        done = None if isinstance(config, TrialsConfig) else search.result()
        found[seed] = done or run_search(
            own, run["train"], search.path, run["valid"], seed, True, run["config"], fabric, storage
        )
        data[seed] = search.run().get("data")
        others = [s for s, own_data in data.items() if own_data not in (None, data[seed])]
        if data[seed] is not None and others:
            raise CheckpointError(
                f"cannot resume {folder.path}",
                [f"its data have changed: seed {seed} has others than seed {others[0]}", SAME_DATA],
            )
    result = choose(found)
    if isinstance(config, TrialsConfig) and len(config.objectives) > 1:
        from nas_encoder.search.trials.results import save_front

        searches = {seed: RunFolder(folder.seed_path(seed)) for seed in config.seeds}
        trials = {seed: search.records(TrialRecord) for seed, search in searches.items()}
        runs = {seed: search.run() for seed, search in searches.items()}
        save_front(folder, trials, config, config.objectives, config.trials.count, runs)
    folder.save_result(result)
    return result
