"""The loader: what an epoch holds depends on (seed, epoch) and on nothing else."""

from __future__ import annotations

import logging
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from data_samples import kaldi_dir
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nas_encoder.data import (
    AsrLoader,
    FeatureConfig,
    FeatureExtractor,
    LoaderConfig,
    SpecAugment,
    SpecAugmentConfig,
    TokenSet,
    ctc_frames_needed,
    open_cuts,
    select_utterances,
    texts,
)
from nas_encoder.errors import ConfigError, DataError

AUGMENT = SpecAugmentConfig(time_warp_factor=5, frames_mask_size=10)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    rng = random.Random(5)
    seconds = [round(rng.uniform(0.2, 0.9), 3) for _ in range(37)]
    folder = kaldi_dir(
        tmp_path_factory.mktemp("batches"), seconds, ["ab", "b a", "c", "aa"] * 9 + ["x"]
    )
    cuts = open_cuts(folder)
    return SimpleNamespace(
        folder=folder,
        cuts=cuts,
        tokens=TokenSet.build(texts(cuts), kind="char"),
        features=FeatureExtractor.fit(FeatureConfig(), cuts),
    )


@pytest.fixture
def make(data):
    def make_loader(**options):
        options = {"max_cuts": 4, "shuffle": True, "seed": 1, **options}
        return AsrLoader(data.cuts, data.tokens, data.features, LoaderConfig(**options))

    return make_loader


def same(a, b):
    assert a.ids == b.ids and a.texts == b.texts
    for name in ("features", "feature_lengths", "targets", "target_lengths"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name


def all_same(first, second):
    first, second = list(first), list(second)
    assert len(first) == len(second) > 0
    for a, b in zip(first, second, strict=True):
        same(a, b)


def test_a_batch_holds_what_the_data_holds(make, data):
    by_id = {cut.id: cut for cut in data.cuts}
    seen = []
    loader = make()
    batches = list(loader)
    assert len(batches) == len(loader)
    for batch in batches:
        seen += batch.ids
        assert len(batch) == len(batch.ids) <= 4
        assert batch.features.dtype == torch.float32
        assert batch.targets.dtype == batch.feature_lengths.dtype == torch.int64
        assert batch.target_lengths.dtype == torch.int64
        for row, key in enumerate(batch.ids):
            length = int(batch.feature_lengths[row])
            want = data.features.extract(by_id[key])
            assert torch.equal(batch.features[row, :length], want)
            assert not batch.features[row, length:].any()
            count = int(batch.target_lengths[row])
            assert data.tokens.decode(batch.targets[row, :count].tolist()) == batch.texts[row]
            assert not batch.targets[row, count:].any()
            assert batch.texts[row] == by_id[key].supervisions[0].text
    assert sorted(seen) == sorted(by_id)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    seed=st.integers(0, 5),
    epoch=st.integers(0, 4),
    max_cuts=st.none() | st.integers(1, 12),
    max_frames=st.none() | st.integers(90, 800),
    shuffle=st.booleans(),
    world_size=st.integers(1, 4),
    num_buckets=st.integers(1, 5),
)
def test_plans(make, seed, epoch, max_cuts, max_frames, shuffle, world_size, num_buckets):
    if max_cuts is None and max_frames is None:
        max_cuts = 3
    options = dict(
        seed=seed,
        max_cuts=max_cuts,
        max_frames=max_frames,
        shuffle=shuffle,
        world_size=world_size,
        num_buckets=num_buckets,
        cache=False,
    )
    ranks = [make(rank=rank, **options) for rank in range(world_size)]
    plans = [loader.plan(epoch) for loader in ranks]
    frames = ranks[0]._frames
    assert len({len(plan) for plan in plans}) == 1, "ranks differ in number of batches"
    placed = [index for plan in plans for batch in plan for index in batch]
    assert set(placed) == set(range(37))
    for batch in (batch for plan in plans for batch in plan):
        assert batch
        assert max_cuts is None or len(batch) <= max_cuts
        assert max_frames is None or len(batch) * max(frames[i] for i in batch) <= max_frames
    if world_size == 1:
        assert len(placed) == 37
    # History does not matter, and a fresh loader plans the same.
    ranks[0].plan(epoch + 1)
    ranks[0].plan(0)
    assert ranks[0].plan(epoch) == plans[0] == make(rank=0, **options).plan(epoch)
    assert ranks[0].num_batches(epoch) == len(plans[0])


