"""Recorded prompts: what is said in a line, which split it is in, the folder as dpkg unpacks it."""

from __future__ import annotations

import gzip
import json
import logging
import shutil
from collections import Counter

import numpy as np
import pytest
import soundfile
from data_samples import PROMPT_VOICES, prompts

from nas_encoder.cli.main import main
from nas_encoder.data import PrepareOptions, open_cuts, prepare_corpus
from nas_encoder.data import prompt_texts as why
from nas_encoder.data.manifests import speaker_of, text_of
from nas_encoder.data.prompt_texts import entries, spoken
from nas_encoder.data.prompts import (
    HELD_OUT,
    NO_FILE,
    NO_LINE,
    OTHERWISE,
    SPLITS,
    TWICE,
    UNFIT,
    assign_splits,
    collect,
)
from nas_encoder.errors import ConfigError, DataError

SAID = [
    ("en", "auth-thankyou", "Thank you.", "thank you"),
    ("en", "dir-multi2", "... for ...", "for"),
    ("en", "call-fwd-no-ans", "Call-Forward on No Answer.", "call forward on no answer"),
    ("en", "digits/oclock", "o'clock", "o'clock"),
    ("en", "spy-local", "Local", "local"),
    ("en", "letters/at", "at [@]", "at"),
    ("en", "dir-intro", "Use the 7 key for Q.", "use the seven key for q"),
    ("en", "x", "a \u201cdon't call\u201d \u2018menu\u2019", "a don't call menu"),
    ("es", "x", "Presione 0 o 9: ¿qué número, mañana?", "presione cero o nueve que numero manana"),
    ("fr", "x", "Pour l\u2019aide, appuyez sur 5.Pour", "pour l'aide appuyez sur cinq pour"),
    ("fr", "digits/70", "soixante-dix", "soixante dix"),
    ("it", "letters/exclaimation-point", "[!] punto esclamativo", "punto esclamativo"),
    ("it", "x", "C'e\u0300 più di 4", "c'è più di quattro"),
    ("it", "vm-login", "Posta vocale. Casella di posta?", "posta vocale casella di posta"),
    ("ru", "vm-next", "Нажмите 1 - решётку «занято»", "нажмите один решетку занято"),
    ("ru", "letters/b", "би", "би"),
]
REFUSED = [
    ("en", "beep", "[this is a simple beep tone]", why.NO_SPEECH),
    ("it", "confbridge-join", "un suono di beep ascendente", why.NO_SPEECH),
    ("ru", "silence/10", "(10 seconds of silence)", why.NO_SPEECH),
    ("fr", "dir-welcome", "", why.NO_TEXT),
    ("en", "x", "...", why.NO_TEXT),
    ("en", "vm-intro", "Press the pound key. (simple tone sound plays)", why.REMARK),
    ("it", "vm-msgsaved", "Il [suo] messaggio è stato salvato.", why.REMARK),
    ("en", "x", "<beep decending>", why.REMARK),
    ("fr", "x", "appuyez sur dièse.vm-review-nonurgent: Pour", why.TWO_ENTRIES),
    ("it", "x", "La conferenza ? piena.", why.LOST),
    ("it", "x", "non pu? essere", why.LOST),
    ("it", "is-in-use", "E' in uso.", why.LOST),
    ("en", "x", "the Asterisk open source PBX.", why.ABBREVIATION),
    ("en", "spy-misdn", "M I S D N", why.ABBREVIATION),
    ("es", "digits/a-m", "a.m.", why.ABBREVIATION),
    ("es", "spy-mgcp", "mgcp", why.ABBREVIATION),
    ("ru", "x", "введите ваш ПИН-код", why.ABBREVIATION),
    ("en", "x", "dial 500 now", why.NUMBER),
    ("en", "x", "3D audio enabled", why.NUMBER),
    ("es", "x", "un modem de 2,5", why.NUMBER),
    ("en", "x", "press * to toggle pause", why.SIGN),
    ("en", "x", "visit www.asterisk.org", why.SIGN),
    ("ru", "vm-first", "перв\u006fe", why.SIGN),
    ("en", "x", "così", why.SIGN),
    ("en", "letters/b", "b", why.LETTER),
]


@pytest.mark.parametrize(("language", "name", "line", "expected"), SAID)
def test_what_is_said(language, name, line, expected):
    assert spoken(name, line, language) == (expected, "")


@pytest.mark.parametrize(("language", "name", "line", "reason"), REFUSED)
def test_what_is_not_certain(language, name, line, reason):
    assert spoken(name, line, language) == ("", reason)


def test_lines():
    lines = ["\ufeff; Sounds: all", "", "a/b: x: y", "digits/0: cero", "digits/0: diez", "is:"]
    assert entries(lines) == {"a/b": ["x: y"], "digits/0": ["cero", "diez"], "is": [""]}


