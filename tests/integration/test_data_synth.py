"""From a synthetic corpus to batches, and into ESPnet's and NeMo's own readers."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from data_samples import librispeech

from nas_encoder.cli.main import main
from nas_encoder.data import (
    AsrLoader,
    FeatureConfig,
    FeatureExtractor,
    LoaderConfig,
    PrepareOptions,
    TokenSet,
    check_data,
    open_cuts,
    prepare_corpus,
    texts,
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "inside", "kind"),
    [
        ("librispeech", "LibriSpeech", "char"),
        ("aishell", "", "char"),
        ("aishell", "", "syllable"),
        ("timit", "", "phone"),
    ],
)
def test_from_synthesis_to_batches(repository, tmp_path_factory, layout, inside, kind):
    root = tmp_path_factory.getbasetemp() / f"synth-{layout}"
    if not root.exists():
        command = [sys.executable, repository / "tools" / "synth_corpus.py", "--layout", layout]
        sizes = "--train 12 --dev 4 --test 4 --speakers 3 2 2 --seed 3 --jobs 1".split()
        subprocess.run([*command, "--output", root, *sizes], check=True)
    output = root / "prepared"
    assert main(["data", "prepare", layout, str(root / inside), str(output)]) == 0
    counts = json.loads((output / "prepared.json").read_text())["counts"]
    assert counts["source"] == "synthetic" and counts["problems"] == []
    train = open_cuts(output / "espnet" / "train")
    valid = open_cuts(output / "nemo" / "dev.json")
    assert len(open_cuts(output, split="test")) == 4
    # So little training text lacks some of the tokens of dev.
    tokens = TokenSet.build(texts(train) + texts(valid), kind=kind)
    features = FeatureExtractor.fit(FeatureConfig(), train)
    report = check_data(train, valid, tokens, features)
    assert report.ok and not report.warnings
    assert report.train.used == report.train.utterances >= 12
    assert (report.train.speakers, report.valid.speakers) == (3, 2)
    options = LoaderConfig(max_cuts=4, shuffle=True, seed=1, subsampling_factor=4)
    loader = AsrLoader(train, tokens, features, options)
    seen = []
    for batch in loader:
        seen += batch.ids
        assert torch.isfinite(batch.features).all()
        logits = torch.zeros(-(-batch.features.shape[1] // 4), len(batch), len(tokens))
        loss = torch.nn.functional.ctc_loss(
            logits.log_softmax(-1),
            batch.targets,
            (batch.feature_lengths + 3) // 4,
            batch.target_lengths,
            reduction="none",
        )
        assert torch.isfinite(loss).all()
    assert sorted(seen) == sorted(cut.id for cut in train)


@pytest.fixture
def prepared(tmp_path):
    root = librispeech(tmp_path / "c", ["train-clean-5", "dev-clean-2"])
    prepare_corpus("librispeech", root, tmp_path / "out", PrepareOptions(partial=True))
    return tmp_path / "out"


@pytest.mark.espnet
def test_espnet_reads_the_data_folder(prepared):
    from espnet2.train.dataset import ESPnetDataset

    folder = prepared / "espnet" / "train"
    dataset = ESPnetDataset(
        [(str(folder / "wav.scp"), "speech", "sound"), (str(folder / "text"), "text", "text")],
        preprocess=lambda key, item: {**item, "text": np.array([len(item["text"])])},
    )
    for cut in open_cuts(folder):
        key, item = dataset[cut.id]
        assert key == cut.id
        np.testing.assert_allclose(item["speech"], cut.load_audio()[0], atol=1e-6)
        assert item["text"] == len(cut.supervisions[0].text)


@pytest.mark.slow
@pytest.mark.nemo
@pytest.mark.filterwarnings("ignore")  # importing NeMo gives many, none of them about data
def test_nemo_reads_the_manifest(prepared):
    from nemo.collections.common.parts.preprocessing.manifest import item_iter

    manifest = prepared / "nemo" / "dev.json"
    rows = list(item_iter(str(manifest)))
    cuts = list(open_cuts(manifest))
    assert [row["text"] for row in rows] == texts(cuts)
    assert [row["duration"] for row in rows] == [cut.duration for cut in cuts]
    assert [row["audio_file"] for row in rows] == [c.recording.sources[0].source for c in cuts]


@pytest.mark.slow
@pytest.mark.nemo
@pytest.mark.filterwarnings("ignore")  # importing NeMo gives many, none of them about data
def test_nemos_lhotse_reader_reads_the_manifest(prepared):
    from nemo.collections.common.data.lhotse.nemo_adapters import LazyNeMoIterator

    manifest = prepared / "nemo" / "dev.json"
    got = list(LazyNeMoIterator(str(manifest)))
    want = list(open_cuts(manifest))
    assert [cut.supervisions[0].text for cut in got] == texts(want)
    for mine, theirs in zip(want, got, strict=True):
        np.testing.assert_array_equal(mine.load_audio(), theirs.load_audio())
