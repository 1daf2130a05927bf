"""Token sets: building, files, encoding, and what is refused."""

from __future__ import annotations

import logging

import pytest

from nas_encoder.data import BLANK, SPACE, UNK, TokenSet, fit_tokens
from nas_encoder.errors import DataError


def test_char_tokens_round_trip_and_do_not_depend_on_the_order_of_texts():
    tokens = TokenSet.build(["ba ab", "ca"], kind="char")
    assert tokens.tokens == (BLANK, SPACE, "a", "b", "c")
    assert tokens == TokenSet.build(["ca", "ba  ab"], kind="char")
    assert tokens.encode("ab  c") == [2, 3, 1, 1, 4]  # as in ESPnet and NeMo
    assert tokens.decode(tokens.encode(" ab  c")) == " ab  c"
    assert len(tokens) == 5


@pytest.mark.parametrize("kind", ["word", "phone", "syllable"])
def test_tokens_cut_at_white_space(kind):
    tokens = TokenSet.build(["sil sh iy", "sil"], kind=kind)
    assert tokens.tokens == (BLANK, "iy", "sh", "sil")
    assert tokens.decode(tokens.encode("sh iy sil")) == "sh iy sil"
    if kind == "phone":  # ESPnet finds an empty phone between two spaces
        assert tokens.split("sh  iy") == ["sh", "", "iy"]
        assert tokens.split("sh   iy sil") == ["sh", " ", "iy", "sil"]
    else:
        assert tokens.split("sh  iy") == ["sh", "iy"]


def test_tags_in_a_list_are_one_token_wherever_they_stand():
    listed = [BLANK, UNK, SPACE, "a", "b", "<noise>", "[laughter]", "<noise>s", "<sos/eos>"]
    tokens = TokenSet(listed, kind="char")
    text = "a <noise>b[laughter]<noise>s <unk>"
    assert tokens.split(text) == [
        *("a", SPACE, "<noise>", "b", "[laughter]", "<noise>s", SPACE, "<", "u", "n", "k", ">")
    ]
    assert tokens.encode("a <noise>[laughter]") == [3, 2, 5, 6]
    assert tokens.decode([3, 2, 5, 6]) == "a <noise>[laughter]"


def test_words_of_texts_that_hold_unk_or_blank():
    tokens = TokenSet.build(["the <unk> said", "the end"], kind="word")
    assert tokens.tokens == (BLANK, UNK, "end", "said", "the")
    assert tokens.encode("the <unk> said") == [4, 1, 3]
    with pytest.raises(DataError, match="'<blank>', which belongs to CTC alone"):
        tokens.encode("the <blank>")
    assert tokens.missing([("u", "<blank> end")]).problems(forbidden=False) == [
        "1 texts hold '<blank>', which belongs to CTC alone: utterance 'u'"
    ]


def test_lists_in_the_folders_of_espnets_recipes(tmp_path):
    """As asr.sh leaves them: char, phn and word beside a list, bpe with its model."""
    lists = {
        "zh_token_list/char": (["<blank>", "<unk>", "好", "天", "<noise>", "<sos/eos>"], "char"),
        "token_list/phn": (["<blank>", "<unk>", "a", "b", "<sos/eos>"], "phone"),
        "token_list/word": (["<blank>", "<unk>", "a", "b", "<sos/eos>"], "word"),
    }
    for folder, (tokens, kind) in lists.items():
        path = tmp_path / folder / "tokens.txt"
        path.parent.mkdir(parents=True)
        path.write_text("".join(f"{token}\n" for token in tokens))
        for given in (path, path.parent):
            assert TokenSet.load(given) == TokenSet(tokens, kind)
    learned = TokenSet.build(TEXTS, kind="bpe", size=20)
    folder = tmp_path / "en_token_list" / "bpe_unigram20"
    learned.save(folder / "bpe.model")
    pieces = [*learned.tokens, "<sos/eos>"]
    (folder / "tokens.txt").write_text("".join(f"{piece}\n" for piece in pieces))
    tokens = TokenSet.load(folder)
    assert tokens.tokens == tuple(pieces) and tokens.kind == "bpe"
    assert tokens.encode(TEXTS[0]) == learned.encode(TEXTS[0])


