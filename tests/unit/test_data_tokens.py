"""Token sets: building, files, encoding, and what is refused."""

from __future__ import annotations

import logging

import pytest

from nas_encoder.data import BLANK, SPACE, UNK, TokenSet
from nas_encoder.errors import DataError


def test_char_tokens_round_trip_and_do_not_depend_on_the_order_of_texts():
    tokens = TokenSet.build(["ba ab", "ca"], kind="char")
    assert tokens.tokens == (BLANK, SPACE, "a", "b", "c")
    assert tokens == TokenSet.build(["ca", "ba  ab"], kind="char")
    assert tokens.encode("ab  c") == [2, 3, 1, 4]
    assert tokens.decode(tokens.encode("ab c")) == "ab c"
    assert len(tokens) == 5


@pytest.mark.parametrize("kind", ["word", "phone", "syllable"])
def test_tokens_cut_at_white_space(kind):
    tokens = TokenSet.build(["sil sh iy", "sil"], kind=kind)
    assert tokens.tokens == (BLANK, "iy", "sh", "sil")
    assert tokens.decode(tokens.encode("sh  iy sil")) == "sh iy sil"


def test_syllables_of_hanzi_are_tone_numbered_pinyin():
    tokens = TokenSet.build(["今天天气好"], kind="syllable")
    assert tokens.decode(tokens.encode("今天天气")) == "jin1 tian1 tian1 qi4"


def test_ctc_decoding_merges_repetitions_and_drops_blanks():
    tokens = TokenSet.build(["ab"], kind="char")
    assert tokens.decode([0, 1, 1, 0, 1, 2, 2, 0], ctc=True) == "aab"
    assert tokens.decode([1, 1, 2]) == "aab"
    with pytest.raises(DataError, match=r"\[3\] are not in 0..2"):
        tokens.decode([3])


def test_file_round_trip(tmp_path):
    tokens = TokenSet.build(["ab c"], kind="char", unk=True)
    tokens.save(tmp_path / "tokens.txt")
    assert (tmp_path / "tokens.txt").read_text() == "<blank>\n<unk>\n<space>\na\nb\nc\n"
    assert TokenSet.load(tmp_path / "tokens.txt") == tokens


def test_load_guesses_the_kind_and_adds_the_blank(tmp_path):
    path = tmp_path / "phones.txt"
    path.write_text("sil\nsh\n\n")
    assert TokenSet.load(path).tokens == (BLANK, "sil", "sh")
    assert TokenSet.load(path).kind == "word"
    assert TokenSet.load(path, kind="phone").kind == "phone"
    path.write_text("<blank>\n<unk>\n好\n天\n<sos/eos>\n")
    assert TokenSet.load(path).kind == "char"


def test_bad_files_name_the_lines(tmp_path):
    path = tmp_path / "tokens.txt"
    path.write_text("a\n<blank>\n\nb c\na\n")
    with pytest.raises(DataError) as caught:
        TokenSet.load(path)
    assert "tokens.txt" in str(caught.value)
    assert caught.value.problems == (
        "line 3: '': one token without white space is expected (2 such; also line 4: 'b c')",
        "line 5: 'a': a token may occur once",
        "line 2: '<blank>' must be the first token",
    )
    path.write_text("")
    with pytest.raises(DataError, match="empty"):
        TokenSet.load(path)
    with pytest.raises(DataError, match="cannot be read"):
        TokenSet.load(tmp_path / "absent.txt")
    path.write_text("\u2581he\nllo\n")
    with pytest.raises(DataError, match="model .* is missing"):
        TokenSet.load(path)


def test_unknown_tokens_are_named_with_an_utterance():
    tokens = TokenSet.build(["ab"], kind="char")
    with pytest.raises(DataError, match="token 'x' is not in the token set"):
        tokens.encode("axb")
    pairs = [("u1", "ab"), ("u2", "xyx"), ("u3", "x")]
    assert tokens.unknown(pairs) == {"x": (3, "u2"), "y": (1, "u2")}
    with pytest.raises(DataError) as caught:
        tokens.require_known(pairs, "validation data")
    assert len(caught.value.problems) == 2
    assert "validation data" in str(caught.value)
    assert "'x'" in caught.value.problems[0] and "utterance 'u2'" in caught.value.problems[0]


