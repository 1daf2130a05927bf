"""The network of a search's stage, by its space: its options, and their rules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nas_encoder.common.problems import Problems, show
from nas_encoder.search.config.sections import StageConfig
from nas_encoder.spaces import get_space, list_spaces
from nas_encoder.spaces.cells.config import EncoderConfig
from nas_encoder.spaces.cells.space import CellSpace
from nas_encoder.spaces.nasbench_asr.config import NasBenchConfig, spread_cells
from nas_encoder.spaces.nasbench_asr.space import NasBenchSpace
from nas_encoder.spaces.tdnn_chain.config import ChainConfig
from nas_encoder.spaces.tdnn_chain.space import ChainSpace

if TYPE_CHECKING:
    from nas_encoder.search.config.gradient import SearchConfig

Network = EncoderConfig | ChainConfig | NasBenchConfig


def searchable_spaces() -> list[str]:
    """Return the names of the spaces that have a supernet."""
    kinds = (CellSpace, ChainSpace, NasBenchSpace)
    return [name for name in list_spaces() if isinstance(get_space(name), kinds)]


def network_of(config: SearchConfig, stage: StageConfig) -> Network:
    """Return the options that a stage's supernet shares with an evaluation network."""
    space = get_space(config.space) if config.space in searchable_spaces() else None
    network = config.network
    common: dict[str, Any] = {
        "input_size": config.features.num_mel_bins,
        "channels": stage.channels,
        "output_size": network.output_size,
        "deltas": network.deltas,
    }
    if isinstance(space, ChainSpace):
        return ChainConfig(**common, dropout=stage.dropout)
    if isinstance(space, NasBenchSpace):
        return NasBenchConfig(
            **common,
            dropout=stage.dropout,
            lstm_size=network.lstm_size,
            block_cells=network.block_cells or spread_cells(stage.layers),
        )
    return EncoderConfig(
        **common,
        layers=stage.layers,
        stem_stride=network.stem_stride,
        hidden_sizes=network.hidden_sizes,
        dropout=stage.dropout if stage.phase == "retrain" else 0.0,
    )


def check_network(config: SearchConfig, index: int, problems: Problems) -> None:
    """Check the network of the stage at ``index``; what all stages share, with the first."""
    stage = config.stages[index]
    where = f"stages[{index}]"
    network = config.encoder_config(stage)
    if isinstance(network, ChainConfig):
        space = get_space(config.space)
        assert isinstance(space, ChainSpace)
        lines = network.problems(space.blocks)
        problems.integer(stage.layers, f"{where}.layers", space.blocks, space.blocks)
        without = {"stem_stride": (1, 1), "hidden_sizes": (), "lstm_size": 0, "block_cells": ()}
    elif isinstance(network, NasBenchConfig):
        lines = network.problems()
        _check_cells(config, stage, where, problems)
        without = {"stem_stride": (1, 1), "hidden_sizes": ()}
    else:
        lines = network.problems()
        if stage.layers == 2:
            problems.add(f"{where}.layers", "must be at least 3: of 2, both are reductions")
        without = {"lstm_size": 0, "block_cells": ()}
    if not index:
        for name, off in without.items():
            value = getattr(config.network, name)
            if value != off:
                shown, wanted = (show(list(v) if isinstance(v, tuple) else v) for v in (value, off))
                problems.add(
                    f"network.{name}",
                    f"must be {wanted}: networks of the space '{config.space}' have no such part, "
                    f"got {shown}",
                )
    for line in lines:
        if line.startswith(("layers:", "channels:")):
            problems.lines.append(f"{where}.{line}")
        elif line.startswith("dropout:"):
            continue  # the stage's own check has it
        elif not index and not line.startswith("input_size:"):  # features has that one
            problems.lines.append(f"network.{line}")


def _check_cells(config: SearchConfig, stage: StageConfig, where: str, problems: Problems) -> None:
    given = config.network.block_cells
    if not given:
        problems.integer(stage.layers, f"{where}.layers", 1, 1024)
    elif isinstance(given, tuple) and all(isinstance(count, int) for count in given):
        cells = max(1, sum(given))
        problems.integer(
            stage.layers,
            f"{where}.layers",
            cells,
            cells,
            " (the sum of network.block_cells, which must have a cell)",
        )
