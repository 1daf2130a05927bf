"""The searches, tables and networks that make_artefacts.py makes, as small as they can be."""

from __future__ import annotations

from typing import Any

SEED = 3
DATA = ["--train", "data/train", "--valid", "data/valid"]

CELLS = {"layers": 3, "channels": 2, "operations": 8, "epochs": 1, "warmup_epochs": 0}
EDGES = {**CELLS, "operations": 7}
CHAIN = {"layers": 6, "channels": 8, "operations": 4, "epochs": 1, "warmup_epochs": 0}
NODES = {"layers": 4, "channels": 6, "operations": 6, "epochs": 1, "warmup_epochs": 0}
# With fewer channels, oneDNN can fail on what merged operations of this space need.
DARTS_CELLS, DARTS_EDGES = {**CELLS, "channels": 4}, {**EDGES, "channels": 4}
RETRAIN = {"phase": "retrain", "layers": 3, "channels": 2, "epochs": 1}
STOP = {"min_epochs": 0, "patience": 2, "min_gain": 0.0, "decays": 1}
BUDGET = {"layers": 3, "channels": 4, "seconds": 1.0}
LATENCIES = "gradient/latency.yaml"
MEASURE = (
    "bench --operations --space darts --layers 3 --channels 4 --input-size 12 --output-size 8 "
    f"--stem-stride 1 2 --frames 100 --seconds 0.001 --repeats 3 --checks 1 --output {LATENCIES}"
)
ADAM = {"optimizer": "adam", "lr": 0.005, "weight_decay": 0.0}
SGD = {"optimizer": "sgd", "lr": 0.02}


def pruned(stage: dict[str, Any], **last: Any) -> list[dict[str, Any]]:
    """Two stages of P-DARTS."""
    return [stage, {**stage, "operations": 2, "epochs": 2, **last}]


def phases(stage: dict[str, Any]) -> list[dict[str, Any]]:
    """The stages of ST-NAS."""
    return [
        {**stage, "phase": "warmup"},
        {**stage, "phase": "search", "epochs": 2, "stop": STOP},
        {**stage, **RETRAIN, "layers": stage["layers"], "stop": {**STOP, "patience": 1}},
    ]


# name -> (what differs from GRADIENT, after how many checkpoints the process is killed).
# An epoch has a checkpoint after each of its two steps and one at its end. Most searches of cells
# end with a small network of their own, and have plain SGD, so that their checkpoints are small.
GRADIENT_CASES: dict[str, tuple[dict[str, Any], int]] = {
    "pdarts_cells": ({"stages": pruned(CELLS), "weights": ADAM}, 4),
    "pdarts_cells_learned": (
        {
            "space": "darts",
            "edges": "learned",
            "stages": [*pruned(DARTS_EDGES), RETRAIN],
            "objective": {**BUDGET, "macs": 3_000_000},
        },
        4,
    ),
    "pdarts_cells_drawn": ({"edges": "drawn", "stages": [*pruned(EDGES), RETRAIN]}, 4),
    "darts_cells": (
        {
            "strategy": "darts",
            "space": "darts",
            "stages": [{**DARTS_CELLS, "epochs": 2}, RETRAIN],
            "objective": {**BUDGET, "latency_ms": 1000, "table": LATENCIES},
        },
        4,
    ),
    "darts_cells_second": (
        {"strategy": "darts", "order": "second", "stages": [CELLS, RETRAIN], "weights": SGD},
        1,
    ),
    "darts_cells_second_learned": (
        {
            "strategy": "darts",
            "order": "second",
            "edges": "learned",
            "stages": [EDGES, RETRAIN],
            "weights": SGD,
        },
        1,
    ),
    "darts_cells_drawn": ({"strategy": "darts", "edges": "drawn", "stages": [EDGES, RETRAIN]}, 1),
    "stnas_cells": ({"strategy": "stnas", "paths": 2, "stages": phases(CELLS)}, 7),
    "stnas_cells_learned": (
        {"strategy": "stnas", "edges": "learned", "stages": phases(EDGES)},
        7,
    ),
    "pdarts_chain": (
        {"space": "tdnn_chain", "stages": pruned(CHAIN), "weights": ADAM},
        4,
    ),
    "darts_chain_second": (
        {
            "strategy": "darts",
            "order": "second",
            "space": "tdnn_chain",
            "weights": SGD,
            "stages": [{**CHAIN, "epochs": 2}],
        },
        4,
    ),
    "stnas_chain": (
        {"strategy": "stnas", "space": "tdnn_chain", "stages": phases(CHAIN), "weights": ADAM},
        7,
    ),
    "pdarts_nodes": ({"space": "nasbench_asr", "stages": pruned(NODES, layers=5)}, 4),
    "darts_nodes": (
        {
            "strategy": "darts",
            "space": "nasbench_asr",
            "stages": [{**NODES, "epochs": 2}],
        },
        4,
    ),
    "stnas_nodes": ({"strategy": "stnas", "space": "nasbench_asr", "stages": phases(NODES)}, 7),
    "seeds_chain": (
        {
            "strategy": "darts",
            "space": "tdnn_chain",
            "seeds": [4, 5],
            "selection": {"epochs": 1},
            "stages": [CHAIN],
        },
        10,
    ),
}

