"""Hanzi as tonal syllables, and token lists of a corpus."""

from __future__ import annotations

import pytest
from data_samples import aishell, librispeech, timit

from nas_encoder.cli.main import main
from nas_encoder.data import PrepareOptions, TokenSet, open_cuts, prepare_corpus, texts
from nas_encoder.data.mandarin import ENGLISH_PHONES, LETTERS, convert, guess_units, inventory
from nas_encoder.data.token_lists import ListOptions, write_token_list
from nas_encoder.errors import ConfigError, DataError

PART = PrepareOptions(partial=True)


@pytest.mark.parametrize(
    ("text", "syllables", "parts"),
    [
        ("今天 天气", "jin1 tian1 tian1 qi4", "j in1 t ian1 t ian1 q i4"),
        ("银行", "yin2 hang2", None),  # a reading for each place
        ("行走", "xing2 zou3", None),
        ("重庆很重要", "chong2 qing4 hen3 zhong4 yao4", None),
        ("花儿", "hua1 er2", "h ua1 er2"),  # r-coloured syllables stay two
        ("好的", "hao3 de5", "h ao3 d e5"),  # the neutral tone
        ("绿女鱼", "lv4 nv3 yu2", "l v4 n v3 v2"),
        ("Ｔ恤k歌", "T IY xu4 K EY ge1", "T IY x v4 K EY g e1"),
        ("<unk>好", "<unk> hao3", "<unk> h ao3"),
        ("〇龘", "ling2 da2", "l ing2 d a2"),
    ],
)
def test_units_of_texts(text, syllables, parts):
    assert convert(text, "syllable") == syllables.split()
    if parts:
        assert convert(text, "initial_final") == parts.split()
    for kind in ("syllable", "initial_final"):
        tokens = TokenSet.build([text], kind)
        assert tokens.split(text) == convert(text, kind)
        assert tokens.split(" ".join(convert(text, kind))) == convert(text, kind)  # once is enough


@pytest.mark.parametrize("kind", ["syllable", "initial_final"])
def test_nothing_is_dropped_or_passed_on_unread(kind):
    with pytest.raises(DataError) as caught:
        convert("3个，\U00020bb7３好", kind)  # the last hanzi is none of pypinyin's
    assert [line.split(" ")[0] for line in caught.value.problems] == ["'3'", "','", "'\U00020bb7'"]
    assert "only hanzi and Latin letters have" in caught.value.problems[0]
    with pytest.raises(DataError, match="'3' has no reading"):
        TokenSet.build(["3个"], kind)


def test_all_units_of_mandarin():
    assert len(ENGLISH_PHONES) == 39
    assert {phone for name in LETTERS.values() for phone in name.split()} < set(ENGLISH_PHONES)
    common = [code.to_bytes(2, "big").decode("gb2312", "ignore") for code in range(0xB0A1, 0xF7FF)]
    common = [one for one in common if len(one) == 1 and one >= "\u3400"]
    assert len(common) == 6763
    for kind, size in (("syllable", 1349), ("initial_final", 196)):
        units = inventory(kind)
        assert len(units) == len(set(units)) == size + 39 and tuple(units[-39:]) == ENGLISH_PHONES
        assert guess_units(units) == kind
        assert not {unit for one in common for unit in convert(one, kind)} - set(units)
    assert guess_units(["sil", "aa", "b"]) is None and guess_units(["b", "p"]) is None


def test_aishell_in_syllables(tmp_path):
    root, out = aishell(tmp_path / "c"), tmp_path / "out"
    assert (
        main(
            ["data", "prepare", "aishell", str(root), str(out), "--partial", "--units", "syllable"]
        )
        == 0
    )
    cut = next(iter(open_cuts(out, split="dev")))
    assert cut.supervisions[0].text == "jin1 tian1 tian1 qi4 hao3 bu4 hao3"
    assert cut.supervisions[0].custom == {"written": "今天天气好不好"}
    assert texts(open_cuts(out / "espnet" / "dev"))[0] == cut.supervisions[0].text
    transcript = root / "data_aishell" / "transcript" / "aishell_transcript_v0.8.txt"
    transcript.write_text(transcript.read_text().replace("天气", "３天"))
    with pytest.raises(DataError, match=r"'BAC009S0002W0000': '3' has no reading.* \(8 such"):
        prepare_corpus(
            "aishell", root, tmp_path / "o", PrepareOptions(partial=True, units="syllable")
        )
    with pytest.raises(ConfigError, match="units: syllable is for aishell, not timit"):
        prepare_corpus("timit", root, tmp_path / "o", PrepareOptions(units="syllable"))
    with pytest.raises(ConfigError, match="units: must be one of char, syllable, .* got 'tone'"):
        prepare_corpus("aishell", root, tmp_path / "o", PrepareOptions(units="tone"))