@pytest.mark.parametrize("world_size", [2, 3])
def test_parts_of_a_batch_are_together_what_one_process_gets(make, world_size):
    """Utterances, features, masks of the augmentation: all as without ranks."""
    options = {"max_cuts": 4, "shuffle": True, "seed": 3, "spec_augment": SpecAugmentConfig()}
    whole = make(**options)
    parts = [
        make(rank=rank, world_size=world_size, split=True, **options) for rank in range(world_size)
    ]
    small = 0
    assert {len(part) for part in parts} == {len(whole)}
    for batch, *shares in zip(whole, *parts, strict=True):
        if len(batch) < world_size:
            small += 1
            assert all(share.ids == batch.ids and share.size == len(batch) for share in shares)
            continue
        rows = {id_: row for row, id_ in enumerate(batch.ids)}
        assert sorted(id_ for share in shares for id_ in share.ids) == sorted(batch.ids)
        for share in shares:
            assert share.size == batch.size == len(batch)
            assert abs(len(share) - len(batch) / world_size) < 1
            for row, id_ in enumerate(share.ids):
                length = int(share.feature_lengths[row])
                assert length == int(batch.feature_lengths[rows[id_]])
                assert torch.equal(share.features[row, :length], batch.features[rows[id_], :length])
    assert small < len(whole)


def test_epochs_and_seeds_differ(make):
    plans = [make(seed=seed).plan(epoch) for seed in range(3) for epoch in range(3)]
    assert all(a != b for i, a in enumerate(plans) for b in plans[:i])
    # Also the same buckets hold different batches.
    groups = {tuple(sorted(tuple(sorted(b)) for b in plan)) for plan in plans}
    assert len(groups) == len(plans)


def test_without_shuffling_every_epoch_is_the_same_longest_first(make):
    loader = make(shuffle=False)
    assert loader.plan(0) == loader.plan(3) == make(shuffle=False, seed=9).plan(1)
    lengths = [loader._frames[index] for batch in loader.plan(0) for index in batch]
    assert lengths == sorted(lengths, reverse=True)


def test_shuffled_batches_hold_similar_lengths(make):
    loader = make(num_buckets=2, max_cuts=4)
    padded = sum(len(b) * max(loader._frames[i] for i in b) for b in loader.plan(0))
    one = make(num_buckets=1, max_cuts=4)
    unsorted = sum(len(b) * max(one._frames[i] for i in b) for b in one.plan(0))
    assert padded < unsorted


@pytest.mark.slow
@pytest.mark.parametrize("spec_augment", [None, AUGMENT])
def test_workers_cache_history_and_global_generators_do_not_matter(make, spec_augment):
    reference = make(spec_augment=spec_augment, cache=False)
    reference.set_epoch(2)
    want = list(reference)
    for options in ({"num_workers": 2}, {"num_workers": 1, "cache_bytes": 60_000}, {}):
        loader = make(spec_augment=spec_augment, **options)
        for epoch in (0, 2, 1, 2):  # the second time from the cache
            loader.set_epoch(epoch)
            random.random(), np.random.rand(), torch.rand(1)
            if epoch == 2:
                all_same(loader, want)
            else:
                assert len(list(loader)) == len(loader)


def test_iterating_leaves_the_global_generators_alone(make):
    for workers in (0, 1):
        loader = make(spec_augment=AUGMENT, num_workers=workers)
        before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
        list(loader)
        after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
        assert before[:2] == after[:2] and torch.equal(before[2], after[2])


def test_resume_in_mid_epoch_reads_no_audio_of_earlier_batches(make, data, monkeypatch):
    loader = make(spec_augment=AUGMENT)
    loader.set_epoch(1)
    whole = list(loader)
    fresh = make(spec_augment=AUGMENT)
    fresh.set_epoch(1)
    read = []
    extract = FeatureExtractor.extract
    monkeypatch.setattr(
        FeatureExtractor, "extract", lambda self, cut: (read.append(cut.id), extract(self, cut))[1]
    )
    for start in (3, len(whole) - 1):
        read.clear()
        all_same(fresh.iterate(start=start), whole[start:])
        assert set(read) <= {key for batch in whole[start:] for key in batch.ids}
    assert list(fresh.iterate(start=len(whole))) == []
    with pytest.raises(ConfigError, match="start: must be 0 to"):
        fresh.iterate(start=len(whole) + 1)


def test_the_cache_is_used_and_bounded(make, data, monkeypatch):
    count = []
    extract = FeatureExtractor.extract
    monkeypatch.setattr(
        FeatureExtractor, "extract", lambda self, cut: (count.append(cut.id), extract(self, cut))[1]
    )
    loader = make()
    list(loader), list(loader)
    assert len(count) == 37
    count.clear()
    bounded = make(cache_bytes=4 * 40 * 500)
    assert bounded._cache.num_bytes <= 4 * 40 * 500
    assert 0 < bounded._cache.num_places < 37
    list(bounded), list(bounded)
    assert len(count) == 37 + 37 - bounded._cache.num_places
    count.clear()
    uncached = make(cache=False)
    list(uncached), list(uncached)
    assert len(count) == 74


def test_workers_share_the_cache(make):
    loader = make(num_workers=2)
    list(loader)
    assert all(loader._cache.get(index) is not None for index in range(37))


