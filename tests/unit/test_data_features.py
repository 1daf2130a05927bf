"""Filterbank features: frame counts, normalisation, resampling, bad audio."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import soundfile
import torch
from data_samples import kaldi_dir, write_tone
from lhotse import CutSet

from nas_encoder.data import FeatureConfig, FeatureExtractor, open_cuts
from nas_encoder.errors import ConfigError, DataError

PLAIN = FeatureConfig(normalization="none")


@pytest.fixture
def cuts(tmp_path):
    return open_cuts(kaldi_dir(tmp_path, [0.5, 1.0, 0.73]))


def test_shapes_are_known_before_the_audio_is_read(cuts):
    extractor = FeatureExtractor(PLAIN)
    for cut in cuts:
        features = extractor.extract(cut)
        assert features.shape == (extractor.num_frames(cut), 40)
        assert features.dtype == torch.float32
    assert [extractor.num_frames(cut) for cut in cuts] == [50, 100, 73]


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100])
def test_frame_counts_hold_at_any_rate_and_length_also_resampled(tmp_path, rate):
    rng = random.Random(rate)
    lengths = [rng.randint(1, rate) for _ in range(6)] + [1, rate // 100, rate // 80]
    for number, samples in enumerate(lengths):
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, np.random.default_rng(number).uniform(-0.1, 0.1, samples), rate)
    (tmp_path / "wav.scp").write_text("".join(f"{n} {n}.wav\n" for n in range(len(lengths))))
    (tmp_path / "text").write_text("".join(f"{n} x\n" for n in range(len(lengths))))
    for target in (rate, 16000):
        extractor = FeatureExtractor(FeatureConfig(sampling_rate=target, normalization="none"))
        for cut in open_cuts(tmp_path):
            frames = extractor.num_frames(cut)
            if frames:
                assert extractor.extract(cut).shape == (frames, 40)
            else:
                with pytest.raises(DataError, match="too short for one frame"):
                    extractor.extract(cut)


def test_features_are_those_of_torchaudio(cuts):
    from torchaudio.compliance import kaldi

    extractor = FeatureExtractor(PLAIN)
    for cut in cuts:
        audio = torch.from_numpy(cut.load_audio())
        want = kaldi.fbank(audio, num_mel_bins=40, dither=0.0, snip_edges=False, high_freq=-400.0)
        torch.testing.assert_close(extractor.extract(cut), want, atol=2e-3, rtol=1e-3)


def test_global_normalisation_gives_zero_mean_and_unit_variance(cuts):
    extractor = FeatureExtractor.fit(FeatureConfig(), cuts)
    frames = torch.cat([extractor.extract(cut) for cut in cuts])
    torch.testing.assert_close(frames.mean(0), torch.zeros(40), atol=1e-4, rtol=0)
    torch.testing.assert_close(frames.std(0, unbiased=False), torch.ones(40), atol=1e-3, rtol=0)
    assert extractor.cmvn.frames == 223 and extractor.cmvn.utterances == 3


def test_utterance_normalisation(cuts):
    extractor = FeatureExtractor.fit(FeatureConfig(normalization="utterance"), cuts)
    for cut in cuts:
        features = extractor.extract(cut)
        torch.testing.assert_close(features.mean(0), torch.zeros(40), atol=1e-4, rtol=0)
        torch.testing.assert_close(
            features.std(0, unbiased=False), torch.ones(40), atol=1e-3, rtol=0
        )


def test_digital_silence_stays_finite(tmp_path):
    soundfile.write(tmp_path / "s.wav", np.zeros(16000), 16000)
    (tmp_path / "wav.scp").write_text("s s.wav\n")
    (tmp_path / "text").write_text("s x\n")
    cuts = open_cuts(tmp_path)
    for mode in ("global", "utterance"):
        extractor = FeatureExtractor.fit(FeatureConfig(normalization=mode), cuts)
        assert torch.isfinite(extractor.extract(next(iter(cuts)))).all()


def test_the_sample_for_statistics_depends_on_the_seed_alone(cuts):
    def fit(seed):
        random.random()
        return FeatureExtractor.fit(FeatureConfig(), cuts, max_utterances=1, seed=seed).cmvn

    assert fit(1) == fit(1)
    assert len({fit(seed).mean for seed in range(8)}) == 3
    assert fit(0).utterances == 1


def test_dither_is_repeatable_per_utterance(cuts):
    extractor = FeatureExtractor(FeatureConfig(dither=0.1, normalization="none"))
    cut = next(iter(cuts))
    first = extractor.extract(cut)
    state = torch.get_rng_state()
    torch.rand(3)
    assert torch.equal(first, extractor.extract(cut))
    assert not torch.equal(first, FeatureExtractor(PLAIN).extract(cut))
    torch.set_rng_state(state)
    extractor.extract(cut)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_number_of_threads_does_not_matter(tmp_path):
    cut = next(iter(open_cuts(kaldi_dir(tmp_path, [6.0]))))
    extractor = FeatureExtractor(FeatureConfig(normalization="utterance"))
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 3, 4):
            torch.set_num_threads(threads)
            results.append(extractor.extract(cut))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_the_rate_of_the_data(tmp_path):
    eight = open_cuts(kaldi_dir(tmp_path / "8k", rate=8000, prefix="e"))
    config = FeatureConfig(sampling_rate=None, normalization="none")
    assert FeatureExtractor.fit(config, eight).rate == 8000
    mixed = CutSet.from_cuts([*eight, *open_cuts(kaldi_dir(tmp_path / "16k"))])
    with pytest.raises(DataError, match=r"8000 Hz \('e00-u000'\), 16000 Hz \('spk00-u000'\)"):
        FeatureExtractor.fit(config, mixed)
    with pytest.raises(ConfigError, match="null needs data"):
        FeatureExtractor(config)


def test_bad_audio_names_the_utterance(tmp_path):
    folder = kaldi_dir(tmp_path)
    cuts = list(open_cuts(folder))
    samples = np.zeros(16000, dtype=np.float32)
    samples[100:103] = [np.nan, np.inf, -np.inf]
    soundfile.write(folder / "wav" / "spk00-u000.wav", samples, 16000, subtype="FLOAT")
    (folder / "wav" / "spk00-u001.wav").write_bytes(b"RIFF")
    write_tone(folder / "wav" / "spk01-u002.wav", 0.3)
    extractor = FeatureExtractor(PLAIN)
    with pytest.raises(DataError, match="'spk00-u000': 3 of 16000 audio samples are NaN"):
        extractor.extract(cuts[0])
    with pytest.raises(DataError, match="'spk00-u001': its audio .*u001.wav cannot be read"):
        extractor.extract(cuts[1])
    with pytest.raises(DataError, match="'spk01-u002': .* 12800 samples, .* has 4800"):
        extractor.extract(cuts[2])
    write_tone(folder / "wav" / "spk01-u002.wav", 0.8, rate=8000)
    with pytest.raises(DataError, match="'spk01-u002': .* 16000 Hz, .* has 8000 Hz"):
        extractor.extract(cuts[2])
    with pytest.raises(DataError, match="'spk00-u000'"):
        FeatureExtractor.fit(FeatureConfig(), CutSet.from_cuts(cuts))


def test_all_wrong_settings_come_at_once():
    config = FeatureConfig(
        num_mel_bins=0,
        sampling_rate=100,
        frame_shift=float("nan"),
        frame_length=0.0,
        dither=-1,
        normalization="x",
    )
    with pytest.raises(ConfigError) as caught:
        FeatureExtractor(config)
    text = str(caught.value)
    for name in ("num_mel_bins", "sampling_rate", "frame_shift", "frame_length", "dither"):
        assert f"features.{name}: must be" in text
    with pytest.raises(ConfigError, match="without statistics"):
        FeatureExtractor(FeatureConfig())


def test_save_and_load(tmp_path, cuts):
    extractor = FeatureExtractor.fit(FeatureConfig(num_mel_bins=80), cuts)
    extractor.save(tmp_path / "out" / "features.json")
    again = FeatureExtractor.load(tmp_path / "out" / "features.json")
    assert (again.config, again.cmvn) == (extractor.config, extractor.cmvn)
    cut = next(iter(cuts))
    assert torch.equal(again.extract(cut), extractor.extract(cut))
    FeatureExtractor(PLAIN).save(tmp_path / "plain.json")
    assert FeatureExtractor.load(tmp_path / "plain.json").cmvn is None


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(format=9),
        lambda c: c.pop("config"),
        lambda c: c["config"].update(extra=1),
        lambda c: c["config"].update(num_mel_bins="x"),
        lambda c: c["cmvn"].update(mean=[1.0]),
        lambda c: c["cmvn"]["std"].__setitem__(0, float("nan")),
        lambda c: c["cmvn"]["std"].__setitem__(0, 0.0),
        lambda c: c["cmvn"].update(std="abc"),
        lambda c: c.update(cmvn=None),
    ],
)
def test_malformed_saved_settings(tmp_path, cuts, change):
    path = tmp_path / "features.json"
    FeatureExtractor.fit(FeatureConfig(), cuts).save(path)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="features.json"):
        FeatureExtractor.load(path)
