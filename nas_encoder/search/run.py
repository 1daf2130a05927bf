"""From speech data to a genotype: everything around a strategy."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from lhotse import CutSet

from nas_encoder.data import (
    AsrLoader,
    FeatureExtractor,
    TokenSet,
    check_data,
    open_cuts,
    split_half,
    texts,
)
from nas_encoder.errors import CheckpointError
from nas_encoder.genotype import CellArchitecture, Genotype
from nas_encoder.provenance import environment
from nas_encoder.search.config import TOKEN_KINDS, SearchConfig
from nas_encoder.search.gradient.loop import GradientSearch, Streams
from nas_encoder.search.report import write_report
from nas_encoder.search.runfolder import RunFolder

logger = logging.getLogger(__name__)


def run_search(
    config: SearchConfig,
    train: str | Path,
    output: str | Path,
    valid: str | Path | None = None,
    seed: int = 0,
    resume: bool = False,
    config_name: str = "",
) -> Genotype:
    """Search a genotype.

    Args:
        config: The checked configuration.
        train: Kaldi/ESPnet folder, NeMo manifest or lhotse cuts.
        output: The run folder.
        valid: Data of the same kinds that the score is measured on; with
            ``architecture_data: valid`` the architecture learns from it too. Without it, the
            half of the training data that the architecture learns from serves.
        seed: Of everything random.
        resume: Go on where a run in ``output`` was stopped; begin where there is none.
        config_name: Recorded in the genotype.

    Returns:
        The genotype; it is ``genotype.yaml`` in the run folder too.

    Raises:
        DataError: The data cannot be used; all problems found are listed, before any training.
        CheckpointError: The run folder holds another run, or cannot be written.
    """
    folder = RunFolder(output)
    run: dict[str, Any] = {
        "seed": seed,
        "train": str(train),
        "valid": str(valid) if valid is not None else None,
        "config": config_name,
        "began": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **environment(),
    }
    folder.begin(config.to_dict(), run, resume)
    state = folder.load_checkpoint() if resume else None
    streams = _open_streams(config, train, valid, seed, folder, resumed=state is not None)
    recorder = _Recorder(folder, config, {**run, **folder.run()}, state)
    search = GradientSearch(config, streams, seed, folder, recorder)
    architecture = search.run(state)
    genotype = recorder.genotype(architecture)
    folder.save_result(genotype)
    recorder.close()
    write_report(folder)
    logger.info("genotype %s is %s", genotype.hash, folder.path / "genotype.yaml")
    return genotype


def _open_streams(
    config: SearchConfig,
    train: str | Path,
    valid: str | Path | None,
    seed: int,
    folder: RunFolder,
    resumed: bool,
) -> Streams:
    train_cuts = open_cuts(train)
    if config.tokens in TOKEN_KINDS:
        tokens = TokenSet.build(texts(train_cuts), kind=config.tokens)
    else:
        tokens = TokenSet.load(config.tokens)
    features = FeatureExtractor.fit(config.features, train_cuts, seed=seed, progress=True)
    if config.train_utterances is not None:
        # The tokens and the statistics are still those of all the training data.
        train_cuts = _sample(train_cuts, config.train_utterances, seed)
    half, other = split_half(train_cuts, seed)
    valid_cuts = open_cuts(valid) if valid is not None else other
    batch = config.batch
    factor = config.encoder_config(config.stages[0]).subsampling_factor
    report = check_data(
        train_cuts,
        valid_cuts,
        tokens,
        features,
        subsampling_factor=factor,
        max_frames=batch.longest_utterance,
        min_frames=batch.shortest_utterance,
        seed=seed,
    )
    logger.info("%s", report)
    if resumed:
        _require_same_data(folder, tokens, features)
    tokens.save(folder.path / "tokens.txt")
    features.save(folder.path / "features.json")

    def loader(cuts: CutSet, shuffle: bool, augment: bool, offset: int) -> AsrLoader:
        return AsrLoader(
            cuts,
            tokens,
            features,
            max_cuts=batch.max_utterances,
            max_frames=batch.max_frames,
            shuffle=shuffle,
            seed=seed + offset,
            num_workers=batch.workers,
            spec_augment=config.augment if augment else None,
            min_length=max(batch.shortest_utterance, factor),
            max_length=batch.longest_utterance,
            subsampling_factor=factor,
        )

    if config.architecture_data == "valid":
        weights_cuts, architecture_cuts = train_cuts, valid_cuts
    else:
        weights_cuts, architecture_cuts = half, other
    return Streams(
        weights=loader(weights_cuts, shuffle=True, augment=True, offset=0),
        architecture=loader(architecture_cuts, shuffle=True, augment=True, offset=1),
        score=loader(
            _sample(valid_cuts, config.trainer.score_utterances, seed), False, False, offset=2
        ),
        vocabulary=len(tokens),
        retrain=loader(train_cuts, shuffle=True, augment=True, offset=3),
    )


def _require_same_data(folder: RunFolder, tokens: TokenSet, features: FeatureExtractor) -> None:
    """Compare what the training data gave when the run began with what they give now."""
    problems = []
    if TokenSet.load(folder.path / "tokens.txt", kind=tokens.kind).tokens != tokens.tokens:
        problems.append("the tokens of the training data are others than when the run began")
    if FeatureExtractor.load(folder.path / "features.json").cmvn != features.cmvn:
        problems.append("the training audio is other than when the run began")
    if problems:
        raise CheckpointError(f"cannot resume {folder.path}", problems)


def _sample(cuts: Iterable[Any], count: int, seed: int) -> CutSet:
    listed = sorted(cuts, key=lambda cut: str(cut.id))
    if len(listed) > count:
        listed = random.Random(seed).sample(listed, count)
    return CutSet.from_cuts(listed)


class _Recorder:
    """Writes down what each epoch gives."""

    def __init__(
        self,
        folder: RunFolder,
        config: SearchConfig,
        run: dict[str, Any],
        state: dict[str, Any] | None,
    ) -> None:
        self.folder = folder
        self.config = config
        self.run = run
        position = state["position"] if state else {"stage": 0, "epoch": 0}
        reached = (position["stage"] + 1, position["epoch"])
        # An epoch that was recorded but not checkpointed will be run, and recorded, again.
        self.rows = [row for row in folder.rows() if (row["stage"], row["epoch"]) <= reached]
        folder.write_rows(self.rows)
        self.board = self._open_board()

    def _open_board(self) -> Any:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            logger.warning(
                "no TensorBoard events are written: pip install 'nas_encoder[search]' has it"
            )
            return None
        return SummaryWriter(str(self.folder.path / "tensorboard"), purge_step=len(self.rows))

    def __call__(self, row: dict[str, Any], architecture: CellArchitecture) -> None:
        self.rows.append(row)
        genotype = self.genotype(architecture)
        row["genotype"] = genotype.hash
        self.folder.save_genotype(genotype, row["stage"] - 1, row["epoch"] - 1)
        self.folder.write_rows(self.rows)
        logger.info(
            "stage %d epoch %d: loss %.3f, valid loss %.3f, token error rate %.1f %%, "
            "entropy %.3f of %.3f, %.0f s",
            row["stage"],
            row["epoch"],
            row["train_loss"],
            row["valid_loss"],
            row["valid_ter"],
            sum(row["entropy"].values()) / len(row["entropy"]),
            row["uniform_entropy"],
            row["seconds"],
        )
        if self.board is not None:
            for name in ("train_loss", "architecture_loss", "valid_loss", "valid_ter", "dropout"):
                if row[name] is not None:
                    self.board.add_scalar(name, row[name], len(self.rows))
            self.board.add_scalars("entropy", row["entropy"], len(self.rows))
            self.board.flush()

    def genotype(self, architecture: CellArchitecture) -> Genotype:
        """Return the architecture with its provenance."""
        last = self.rows[-1] if self.rows else {}
        provenance = {
            "kind": "search",
            "strategy": self.config.strategy,
            "config": self.run["config"],
            "seed": self.run["seed"],
            "data": self.run["train"],
            "version": self.run["version"],
            "commit": self.run["commit"],
            "machine": self.run["machine"],
            "stage": last.get("stage"),
            "epoch": last.get("epoch"),
            "validation": {
                "loss": last.get("valid_loss"),
                "token_error_rate": last.get("valid_ter"),
            },
        }
        return Genotype(self.config.name, self.config.space, architecture, provenance)

    def close(self) -> None:
        """Close what is open."""
        if self.board is not None:
            self.board.close()