def test_spec_augment_masks_valid_frames_only_and_repeats():
    augment = SpecAugment(SpecAugmentConfig(), 40)
    features = torch.randn(3, 100, 40)
    lengths = torch.tensor([100, 60, 2])
    masked = augment(features, lengths, seed=4)
    assert not torch.equal(masked[0], features[0]) and not torch.equal(masked[1], features[1])
    assert torch.equal(masked[1, 60:], features[1, 60:])
    assert torch.equal(masked[2], features[2]), "too short for a mask, and padding"
    assert torch.equal(masked, augment(features, lengths, seed=4))
    assert not torch.equal(masked, augment(features, lengths, seed=5))
    with pytest.raises(ConfigError) as caught:
        SpecAugment(SpecAugmentConfig(num_frame_masks=0, features_mask_size=41, p=2), 40)
    assert len(caught.value.problems) == 3


@settings(max_examples=60, deadline=None)
@given(
    length=st.integers(1, 60),
    masks=st.integers(1, 4),
    size=st.integers(1, 40),
    fraction=st.floats(0.01, 1.0),
    warp=st.integers(0, 10),
)
def test_spec_augment_takes_any_length(length, masks, size, fraction, warp):
    config = SpecAugmentConfig(
        time_warp_factor=warp,
        num_frame_masks=masks,
        frames_mask_size=size,
        max_frames_mask_fraction=fraction,
    )
    features = torch.randn(1, length, 8)
    masked = SpecAugment(config, 8)(features, torch.tensor([length]), seed=0)
    assert masked.shape == features.shape and torch.isfinite(masked).all()


def test_length_limits_and_infeasible_utterances_are_counted(make, caplog):
    with caplog.at_level(logging.WARNING):
        loader = make(min_length=30, max_length=80, subsampling_factor=20)
    frames = make()._frames
    assert len(loader.selection.too_short) == sum(f < 30 for f in frames) > 0
    assert len(loader.selection.too_long) == sum(f > 80 for f in frames) > 0
    assert len(loader.selection.infeasible) > 0
    assert loader.selection.total == 37
    assert f"{len(loader.selection.infeasible)} CTC-infeasible" in caplog.text
    with pytest.raises(DataError, match="no usable utterance among 37 .37 too short."):
        make(min_length=1000)
    with pytest.raises(DataError, match="more tokens .* than output frames"):
        make(subsampling_factor=80)


@given(st.lists(st.integers(1, 3), max_size=12))
def test_ctc_frames_needed_is_the_shortest_alignment(ids):
    path = []
    for token in ids:
        path += [0, token] if path and path[-1] == token else [token]
    assert ctc_frames_needed(ids) == len(path)


def test_feasible_utterances_have_a_finite_ctc_loss_and_others_not():
    ids = [1, 1, 2, 2, 2, 1]  # needs 9 frames
    for frames in (33, 36):
        kept = select_utterances([frames], [ids], subsampling_factor=4).kept
        logits = torch.zeros(-(-frames // 4), 1, 3).log_softmax(-1)
        loss = torch.nn.functional.ctc_loss(
            logits, torch.tensor([ids]), torch.tensor([len(logits)]), torch.tensor([len(ids)])
        )
        assert bool(kept) == bool(torch.isfinite(loss))
    assert not select_utterances([32], [ids], subsampling_factor=4).kept
    logits = torch.zeros(8, 1, 3).log_softmax(-1)
    assert torch.isinf(
        torch.nn.functional.ctc_loss(
            logits, torch.tensor([ids]), torch.tensor([8]), torch.tensor([6])
        )
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_broken_audio_is_our_error_with_the_utterance(data, tmp_path, workers):
    folder = kaldi_dir(tmp_path, [0.5] * 3)
    cuts = open_cuts(folder)
    (folder / "wav" / "spk00-u001.wav").unlink()
    features = FeatureExtractor(FeatureConfig(normalization="none"))
    loader = AsrLoader(cuts, data.tokens, features, LoaderConfig(max_cuts=2, num_workers=workers))
    with pytest.raises(DataError, match="'spk00-u001': its audio .* cannot be read"):
        list(loader)


def test_unknown_tokens_and_long_utterances_stop_at_once(data):
    tokens = TokenSet.build(["ab c"], kind="char")
    with pytest.raises(DataError, match="1 of 73 .* 'x' .1, first in 'spk18-u036'"):
        AsrLoader(data.cuts, tokens, data.features, LoaderConfig(max_cuts=2))
    with pytest.raises(DataError, match="by itself has .* frames, a batch may have max_frames=50"):
        AsrLoader(data.cuts, data.tokens, data.features, LoaderConfig(max_frames=50))


def test_all_wrong_arguments_come_at_once(make):
    with pytest.raises(ConfigError) as caught:
        make(max_cuts=0, seed=-1, rank=2, world_size=2, num_workers=-1, cache_bytes=-1)
    assert len(caught.value.problems) == 5
    with pytest.raises(ConfigError, match="max_cuts: must be given where max_frames is not"):
        make(max_cuts=None)
    with pytest.raises(ConfigError, match="epoch: must be 0 or more"):
        make().set_epoch(-1)


def test_moving_a_batch_keeps_everything(make):
    batch = next(iter(make()))
    moved = batch.to("cpu")
    same(batch, moved)
    assert batch.to("meta").features.device.type == "meta"
