"""What ESPnet's and NeMo's own readers find in the folders and manifests that are written."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import kaldiio
import numpy as np
import pytest
import soundfile
from lhotse import MonoCut, Recording, SupervisionSegment
from nemo_configs import imported

from nas_encoder.data import open_cuts, write_espnet_dir, write_nemo_manifest

TEXTS = ("a b", "今天 天气", "two  spaces", "tab\there", "naïve café", "x\u2028y", '"quoted" \\ /')


def random_cuts(folder: Path, seed: int, whole: bool) -> list[Any]:
    """Return utterances of a few files: whole ones, or pieces that share recordings and ids."""
    rng, noise = random.Random(seed), np.random.default_rng(seed)
    cuts = []
    for number in range(4):
        rate = rng.choice((8000, 16000, 22050, 44100))
        path = folder / f"part {number % 2}" / f"file{number}.{rng.choice(('wav', 'flac'))}"
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = rng.randint(3000, 20000)
        soundfile.write(path, noise.integers(-30000, 30000, samples, dtype=np.int16), rate)
        recording = Recording.from_file(path, recording_id=f"rec{number % 2}")
        for piece in range(1 if whole else 5):
            first = 0 if whole else rng.randrange(samples - 2000)
            count = samples if whole else rng.randint(1000, samples - first)
            key = f"{rng.randint(100, 999)}utt{number}{piece}"
            speaker = rng.choice(("spk", "spk-a", "Spk", None))
            supervision = SupervisionSegment(
                key, recording.id, 0.0, count / rate, 0, rng.choice(TEXTS), "en", speaker
            )
            cuts.append(MonoCut(key, first / rate, count / rate, 0, [supervision], None, recording))
    return cuts


def samples_of(cut: Any) -> np.ndarray:
    """Return a cut's samples from its file, by whole numbers."""
    first = round(cut.start * cut.sampling_rate)
    data, _ = soundfile.read(cut.recording.sources[0].source, dtype="int16")
    return data[first : first + cut.num_samples]


@pytest.mark.espnet
@pytest.mark.slow
@pytest.mark.parametrize("whole", [True, False])
def test_espnet_reads_the_same_sounds_texts_and_speakers(tmp_path: Path, whole: bool) -> None:
    from espnet2.fileio.read_text import read_2columns_text
    from espnet2.fileio.sound_scp import SoundScpReader

    for seed in range(20):
        cuts = random_cuts(tmp_path / str(seed), seed, whole)
        out = tmp_path / f"out{seed}"
        write_espnet_dir(cuts, out)
        texts, speakers = (read_2columns_text(out / name) for name in ("text", "utt2spk"))
        if whole:
            found = {key: value for key, value in SoundScpReader(out / "wav.scp", "int16").items()}
        else:
            scp = kaldiio.load_scp(str(out / "wav.scp"), segments=str(out / "segments"))
            found = {key: scp[key] for key in scp}
        assert len(found) == len(texts) == len(cuts)
        durations = read_2columns_text(out / "utt2dur")
        for cut in cuts:
            (key,) = [key for key in found if key.endswith(cut.id)]
            assert found[key][0] == cut.sampling_rate
            heard = found[key][1]  # kaldiio gives those of flac in -1..1
            heard = heard if heard.dtype == np.int16 else heard * 2**15
            assert np.array_equal(heard, samples_of(cut)), cut.id
            assert texts[key] == cut.supervisions[0].text
            assert speakers[key] == (cut.supervisions[0].speaker or cut.id)
            assert float(durations[key]) == pytest.approx(cut.duration, abs=1e-6)
        again = open_cuts(out)
        assert sorted(c.num_samples for c in again) == sorted(c.num_samples for c in cuts)
        in_order = list(speakers.items())
        assert in_order == sorted(in_order) == sorted(in_order, key=lambda item: item[1])


@pytest.mark.nemo
@pytest.mark.slow
@pytest.mark.parametrize("whole", [True, False])
def test_nemo_reads_the_same_sounds_texts_and_speakers(tmp_path: Path, whole: bool) -> None:
    segments = imported("nemo.collections.asr.parts.preprocessing.segment").AudioSegment
    item_iter = imported("nemo.collections.common.parts.preprocessing.manifest").item_iter
    for seed in range(20):
        cuts = random_cuts(tmp_path / str(seed), seed, whole)
        manifest = tmp_path / f"{seed}.json"
        write_nemo_manifest(cuts, manifest)
        items = list(item_iter(str(manifest)))
        for cut, item in zip(cuts, items, strict=True):
            segment = segments.from_file(
                item["audio_file"],
                offset=item["offset"] or 0,
                duration=item["duration"],
                int_values=False,
            )
            assert segment.sample_rate == cut.sampling_rate
            expected = samples_of(cut).astype(np.float32) / 2**15
            assert np.array_equal(segment.samples, expected), cut.id
            supervision = cut.supervisions[0]
            assert (item["text"], item["speaker"], item["lang"]) == (
                supervision.text,
                supervision.speaker,
                "en",
            )
        assert [cut.id for cut in open_cuts(manifest)] == [cut.id for cut in cuts]