def test_texts_that_are_alike_are_in_one_split():
    rng = np.random.default_rng(0)
    words = [f"w{number}" for number in range(400)]
    texts = [" ".join(rng.choice(words, 5)) for _ in range(600)]
    # Each differs from the next in one of five words: alike in pairs, so all are in one split.
    chain = ["a b c d e", "a b c d f", "a b c g f", "a b h g f", "f g h b a a"]
    found = assign_splits([*texts, *chain])
    assert len({found[text] for text in chain}) == 1
    assert found == assign_splits([*reversed(chain), *reversed(texts), *chain])
    counts = Counter(found[text] for text in texts)
    for split, share in SPLITS.items():
        assert counts[split] / 600 == pytest.approx(share, abs=0.05)
    # A word that is repeated counts as often; three of four words are not enough.
    assert assign_splits(["no no no no", "no"]).keys() == {"no no no no", "no"}
    apart = [f"press {word} to go" for word in words[:60]]
    assert len(set(assign_splits(apart).values())) == 3


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return prompts(tmp_path_factory.mktemp("prompts"))


def test_what_is_left_out(corpus):
    found = collect(corpus)
    for voice, reasons in found.left_out.items():  # all files are accounted for
        files = len(list((corpus / "usr/share/asterisk/sounds" / voice).rglob("*.wav")))
        used = [prompt for split in found.splits.values() for prompt in split]
        lost = [name for reason, names in reasons.items() if reason != NO_FILE for name in names]
        assert files == len(lost) + sum(prompt.voice.folder == voice for prompt in used)
    left = {voice: dict(reasons) for voice, reasons in found.left_out.items()}
    held = set(left["it_IT_f_Menardi"].pop(HELD_OUT))
    assert left["en_US_f_Allison"] == {
        UNFIT: ["vm-00"],
        NO_LINE: ["phonetic/ICAO/a_p"],
        NO_FILE: ["vm-unread"],
        why.NO_SPEECH: ["beep", "silence/1"],
        why.NO_TEXT: ["vm-lost"],
        why.LETTER: ["letters/b"],
        why.ABBREVIATION: ["spy-iax"],
    }
    assert left["it_IT_m_Carlo"][why.LOST] == left["it_IT_f_Menardi"][why.LOST] == ["vm-lost"]
    assert left["it_IT_f_Menardi"][NO_FILE] == ["vm-03", "vm-unread"]
    tried = [prompt for split in ("dev", "test") for prompt in found.splits[split]]
    names = {prompt.name for prompt in tried if prompt.voice.language == "it"}
    assert held == names - {"vm-03"} and held
    assert all(prompt.voice.own_texts for prompt in tried)
    texts = [{prompt.text for prompt in prompts} for prompts in found.splits.values()]
    assert not texts[0] & texts[1] and not texts[0] & texts[2] and not texts[1] & texts[2]
    used = {prompt.name: prompt for prompt in found.splits["train"] + tried}
    assert used["conf-2"].text in ("press one or two", "premere uno o due")


def test_prepared(corpus, tmp_path, caplog, capsys):
    out = tmp_path / "out"
    with caplog.at_level(logging.INFO):
        prepared = prepare_corpus("prompts", corpus, out)
    assert "not below" in caplog.text and "ru_RU_f_IvrvoiceRU" in caplog.text
    assert "en_US_f_Allison: 1 with a length that does not fit the text: vm-00" in caplog.text
    assert prepared.splits["train"].speakers == 3 and prepared.splits["test"].speakers == 2
    sampled = {}
    for split, size in prepared.splits.items():
        cuts = {cut.id: cut for cut in open_cuts(out, split=split)}
        assert len(cuts) == size.utterances and {c.sampling_rate for c in cuts.values()} == {8000}
        sampled |= cuts
        for source in (out / "espnet" / split, out / "nemo" / f"{split}.json"):
            others = {cut.id: (text_of(cut), speaker_of(cut)) for cut in open_cuts(source)}
            assert others == {key: (text_of(cut), speaker_of(cut)) for key, cut in cuts.items()}
        languages = (out / "espnet" / split / "utt2lang").read_text().splitlines()
        assert languages == sorted(f"{key} {key[:2]}" for key in cuts)
        rows = map(json.loads, (out / "nemo" / f"{split}.json").read_text().splitlines())
        assert {row["utt_id"]: row["lang"] for row in rows} == {key: key[:2] for key in cuts}
    cut = sampled["en_US_f_Allison-digits_1"]
    said = cut.supervisions[0]
    assert (said.text, said.language, said.custom["prompt"]) == ("one", "en", "digits/1")
    check = ["data", "check", "--train", str(out / "espnet/train"), "--full"]
    assert main([*check, "--valid", str(out / "nemo/dev.json")]) == 0
    assert "8000 Hz" in capsys.readouterr().out