FEATURES = {"num_mel_bins": 12, "sampling_rate": 8000}
GRADIENT: dict[str, Any] = {
    "strategy": "pdarts",
    "space": "asr_revised",
    # Statistics of each utterance alone: those of the training data would have to be the same to
    # the last bit where the search goes on, which another processor does not grant.
    "features": {**FEATURES, "normalization": "utterance"},
    "augment": {"frames_mask_size": 8, "features_mask_size": 2},
    "weights": {**SGD, "momentum": 0.0},
    "architecture": {"lr": 0.1},
    "batch": {"max_utterances": 2},
    "trainer": {"checkpoint_minutes": 0, "score_utterances": 4, "accelerator": "cpu"},
}


def gradient_document(name: str) -> dict[str, Any]:
    document = {**GRADIENT, "name": name, **GRADIENT_CASES[name][0]}
    cells = document["space"] in ("asr_revised", "darts")
    document["network"] = {"output_size": 8} | ({"stem_stride": [1, 2]} if cells else {})
    return document


TRIALS: dict[str, Any] = {
    "features": FEATURES,
    "training": {"epochs": 2, "lr": 0.01},
    "batch": {"max_utterances": 4},
    "trainer": {"accelerator": "cpu", "score_utterances": 4},
    "trials": {"count": 5},
    "evolution": {"population": 3, "sample": 2},
    "measure": {"seconds": 0.5},
}
LOOKUP: dict[str, Any] = {"training": {"epochs": None}, "trials": {"count": 12}}

# What differs from TRIALS. The process is killed in its fourth trial, after an epoch.
TRIALS_CASES: dict[str, dict[str, Any]] = {
    "random_cells": {
        "strategy": "random",
        "space": "asr_revised",
        "network": {"layers": 3, "channels": 4, "output_size": 8, "stem_stride": [2, 2]},
    },
    "evolution_chain": {
        "strategy": "evolution",
        "space": "tdnn_chain",
        "network": {"channels": 8, "output_size": 8},
    },
    "nsga2_chain": {
        "strategy": "nsga2",
        "space": "tdnn_chain",
        "network": {"channels": 8, "output_size": 8},
        "objectives": ["error", "parameters"],
    },
    "hyperband_nodes": {
        "strategy": "hyperband",
        "space": "nasbench_asr",
        "network": {"channels": 6, "output_size": 8, "block_cells": [1, 0, 1, 1]},
        "training": {"epochs": 3, "lr": 0.01},
        "pruning": {"min_epochs": 1, "factor": 2},
    },
    "tpe_lookup": {
        "strategy": "tpe",
        "space": "nasbench_asr",
        "table": {"source": "synth_timit"},
        **LOOKUP,
    },
    "asha_lookup": {
        "strategy": "random",
        "space": "nasbench_asr",
        "table": {"source": "synth_timit", "seed": 1234},
        "pruning": {"kind": "asha", "min_epochs": 1, "factor": 2},
        **LOOKUP,
    },
    "evolution_lookup": {
        "strategy": "evolution",
        "space": "nasbench_asr",
        "table": {"source": "synth_timit"},
        **LOOKUP,
    },
    "nsga2_lookup": {
        "strategy": "nsga2",
        "space": "nasbench_asr",
        "table": {"source": "synth_timit"},
        "objectives": ["error", "macs"],
        **LOOKUP,
    },
}