def test_odd_characters_of_aishell_are_told(tmp_path, caplog):
    root = aishell(tmp_path / "c")
    transcript = root / "data_aishell" / "transcript" / "aishell_transcript_v0.8.txt"
    transcript.write_text(transcript.read_text().replace("天气", "ｔＸ。", 2))
    prepare_corpus("aishell", root, tmp_path / "out", PART)
    assert "texts hold characters beside hanzi and A to Z: '。' (2)" in caplog.text
    assert texts(open_cuts(tmp_path / "out", split="train"))[0] == "今天TX。好不好"


def test_token_lists_of_corpora(tmp_path, capsys):
    def listed(folder):
        return (tmp_path / folder / "tokens.txt").read_text().splitlines()

    for corpus, root in (
        ("aishell", aishell(tmp_path / "a")),
        ("librispeech", librispeech(tmp_path / "l", ["train-clean-5"])),
        ("timit", timit(tmp_path / "t")),
    ):
        prepare_corpus(corpus, root, tmp_path / corpus, PrepareOptions(partial=True, phones=39))
    command = ["data", "tokens"]
    assert main([*command, str(tmp_path / "aishell"), str(tmp_path / "char")]) == 0
    assert "8 tokens of kind char" in capsys.readouterr().out
    assert listed("char") == ["<blank>", "<unk>", *sorted("今天气好不"), "<sos/eos>"]
    source = str(tmp_path / "aishell" / "espnet" / "train")
    fixed = ["--kind", "syllable", "--fixed", "--no-sos-eos"]
    assert main([*command, source, str(tmp_path / "syllables"), *fixed]) == 0
    assert len(listed("syllables")) == 2 + 1349 + 39 and listed("syllables")[-1] == "ZH"
    loaded = TokenSet.load(tmp_path / "syllables")
    assert loaded.kind == "syllable" and loaded.decode(loaded.encode("今天")) == "jin1 tian1"
    pieces = ["--kind", "bpe", "--size", "14"]
    assert main([*command, str(tmp_path / "librispeech"), str(tmp_path / "bpe"), *pieces]) == 0
    loaded = TokenSet.load(tmp_path / "bpe")
    assert listed("bpe")[:2] == ["<blank>", "<unk>"] and listed("bpe")[-1] == "<sos/eos>"
    assert (len(loaded), loaded.decode(loaded.encode("HELLO WORLD"))) == (16, "HELLO WORLD")
    assert sorted(path.name for path in (tmp_path / "bpe").iterdir()) == ["bpe.model", "tokens.txt"]
    nemo = ["--layout", "nemo", *pieces]
    assert main([*command, str(tmp_path / "librispeech"), str(tmp_path / "nemo"), *nemo]) == 0
    lines = (tmp_path / "nemo" / "tokenizer.vocab").read_text().splitlines()
    pieces = [line.split("\t")[0] for line in lines]
    assert pieces[0] == "<unk>" and len(pieces) == 14
    shown = (tmp_path / "nemo" / "vocab.txt").read_text().splitlines()
    assert [one.replace("##", "") for one in shown] == [p.lstrip("▁") or "▁" for p in pieces[1:]]
    assert TokenSet.load(tmp_path / "nemo" / "tokenizer.model").tokens[2:] == tuple(pieces[1:])
    for corpus, first in (("aishell", "不"), ("librispeech", " ")):
        layout = ["--layout", "nemo"]
        assert main([*command, str(tmp_path / corpus), str(tmp_path / "labels"), *layout]) == 0
        assert (tmp_path / "labels" / "vocab.txt").read_text().startswith(f"{first}\n")
    assert (
        main([*command, str(tmp_path / "timit"), str(tmp_path / "phones"), "--kind", "phone"]) == 0
    )
    assert listed("phones") == ["<blank>", "<unk>", "ae", "d", "hh", "ih", "sh", "sil", "<sos/eos>"]
    capsys.readouterr()
    too_many = ["--kind", "bpe", "--size", "5000"]
    assert main([*command, str(tmp_path / "librispeech"), str(tmp_path / "b"), *too_many]) == 2
    assert "no 5000 unigram pieces can be learned: Vocabulary size" in capsys.readouterr().err


def test_lists_that_cannot_be(tmp_path):
    with pytest.raises(ConfigError) as caught:
        write_token_list("x", tmp_path, ListOptions("kana", 5, "wordpiece", fixed=True))
    assert len(caught.value.problems) == 4
    for wrong, told in ((("bpe",), "needs the number"), (("bpe", 0), "at least 1, got 0")):
        with pytest.raises(ConfigError, match=f"size: .*{told}"):
            write_token_list("x", tmp_path, ListOptions(*wrong))
    prepare_corpus("timit", timit(tmp_path / "t"), tmp_path / "timit", PART)
    with pytest.raises(DataError, match="not in the token set: .*'sil'"):
        write_token_list(tmp_path / "timit", tmp_path / "o", ListOptions("syllable", fixed=True))
    assert not (tmp_path / "o").exists()
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file/o: cannot be made: Not a directory"):
        write_token_list(tmp_path / "timit", tmp_path / "file" / "o", ListOptions("phone"))
