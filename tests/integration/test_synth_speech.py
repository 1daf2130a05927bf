"""What espeak says and how it is recorded: phones, words, voices, noise, rooms."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from tools.synth import english, mandarin
from tools.synth.audio import Conditions, Recording, record
from tools.synth.corpus import Utterance
from tools.synth.espeak import Espeak, Speech, SpeechError, Voice
from tools.synth.layouts import LAYOUTS
from tools.synth.phones import PHONES, STOPS, phone_segments
from tools.synth.voices import FEMALE, FEMALE_ECHOING, MALE, MALE_ECHOING, Speaker

SENTENCE = tuple("the tired king dropped a big green bottle beside my garden".split())
CLOSURES = {closure for closure, _ in STOPS.values()}
PLAIN = Voice("gmw/en-US+m3", 130, 50, 50)


@pytest.fixture(scope="module")
def espeak():
    with Espeak() as running:
        yield running


def written_phones(path: Path) -> list[tuple[int, int, str]]:
    rows = [line.split() for line in path.read_text().splitlines()]
    return [(int(start), int(end), label) for start, end, label in rows]


def test_timit_boundaries_are_those_of_espeaks_events(espeak, tmp_path):
    """Every phone event of espeak is a boundary in .PHN, at the same time, with its label."""
    layout, rng, compared = LAYOUTS["timit"], random.Random(4), 0
    for number in range(25):
        words = english.draw_sentence(rng)
        voice = Voice(f"gmw/en-US+{rng.choice(FEMALE + MALE)}", rng.randint(110, 150), 50, 50)
        speech = espeak.say(words, voice, number)
        recording = record(speech, Conditions(), np.random.default_rng(number))
        utterance = Utterance(
            f"MABC0-SX{number}", "train", Speaker("MABC0", "", "M", voice), words, ""
        )
        layout.write(tmp_path / "SX.WAV", utterance, recording, speech)
        rows = written_phones(tmp_path / "SX.PHN")
        assert rows[0][0] == 0 and rows[0][2] == rows[-1][2] == "h#"
        assert rows[-1][1] == len(recording.samples)
        assert all(left[1] == right[0] for left, right in zip(rows, rows[1:], strict=False))
        expected = []
        for phone, following in zip(speech.phones, speech.phones[1:], strict=False):
            if not phone.is_pause:
                labels = STOPS.get(phone.name, ("",))[1:] or PHONES[phone.name]
                expected += labels[:1] if following.name in ("r", "r-") else labels
        spoken = [label for _, _, label in rows if label not in ("h#", "pau", *CLOSURES)]
        assert spoken == expected
        starts = {start: label for start, _, label in rows}
        for phone, following in zip(speech.phones, speech.phones[1:], strict=False):
            if phone.is_pause or phone.start == following.start:
                continue
            # Independent arithmetic: seconds in espeak's audio, moved by the silence in front.
            seconds = (phone.start - speech.first_sample) / 22050
            at = min(starts, key=lambda start: abs(start - recording.first - seconds * 16000))
            assert abs(at - recording.first - seconds * 16000) <= 1.0, (phone, rows)
            allowed = STOPS[phone.name] if phone.name in STOPS else PHONES[phone.name][:1]
            assert starts[at] in allowed, (phone, rows)
            compared += 1
        assert tuple((tmp_path / "SX.WRD").read_text().split()[2::3]) == words
    assert compared > 400


def test_timit_boundaries_show_in_the_audio(espeak, tmp_path):
    """Closures of voiceless stops are silent, releases are not; s is high, vowels are low."""
    ratios, rises, tilts = [], [], {"s": [], "aa": []}
    rng = random.Random(9)
    for number in range(25):
        speech = espeak.say(english.draw_sentence(rng), PLAIN, number)
        recording = record(speech, Conditions(), np.random.default_rng(number))
        audio = recording.samples.astype(np.float64)
        overall = np.sqrt(np.mean(audio**2))
        segments = phone_segments(speech)[0]
        for before, segment in zip(segments, segments[1:], strict=False):
            piece = audio[recording.position(segment.start) : recording.position(segment.end)]
            level = np.sqrt(np.mean(piece**2))
            if segment.label in ("pcl", "tcl", "kcl"):
                ratios.append(level / overall)
            if segment.label in ("b", "d", "g") and before.label in ("bcl", "dcl", "gcl"):
                bar = audio[recording.position(before.start) + 64 : recording.position(before.end)]
                edge = np.mean(np.diff(piece[:160], n=2) ** 2)
                rises.append(edge / (np.mean(np.diff(bar, n=2) ** 2) + 1e-9))
            if segment.label in tilts:
                tilts[segment.label].append(np.mean(np.diff(piece) ** 2) / np.mean(piece**2))
    assert len(ratios) > 40 and np.percentile(ratios, 95) < 0.05
    assert len(rises) > 20 and np.median(rises) > 10
    assert min(tilts["s"]) > max(tilts["aa"])


def test_every_word_has_timit_phones(espeak):
    words = english.vocabulary()
    for index in range(0, len(words), 8):
        speech = espeak.say(tuple(words[index : index + 8]), PLAIN, 0)
        segments, _ = phone_segments(speech)
        assert {segment.word for segment in segments} >= set(range(len(words[index : index + 8])))


def test_no_two_english_words_sound_alike(espeak):
    sounds: dict[tuple[str, ...], str] = {}
    words = english.vocabulary()
    for index in range(0, len(words), 8):
        group = tuple(words[index : index + 8])
        speech = espeak.say(group, Voice("gmw/en-US", 130, 50, 50), 0)
        for number, word in enumerate(group):
            sound = tuple(
                phone.name for phone in speech.phones if phone.word == number and not phone.is_pause
            )
            assert sound and sound not in sounds, (word, sounds.get(sound))
            sounds[sound] = word
    assert len(sounds) == len(words)


def test_every_mandarin_word_is_read_as_pinyin(espeak):
    words = mandarin.vocabulary()
    for index in range(0, len(words), 10):
        syllables = mandarin.pinyin(tuple(words[index : index + 10]))
        speech = espeak.say(syllables, Voice("sit/cmn-Latn-pinyin+f1", 150, 50, 50), 0)
        assert len(speech.words) == len(syllables)
        spoken = {phone.word for phone in speech.phones if not phone.is_pause}
        assert spoken == set(range(len(syllables)))


def spectrum(speech: Speech) -> np.ndarray:
    """Mean log power in 32 bands of the speech, level removed."""
    audio = speech.samples[: len(speech.samples) // 512 * 512].astype(np.float64)
    power = np.abs(np.fft.rfft(audio.reshape(-1, 512) * np.hanning(512))) ** 2
    bands = np.log10(power.mean(axis=0)[1:257].reshape(32, 8).mean(axis=1) + 1.0)
    return bands - bands.mean()


def test_every_variant_speaks_and_sounds_different(espeak):
    bands = {}
    for variant in FEMALE + MALE + FEMALE_ECHOING + MALE_ECHOING:
        speech = espeak.say(SENTENCE, Voice(f"gmw/en-US+{variant}", 130, 50, 50), 1)
        peak = int(np.abs(speech.samples.astype(np.int32)).max())
        assert 500 < peak < 30000, (variant, peak)
        bands[variant] = (spectrum(speech), len(speech.samples))
    names = list(bands)
    for number, first in enumerate(names):
        for second in names[:number]:
            distance = np.abs(bands[first][0] - bands[second][0]).mean()
            longer = abs(bands[first][1] - bands[second][1]) / 22050
            assert distance > 0.01 or longer > 0.05, (first, second, distance)


def test_espeak_repeats_itself_whatever_it_said_before(espeak):
    voice = Voice("gmw/en-US+f2", 130, 50, 50)  # an echo and flutter: state that could stay
    first = espeak.say(SENTENCE, voice, 5)
    espeak.say(("something", "else"), Voice("gmw/en-US+klatt", 150, 40, 60), 6)
    again = espeak.say(SENTENCE, voice, 5)
    np.testing.assert_array_equal(first.samples, again.samples)
    assert first.phones == again.phones
    with Espeak() as other:
        np.testing.assert_array_equal(other.say(SENTENCE, voice, 5).samples, first.samples)


@pytest.mark.parametrize(
    ("words", "voice", "message"),
    [
        (("a", "cup"), "gmw/en-US+nobody", "no voice variant 'nobody'"),
        (("a", "cup"), "gmw/nowhere", "no voice 'gmw/nowhere'"),
        (("a cup", "fell"), "gmw/en-US", "splits"),
        (("hello",), "sit/cmn-Latn-pinyin", "as language"),
    ],
)
def test_espeak_refuses_and_goes_on(espeak, words, voice, message):
    with pytest.raises(SpeechError, match=message):
        espeak.say(words, Voice(voice, 130, 50, 50), 0)
    assert len(espeak.say(("a", "cup"), PLAIN, 0).words) == 2


def recorded(speech: Speech, seed: int = 1, **conditions: object) -> Recording:
    return record(speech, Conditions(**conditions), np.random.default_rng(seed))


def test_recordings_have_a_level_silence_around_and_no_clipping(espeak):
    speech = espeak.say(SENTENCE, PLAIN, 0)
    for seed in range(30):
        recording = recorded(speech, seed)
        audio = recording.samples.astype(np.float64)
        assert 0.08 * 16000 <= recording.first <= 0.20 * 16000
        assert np.sqrt(np.mean(audio[: recording.first] ** 2)) < 5.0
        assert np.sqrt(np.mean(audio[-1000:] ** 2)) < 5.0
        assert np.abs(audio).max() <= 0.9 * 32768
        inside = audio[recording.first : recording.position(len(speech.samples))]
        level = 20 * np.log10(np.sqrt(np.mean(inside**2)) / 32768)
        assert -30.5 < level < -21.5 or recording.limited


@pytest.mark.parametrize("snr", [0.0, 10.0, 20.0])
def test_noise_has_the_ratio_that_is_asked_for(espeak, snr):
    speech = espeak.say(SENTENCE, PLAIN, 0)
    measured = []
    for seed in range(20):
        recording = recorded(speech, seed, snr=(snr, snr))
        assert recording.snr == snr
        audio = recording.samples.astype(np.float64)
        noise = np.mean(audio[: recording.first] ** 2)
        both = np.mean(audio[recording.first : recording.position(len(speech.samples))] ** 2)
        measured.append(10 * np.log10(max(both - noise, 1e-9) / noise))
    assert np.median(measured) == pytest.approx(snr, abs=2.5)


def test_a_room_rings_on_after_the_speech_and_delays_nothing(espeak):
    speech = espeak.say(SENTENCE, PLAIN, 0)
    dry, wet = recorded(speech), recorded(speech, reverb=True)
    assert len(dry.samples) == len(wet.samples) and dry.first == wet.first
    end = wet.position(speech.phones[-1].start)

    def after(recording: Recording) -> float:
        audio = recording.samples.astype(np.float64)
        return float(np.mean(audio[end : end + 800] ** 2) / np.mean(audio**2))

    assert after(wet) > 20 * after(dry)
    assert np.abs(wet.samples[: wet.first - 1]).max() < 20