def trials_document(name: str) -> dict[str, Any]:
    return {**TRIALS, "name": name, **TRIALS_CASES[name]}


TABLE: dict[str, Any] = {
    "name": "quick",
    "space": "nasbench_asr",
    "architectures": {"kind": "sample", "count": 3, "seed": 2},
    "network": {"channels": 6, "output_size": 8, "block_cells": [0, 0, 0, 1], "dropout": 0.1},
    "features": {**FEATURES, "normalization": "utterance"},
    "tokens": "char",
    "beam": 2,
    "recipe": {
        "epochs": [1, 2],
        "seeds": [3],
        "batch": 4,
        "lr": 0.01,
        "warm_up": [1.0],
        "l2": 0.0001,
    },
    "latency": {"frames": 40, "repeats": 2},
    "device": "cpu",
}

CHAIN_GENOTYPE: dict[str, Any] = {
    "schema": 1,
    "name": "chain",
    "space": "tdnn_chain",
    "blocks": [f"tdnn_c{context}_d{dilation}" for context in (1, 2) for dilation in (1, 2, 1)],
    "provenance": {"kind": "handwritten", "source": "made for a test"},
}

# name -> (genotype, options of build_encoder but the input size)
BINS = 10
ENCODERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "darts": ("darts_v2", {"channels": 4, "layers": 5, "output_size": 6, "stem_stride": (1, 2)}),
    "darts_head": (
        "darts_v2",
        {"channels": 2, "layers": 3, "output_size": 6, "hidden_sizes": (7,), "deltas": False},
    ),
    "asr_revised_a": ("asrnet_a", {"channels": 2, "layers": 3, "output_size": 6, "dropout": 0.2}),
    "asr_revised_b": (
        "asrnet_b",
        {"channels": 2, "layers": 3, "output_size": 6, "stem_stride": (2, 2), "drop_path": 0.2},
    ),
    "nasbench_asr": (
        "nasbench_asr_example",
        {"channels": 6, "block_cells": (1, 1, 1, 2), "lstm_size": 3, "output_size": 6},
    ),
    "nasbench_asr_no_lstm": (
        "nasbench_asr_example",
        {"channels": 6, "block_cells": (0, 1, 0, 1), "lstm_size": 0, "output_size": 6},
    ),
    "tdnn_chain": (CHAIN_GENOTYPE, {"channels": 4, "output_size": 6}),
    "tdnn_chain_plain": (CHAIN_GENOTYPE, {"channels": 3, "output_size": 6, "deltas": False}),
}
SAN: dict[str, Any] = {"blocks": 3, "attention_layers": 1, "hidden_size": 12, "attention_heads": 2}
BASELINES: dict[str, dict[str, Any]] = {
    "dfsmn_san": {**SAN, "output_size": 6},
    "dfsmn_san_memory": {
        **SAN,
        "output_size": 6,
        "persistent_memory": 4,
        "subsampling_factor": 6,
        "look_ahead": [1, 0, 2],
    },
}

# name -> (registered name in ESPnet, class in NeMo, options of both but the widths)
TOOLKITS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "cells": ("nas", "NASEncoder", {"genotype": "darts_v2", "channels": 4, "layers": 3}),
    "chain": ("nas", "NASEncoder", {"genotype": CHAIN_GENOTYPE, "channels": 6}),
    "nodes": (
        "nas",
        "NASEncoder",
        {
            "genotype": "nasbench_asr_example",
            "channels": 6,
            "lstm_size": 3,
            "block_cells": [0, 1, 0, 1],
        },
    ),
    "dfsmn_san": ("dfsmn_san", "DFSMNSANEncoder", SAN),
}
# InterCTC in ESPnet, so that its conditioning layer is in a checkpoint too.
ESPNET_MORE = {"chain": {"interctc_layer_idx": [4], "interctc_use_conditioning": True}}
TOKENS = ["<blank>", "<unk>", "<space>", "a", "b", "c", "d", "<sos/eos>"]
LETTERS = [" ", "a", "b", "c", "d"]
