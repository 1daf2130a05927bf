"""The zoo: published sizes, honest labels, hashes that do not move."""

from __future__ import annotations

from math import ceil
from typing import Any

import pytest
import torch
from encoder_samples import EVERY

from nas_encoder import build_encoder, load_genotype
from nas_encoder.common.documents import read_yaml
from nas_encoder.errors import GenotypeError
from nas_encoder.genotype.catalog import ZOO as FOLDER
from nas_encoder.network.complexity import count_parameters
from nas_encoder.spaces import get_space

CLASSES = 1434
PUBLISHED = [  # He et al. 2020, tables 1 to 3: layers, channels, millions of parameters
    ("asrnet_a", 17, 32, 6.6),
    ("asrnet_a", 32, 38, 12.1),
    ("asrnet_b", 17, 24, 6.8),
    ("asrnet_b", 32, 30, 14.7),
    ("asrnet_b", 32, 50, 36.7),
]


def parameters(name: str, layers: int, channels: int, **options: int) -> int:
    with torch.device("meta"):
        module = build_encoder(name, input_size=40, channels=channels, layers=layers, **options)
    return count_parameters(module)


@pytest.mark.parametrize(("name", "layers", "channels", "millions"), PUBLISHED)
def test_parameters_are_those_of_the_paper(
    name: str, layers: int, channels: int, millions: float
) -> None:
    with_classes = parameters(name, layers, channels) + 513 * CLASSES
    assert with_classes / 1e6 == pytest.approx(millions, abs=0.1)


def weights_by_hand(name: str, layers: int, channels: int, pair: str) -> int:
    """Count by formulas alone; ``pair``: what a 1x7-7x1 operation is taken for."""
    architecture = load_genotype(name).architecture
    norm = 2  # scale and shift of a channel

    def operation(op: str, c: int) -> int:
        kind, size = op.rsplit("_", 1)
        if op == "conv_7x1_1x7":
            return (14 * c * c if pair == "full" else 14 * c) + norm * c
        if kind == "sep_conv":
            return 2 * (int(size[0]) ** 2 * c + c * c + norm * c)
        if kind == "dil_conv":
            return int(size[0]) ** 2 * c + c * c + norm * c
        assert kind in ("max_pool", "avg_pool")
        return 0

    total = 3 * 9 * 3 * channels + norm * 3 * channels
    before = previous = 3 * channels
    c = channels
    for index in range(layers):
        reduction = index in (layers // 3, 2 * layers // 3)
        c *= 2 if reduction else 1
        cell = architecture.reduction if reduction else architecture.normal
        total += (before + previous) * c + 2 * norm * c
        total += sum(operation(edge.op, c) for edge in cell.edges)
        before, previous = previous, 4 * c
    return total + previous * ceil(40 / 4) * 512 + 512 + 513 * CLASSES


@pytest.mark.parametrize(("name", "layers", "channels", "millions"), PUBLISHED)
def test_parameters_are_those_counted_by_hand(
    name: str, layers: int, channels: int, millions: float
) -> None:
    by_hand = weights_by_hand(name, layers, channels, "full")
    assert parameters(name, layers, channels) + 513 * CLASSES == by_hand


def test_a_depthwise_pair_cannot_give_the_published_sizes() -> None:
    """Why conv_7x1_1x7 is two full convolutions: otherwise B would be far too small."""
    for name, layers, channels, millions in PUBLISHED:
        if name == "asrnet_b":
            assert weights_by_hand(name, layers, channels, "depthwise") / 1e6 < millions - 0.5


def test_a_direct_output_layer_cannot_give_the_published_size_of_a() -> None:
    direct = 16 * 32 * 10 * CLASSES
    assert direct / 1e6 > 6.6


@pytest.mark.parametrize("name", EVERY)
def test_every_genotype_is_valid_labelled_and_built(name: str) -> None:
    genotype = load_genotype(name)
    assert genotype.name == name
    get_space(genotype.space).validate(genotype)
    assert genotype.to_dict() == read_yaml(FOLDER / f"{name}.yaml")
    assert genotype.provenance["kind"] in ("search", "published", "reconstruction")
    assert genotype.provenance["source"] if genotype.provenance["kind"] != "search" else True
    encoder: Any = build_encoder(name, 8, 2, 3, 4)
    y, lengths = encoder(torch.randn(1, 33, 8), torch.tensor([33]))
    assert y.shape == (1, int(lengths), 4)
    # A front end without padding gives a few frames less than ceil(T / S).
    assert 0 <= -(-33 // encoder.subsampling_factor) - int(lengths) <= 2


@pytest.mark.parametrize("name", ["asrnet_a", "asrnet_b"])
def test_reconstructions_say_so(name: str) -> None:
    provenance = load_genotype(name).provenance
    assert provenance["kind"] == "reconstruction"
    assert "not the published cells" in provenance["note"]


def test_the_darts_cells_are_those_that_the_paper_prints() -> None:
    """Figures 4 and 5 of DARTS: op and source of each edge."""
    cells = load_genotype("darts_v2").architecture
    normal = [[(edge.op, edge.source) for edge in node] for node in cells.normal.nodes]
    reduction = [[(edge.op, edge.source) for edge in node] for node in cells.reduction.nodes]
    sep, skip, dil, pool = "sep_conv_3x3", "skip_connect", "dil_conv_3x3", "max_pool_3x3"
    assert normal == [
        [(sep, 0), (sep, 1)],
        [(sep, 0), (sep, 1)],
        [(sep, 1), (skip, 0)],
        [(skip, 0), (dil, 2)],
    ]
    assert reduction == [
        [(pool, 0), (pool, 1)],
        [(skip, 2), (pool, 1)],
        [(pool, 0), (skip, 2)],
        [(skip, 2), (pool, 1)],
    ]
    assert cells.normal.concat == cells.reduction.concat == (2, 3, 4, 5)


def test_reconstructions_have_the_operations_of_a_family_that_fits() -> None:
    """The families come from scanning all multisets of operations against the five counts."""

    def counts(name: str, kind: str) -> list[int]:
        cell = getattr(load_genotype(name).architecture, kind)
        prefixes = ("sep_conv", "dil_conv", "conv_7x1", ("max_pool", "avg_pool"))
        return [sum(edge.op.startswith(prefix) for edge in cell.edges) for prefix in prefixes]

    assert counts("asrnet_a", "normal") in ([6, 2, 0, 0], [7, 1, 0, 0], [7, 0, 0, 1])
    assert counts("asrnet_a", "reduction") in (
        [8, 0, 0, 0],
        [7, 1, 0, 0],
        [7, 0, 0, 1],
        [6, 2, 0, 0],
    )
    assert counts("asrnet_b", "normal") in ([0, 4, 3, 1], [1, 2, 3, 2], [2, 0, 3, 3])
    sep, dil, pairs, pools = counts("asrnet_b", "reduction")
    assert pairs in (4, 5) and pools <= 2 and sep + dil + pairs + pools == 8


@pytest.mark.parametrize("name", ["asrnet_c", "asrnet", "", "DARTS_V2"])
def test_an_unknown_name_lists_the_zoo(name: str) -> None:
    with pytest.raises(GenotypeError, match="unknown name .*known: asrnet_a, asrnet_b"):
        load_genotype(name)