def test_bytes_of_unseen_characters_are_undone(tmp_path):
    import sentencepiece as spm

    (tmp_path / "text").write_text("hello world\nhello there world\nthe world held\n" * 20)
    prefix = str(tmp_path / "bpe")
    spm.SentencePieceTrainer.train(
        input=str(tmp_path / "text"),
        model_prefix=prefix,
        vocab_size=280,
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    tokens = TokenSet.load(f"{prefix}.model")
    text = "hello 天 wörld"
    assert "<0xE5>" in tokens.split(text)
    assert tokens.decode(tokens.encode(text)) == text


def test_tokens_of_a_training_and_what_only_its_other_sets_hold(tmp_path, caplog):
    sets = {"train": [("t1", "ab ab ab")], "valid": [("v1", "abx"), ("v2", "xya")]}
    with caplog.at_level(logging.WARNING):
        tokens = fit_tokens("char", sets)
    assert tokens.tokens == (BLANK, UNK, SPACE, "a", "b")
    assert tokens.encode("abx") == [3, 4, 1]
    (line,) = caplog.messages
    assert line == (
        "valid: read as <unk>, not in the token set: 3 of 6 tokens (50.00%), 2 different: "
        "'x' (2, first in 'v1'), 'y' (1, first in 'v2')"
    )
    assert fit_tokens("char", {"train": sets["train"]}).tokens == (BLANK, SPACE, "a", "b")
    with pytest.raises(DataError, match="valid: not in the token set: 3 of 6") as caught:
        fit_tokens("char", sets, unknown="error")
    assert "set unknown_tokens to unk" in caught.value.problems[-1]
    listed = tmp_path / "list.txt"
    listed.write_text("<blank>\na\nb\n<space>\n")  # its ids stay
    assert fit_tokens(str(listed), sets).tokens[-2:] == (SPACE, UNK)
    listed.write_text("<blank>\na\nb\n")  # not the list of these texts, or <unk> was forgotten
    with pytest.raises(DataError, match="train: not in the token set: 2 of 8"):
        fit_tokens(str(listed), sets)
    sets["valid"] = [("v1", "xyz")]
    with pytest.raises(DataError, match="valid: most is not in the token set, which is of other"):
        fit_tokens("char", sets)


def test_texts_that_no_file_can_hold(tmp_path):
    """JSON can escape half of a character."""
    tokens = fit_tokens("char", {"train": [("u", "ab\ud800 ab"), ("v\ud800", "b")]})
    assert tokens.tokens == (BLANK, UNK, SPACE, "a", "b")
    assert tokens.encode("a\ud800") == [3, 1]
    tokens.save(tmp_path / "tokens.txt")
    assert TokenSet.load(tmp_path / "tokens.txt") == tokens
    learned = TokenSet.build(TEXTS, kind="bpe", size=20)
    with pytest.raises(DataError, match="is no valid Unicode"):
        learned.encode("a\ud800")
    with pytest.raises(DataError, match="1 texts are no valid Unicode"):
        TokenSet.build([*TEXTS, "a\ud800"], kind="bpe", size=20)


def test_warnings_about_unknown_tokens_are_short():
    tokens = TokenSet.build(["a" * 100], kind="char")
    missing = tokens.missing([("u", "abcdefghijklmnopqrstuvwxyz")])
    assert str(missing).count("first in 'u'") == 10
    assert str(missing).endswith(", and 15 more") and missing.count == 25
    words = TokenSet.build(["a"], kind="word")
    assert len(str(words.missing([("u" * 9999, "b" * 9999)]))) < 200


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


def test_load_guesses_the_kind_and_adds_the_blank(tmp_path, caplog):
    path = tmp_path / "phones.txt"
    path.write_text("sil\nsh\n\n")
    with caplog.at_level(logging.WARNING):
        assert TokenSet.load(path).tokens == (BLANK, "sil", "sh")
    assert "'<blank>' is put in front, all ids are one more" in caplog.text
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
        "line 3: '': one token in a line is expected",
        "line 4: 'b c': one token without white space is expected",
        "line 5: 'a': a token may occur once",
        "line 2: '<blank>' must be the first token",
    )
    path.write_text("\ufeff<blank>\n<unk>\na\n")
    with pytest.raises(DataError, match="a byte order mark, which ESPnet reads as a part"):
        TokenSet.load(path)
    path.write_text("")
    with pytest.raises(DataError, match="empty"):
        TokenSet.load(path)
    with pytest.raises(DataError, match="cannot be read"):
        TokenSet.load(tmp_path / "absent.txt")
    path.write_text("\u2581he\nllo\n")
    with pytest.raises(DataError, match="bpe.model: holds BPE pieces, but their .* is missing"):
        TokenSet.load(path)


def test_unknown_tokens_are_named_with_an_utterance():
    tokens = TokenSet.build(["ab"], kind="char")
    with pytest.raises(DataError, match="token 'x' is not in the token set"):
        tokens.encode("axb")
    pairs = [("u1", "ab"), ("u2", "xyx"), ("u3", "x")]
    assert tokens.unknown(pairs) == {"x": (3, "u2"), "y": (1, "u2")}
    with pytest.raises(DataError) as caught:
        tokens.require_known(pairs, "validation data")
    assert "validation data" in str(caught.value)
    assert "4 of 6 tokens" in str(caught.value) and "'x' (3, first in 'u2')" in str(caught.value)


def test_unknown_tokens_become_unk_where_there_is_one():
    tokens = TokenSet.build(["ab"], kind="char", unk=True)
    assert tokens.require_known([("u1", "axby")], "valid") == 2
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
    with pytest.raises(DataError, match=r"neither a kind \(char, word, .*\) nor a file or folder"):
        TokenSet.of("chars", ["a"])
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