@pytest.fixture
def english(corpus, tmp_path):
    """A copy that lacks Italian."""
    return shutil.copytree(corpus, tmp_path / "c", ignore=shutil.ignore_patterns("*it", "it_*"))


def test_resampled(corpus, english, tmp_path):
    root, out = english, tmp_path / "out"
    theirs = out / "audio" / "mine.wav"
    theirs.parent.mkdir(parents=True)
    theirs.touch()
    with pytest.raises(DataError, match="holds audio/ that this did not write"):
        prepare_corpus("prompts", root, out, PrepareOptions(sampling_rate=16000))
    prepare_corpus("prompts", corpus, out)  # does not need that folder
    assert (out / "espnet" / "train" / "utt2lang").is_file()
    for _ in range(2):  # its own audio it does replace
        prepare_corpus("prompts", root, out, PrepareOptions(sampling_rate=16000))
    for split in SPLITS:
        for cut in open_cuts(out, split=split):
            name = cut.supervisions[0].custom["prompt"]
            path = root / "usr/share/asterisk/sounds/en_US_f_Allison" / f"{name}.wav"
            before, rate = soundfile.read(path)
            after = cut.load_audio()[0]
            assert rate == 8000 and cut.sampling_rate == 16000 and len(after) == 2 * len(before)
            assert np.abs(after[400:-400:2] - before[200:-200]).max() < 0.02  # the same sound
            assert str(out / "audio" / split) in cut.recording.sources[0].source
        lines = (out / "espnet" / split / "wav.scp").read_text().splitlines()
        assert all(line.endswith(".flac") for line in lines)
        assert not (out / "espnet" / split / "utt2lang").exists()  # there is one language
    with pytest.raises(ConfigError, match="sampling_rate: must be at least 1 Hz, got 0"):
        prepare_corpus("prompts", root, out, PrepareOptions(sampling_rate=0))


def test_wrong_folders(corpus, tmp_path):
    with pytest.raises(DataError, match="no prompts here") as caught:
        collect(tmp_path)
    assert "expected layout: usr/share/asterisk/sounds/VOICE" in str(caught.value)
    root = shutil.copytree(corpus, tmp_path / "c")
    lists = {
        language: root / f"usr/share/doc/asterisk-core-sounds-{language}"
        f"/core-sounds-{language}.txt.gz"
        for language in PROMPT_VOICES
    }
    whole = lists["it"].read_bytes()
    lists["it"].write_bytes(whole[:-20])
    with pytest.raises(DataError, match=r"core-sounds-it.txt.gz: cannot be read"):
        collect(root)
    lists["it"].unlink()
    for path in (root / "usr/share/asterisk/sounds/en_US_f_Allison").rglob("*.wav"):
        path.rename(path.with_suffix(".gsm"))
    with pytest.raises(DataError) as caught:
        collect(root)
    assert len(caught.value.problems) == 3  # English has no audio, both Italian voices no texts
    assert "no .wav files, but texts; they are in asterisk-core-sounds-en-wav" in str(caught.value)
    assert "Unpack asterisk-core-sounds-it with 'dpkg -x'" in str(caught.value)


def test_what_is_known_to_be_read_otherwise(corpus, tmp_path):
    root = shutil.copytree(corpus, tmp_path / "c")
    path = root / "usr/share/doc/asterisk-core-sounds-it/core-sounds-it.txt.gz"
    with gzip.open(path, "at", encoding="utf-8") as file:
        file.write("conf-muted: Ora sei muto.\n")
    for voice in PROMPT_VOICES["it"]:
        sounds = root / "usr/share/asterisk/sounds" / voice
        shutil.copy(sounds / "vm-02.wav", sounds / "conf-muted.wav")
    left_out = collect(root).left_out
    assert {left_out[voice][OTHERWISE][0] for voice in PROMPT_VOICES["it"]} == {"conf-muted"}
    assert OTHERWISE not in left_out["en_US_f_Allison"]


def test_damaged_audio_and_names_that_come_twice(english):
    root = english
    path = root / "usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz"
    with gzip.open(path, "at", encoding="utf-8") as file:
        file.write("vm-01: Another text.\nVM-07X: In capitals.\n")
    sounds = root / "usr/share/asterisk/sounds/en_US_f_Allison"
    (sounds / "vm-07x.wav").write_bytes((sounds / "vm-07.wav").read_bytes())
    found = collect(root)
    assert found.left_out["en_US_f_Allison"][TWICE] == ["vm-01"]
    assert any(prompt.name == "vm-07x" for split in found.splits.values() for prompt in split)
    (sounds / "vm-02.wav").write_bytes(b"RIFF")
    with pytest.raises(DataError, match=r"vm-02.wav 'vm-02'"):
        collect(root)