def test_unknown_tokens_become_unk_where_there_is_one(caplog):
    tokens = TokenSet.build(["ab"], kind="char", unk=True)
    with caplog.at_level(logging.WARNING):
        assert tokens.require_known([("u1", "axby")], "valid") == 2
    assert "2 tokens are mapped to <unk>" in caplog.text
    assert tokens.encode("axby") == [2, 1, 3, 1]
    assert tokens.unknown_count == 2


@pytest.mark.parametrize(
    ("tokens", "kind", "rule"),
    [
        ([BLANK], "char", "no token beside"),
        (["a", BLANK], "char", "token 0 must be"),
        ([BLANK, "a", "a"], "char", "duplicate"),
        ([BLANK, "a b"], "word", "white space"),
        ([BLANK, "a"], "letters", "unknown kind"),
        ([BLANK, "a"], "bpe", "sentencepiece"),
    ],
)
def test_malformed_sets(tokens, kind, rule):
    with pytest.raises(DataError, match=rule):
        TokenSet(tokens, kind)


TEXTS = ["hello world", "hello there world", "the world held", "hell is there"]


def test_bpe_pieces_are_learned(tmp_path):
    tokens = TokenSet.build(TEXTS, kind="bpe", size=20)
    assert len(tokens) == 21 and tokens.tokens[:2] == (BLANK, UNK) and tokens.kind == "bpe"
    for text in TEXTS:
        ids = tokens.encode(text)
        assert tokens.decode(ids) == text
        assert 0 not in ids and 1 not in ids  # every character has a piece
        assert len(ids) < len(text)
    # The same texts in another order give the same set, model and all.
    assert tokens == TokenSet.build(TEXTS[::-1], kind="bpe", size=20)
    assert tokens != TokenSet.build(TEXTS, kind="bpe", size=21)
    tokens.save(tmp_path / "tokens.txt")
    assert TokenSet.load(tmp_path / "tokens.txt") == tokens


@pytest.mark.parametrize(("size", "rule"), [(5, "no 5 BPE pieces"), (500, "no 500 BPE pieces")])
def test_bpe_sizes_that_the_texts_do_not_allow(size, rule):
    with pytest.raises(DataError, match=rule) as caught:
        TokenSet.build(TEXTS, kind="bpe", size=size)
    assert "ocabulary size" in str(caught.value)


def test_build_refuses_sizes_out_of_place_and_empty_texts():
    with pytest.raises(DataError, match="a size is for kind 'bpe', got None for 'bpe'"):
        TokenSet.build(["a"], kind="bpe")
    with pytest.raises(DataError, match="a size is for kind 'bpe', got 9 for 'char'"):
        TokenSet.build(["a"], kind="char", size=9)
    with pytest.raises(DataError, match="cannot be built"):
        TokenSet.build(["a"], kind="letters")
    with pytest.raises(DataError, match="no token at all"):
        TokenSet.build([" ", ""], kind="bpe", size=10)
    with pytest.raises(DataError, match="no token at all"):
        TokenSet.build([" ", ""], kind="char")


def test_sentencepiece_model(tmp_path):
    import sentencepiece as spm

    corpus = tmp_path / "text"
    corpus.write_text("hello world\nhello there world\nthe world held\n" * 20)
    spm.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(tmp_path / "bpe"), vocab_size=16, minloglevel=2
    )
    tokens = TokenSet.load(tmp_path / "bpe.model")
    assert tokens.kind == "bpe" and tokens.tokens[:2] == (BLANK, UNK)
    ids = tokens.encode("hello world")
    assert 0 not in ids and tokens.decode(ids) == "hello world"
    tokens.save(tmp_path / "out" / "tokens.txt")
    assert TokenSet.load(tmp_path / "out" / "tokens.txt") == tokens
    assert TokenSet.load(tmp_path / "out" / "tokens.model") == tokens
    (tmp_path / "broken.model").write_bytes(b"nonsense")
    with pytest.raises(DataError, match="cannot be read"):
        TokenSet.load(tmp_path / "broken.model")
