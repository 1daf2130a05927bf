"""Storage for the trials of a study, shared by all of its workers."""

from __future__ import annotations

import copy
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import optuna
import sqlalchemy
from optuna.exceptions import ExperimentalWarning, OptunaError, UpdateFinishedTrialError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from nas_encoder.common.problems import one_line
from nas_encoder.common.sealed import ANEW
from nas_encoder.errors import CheckpointError, NasEncoderError
from nas_encoder.search.config.sections import StudyConfig
from nas_encoder.search.trials.processes import is_dead

WORKER = "worker"
REDRAWN = "redrawn"  # genotypes outside the budgets that were drawn before a trial's own
INITIAL = "initial"  # of a point that the search begins with: its name and known costs
_KEPT = (REDRAWN, INITIAL)  # what a trial that is run again inherits
_ATTEMPTS = 5


class Storage:
    """An Optuna storage that adds safe claims and the recovery of lost trials.

    Args:
        url: SQLAlchemy URL of any database that Optuna supports.
        config: Heartbeats and retries.

    Attributes:
        rdb: Optuna's storage.

    Raises:
        CheckpointError: It cannot be opened.
    """

    def __init__(self, url: str, config: StudyConfig) -> None:
        self.config = config
        self.shown = _without_password(url)
        sqlite = url.startswith("sqlite")
        options = {"connect_args": {"timeout": 120}} if sqlite else {"pool_pre_ping": True}
        with quiet():
            self._again = RetryHeartbeatStaleTrialCallback(max_retry=config.retries)
        try:
            self.rdb = self._open(url, options)
        except (sqlalchemy.exc.SQLAlchemyError, ImportError, RuntimeError, ValueError) as error:
            text = one_line(str(error).partition("[SQL:")[0])
            raise CheckpointError(f"storage {self.shown}", [f"cannot be opened: {text}"]) from None
        if sqlite:
            _lock_whole_transactions(self.rdb.engine)

    def _open(self, url: str, options: dict[str, Any]) -> RDBStorage:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with quiet():
                    return RDBStorage(
                        url,
                        engine_kwargs=options,
                        heartbeat_interval=self.config.heartbeat,
                        grace_period=self.config.grace,
                        heartbeat_stale_trial_callback=self._retry,
                    )
            except (sqlalchemy.exc.DatabaseError, RuntimeError):
                # Workers that start at the same moment all create the tables; one succeeds.
                if attempt == _ATTEMPTS:
                    raise
                time.sleep(0.5 * attempt)
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Close all connections; an SQLite database is then a single file again."""
        self.rdb.engine.dispose()

    # -- trials of workers that died ----------------------------------------------------------

    def recover(self, study: Study) -> list[int]:
        """Requeue trials whose worker is dead; return their numbers.

        A worker is dead after long enough without a heartbeat (Optuna's), or as soon as its process
        is gone, if it ran on this machine. Its trial fails and is requeued with the same parameters
        under a new number. If several workers notice it, the storage lets only one do so.
        """
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        if not running:
            return []
        dead = [
            trial
            for trial in running
            if is_dead(trial.user_attrs.get(WORKER)) or self._never_began(trial)
        ]
        found = [trial.number for trial in dead if self.put_back(study, trial)]
        before = {trial.number for trial in running}
        with quiet():
            optuna.storages.fail_stale_trials(study)
        still = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        gone = before - {trial.number for trial in still} - set(found)
        failed = study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
        return sorted(found + [t.number for t in failed if t.number in gone])

    def put_back(self, study: Study, trial: FrozenTrial) -> bool:
        """Fail a trial and requeue its parameters; return whether this process did it."""
        try:
            key = self._key_of(study, trial.number)
            changed = self.rdb.set_trial_state_values(key, TrialState.FAIL)
        except UpdateFinishedTrialError:
            return False
        if changed:
            self._retry(study, trial)
        return changed

    def _retry(self, study: Study, trial: FrozenTrial) -> None:
        """Requeue the parameters of a failed trial, without its results."""
        fresh = copy.deepcopy(trial)
        kept = {name: trial.user_attrs[name] for name in _KEPT if name in trial.user_attrs}
        fresh.user_attrs = kept  # drops the dead worker's name too
        fresh.system_attrs = {
            name: value
            for name, value in trial.system_attrs.items()
            if not name.startswith("completed_rung")  # the pruners' notes
        }
        self._again(study, fresh)

    def _never_began(self, trial: FrozenTrial) -> bool:
        """Return whether a worker was killed before it gave its trial a name and a heartbeat.

        Optuna's own search for stale trials never finds such trials.
        """
        if WORKER in trial.user_attrs or trial.datetime_start is None:
            return False
        now = type(trial.datetime_start).now()
        return (now - trial.datetime_start).total_seconds() > self.config.grace

    def _key_of(self, study: Study, number: int) -> int:
        study_id = self.rdb.get_study_id_from_name(study.study_name)
        return self.rdb.get_trial_id_from_study_id_trial_number(study_id, number)

    @contextmanager
    def heartbeat(self, study: Study, number: int) -> Iterator[None]:
        """Send heartbeats for a trial."""
        key, stop = self._key_of(study, number), threading.Event()

        def beat() -> None:
            while True:
                self.rdb.record_heartbeat(key)
                if stop.wait(self.config.heartbeat):
                    return

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


@contextmanager
def reading_study(storage: str) -> Iterator[None]:
    """Report what a damaged study makes Optuna raise as our error.

    Raises:
        CheckpointError: The study cannot be read.
    """
    try:
        yield
    except NasEncoderError:
        raise
    except (
        OptunaError,
        sqlalchemy.exc.SQLAlchemyError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        AssertionError,
        RuntimeError,
    ) as error:
        text = one_line(f"{type(error).__name__}: {error}")
        problem = f"its study is damaged: {text}; {ANEW}"
        raise CheckpointError(f"storage {storage}", [problem]) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Optuna's warnings that heartbeats and the constant liar of TPE are experimental.

    Also the warning that trials from ask() have no heartbeat: the workers here send it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.filterwarnings("ignore", "Heartbeat of storage", UserWarning)
        yield


def _lock_whole_transactions(engine: sqlalchemy.Engine) -> None:
    """Make every transaction on an SQLite file begin with the write lock.

    By default Python starts one only before the first writing statement, so another process could
    claim the same trial between a read and the write that depends on it.
    """

    def connected(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # the driver starts no transaction of its own
        # With a write-ahead log, transactions do not wait for the disk: a killed process loses
        # nothing, a power cut at most the last transactions.
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    def begun(connection: sqlalchemy.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    sqlalchemy.event.listen(engine, "connect", connected)
    sqlalchemy.event.listen(engine, "begin", begun)
    engine.dispose()  # connections opened before lack these listeners


def _without_password(url: str) -> str:
    try:
        return sqlalchemy.engine.make_url(url).render_as_string(hide_password=True)
    except sqlalchemy.exc.ArgumentError:
        return "of that URL"
