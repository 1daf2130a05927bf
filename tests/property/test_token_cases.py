"""Random token lists and texts have the ids that ESPnet and NeMo give them, or are refused."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from token_cases import HARMLESS, SPOILS, cases, lists

from nas_encoder.data import TokenSet


def test_cases_are_those_of_their_seed_and_of_every_kind() -> None:
    found = list(lists(7, 400))
    assert found[:30] == list(lists(7, 30)) != list(lists(8, 30))
    assert {case.kind for case in found} == {"char", "word", "phone", "bpe"}
    assert {case.spoil for case in found} == {None, *SPOILS} > HARMLESS


@pytest.mark.espnet
@pytest.mark.slow
def test_ids_and_texts_are_those_of_espnet() -> None:
    outcomes = cases(0, 700, nemo=False)
    assert min(outcomes[f"{kind}: the same"] for kind in ("char", "word", "phone", "bpe")) > 30
    assert sum(n for outcome, n in outcomes.items() if outcome.endswith(": refused")) > 30


@pytest.mark.espnet
@pytest.mark.nemo
@pytest.mark.slow
def test_ids_and_texts_are_those_of_nemo_too() -> None:
    assert cases(1, 300)["texts: the same"] > 1200


@pytest.mark.espnet
@pytest.mark.slow
@pytest.mark.parametrize("fault", ["white space", "tags", "bytes"])
def test_a_difference_is_found(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """Were texts split and joined as they were once, it would show."""
    split, decode = TokenSet.split, TokenSet.decode
    faulty = {
        "white space": ("split", lambda own, text: split(own, " ".join(text.split()))),
        "tags": ("split", lambda own, text: [c if c != " " else "<space>" for c in text]),
        "bytes": ("decode", lambda own, ids: decode(own, ids).replace("é", "<0xC3><0xA9>")),
    }
    monkeypatch.setattr(TokenSet, *faulty[fault])
    with pytest.raises(AssertionError, match="case .* of seed 0"):
        cases(0, 100, nemo=False)


@pytest.mark.espnet
@pytest.mark.slow
def test_lists_that_espnet_makes_of_texts(tmp_path: Path) -> None:
    """With espnet2.bin.tokenize_text, as asr.sh calls it in stage 5."""
    import sentencepiece
    from espnet2.bin.tokenize_text import main

    texts = ["the <noise> cat sat", "今天 天气  <noise>好", "AH0 n t dx", "naïve e\u0301"]
    (tmp_path / "text").write_text("".join(f"u{i} {text}\n" for i, text in enumerate(texts)))
    (tmp_path / "nlsyms.txt").write_text("<noise>\n")
    (tmp_path / "plain").write_text("".join(f"{text}\n" for text in texts * 20))
    prefix = tmp_path / "token_list" / "bpe_unigram40" / "bpe"
    prefix.parent.mkdir(parents=True)
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "plain"),
        model_prefix=str(prefix),
        vocab_size=40,
        hard_vocab_limit=False,
        character_coverage=1.0,
        minloglevel=2,
    )
    kinds = {"char": "char", "word": "word", "phn": "phone", "bpe_unigram40": "bpe"}
    for folder, kind in kinds.items():
        path = tmp_path / "token_list" / folder / "tokens.txt"
        command = ["--token_type", folder.split("_")[0], "--field", "2-", "--cleaner", "none"]
        command += ["--input", str(tmp_path / "text"), "--output", str(path), "--g2p", "none"]
        command += ["--non_linguistic_symbols", str(tmp_path / "nlsyms.txt")]
        command += ["--write_vocabulary", "true", "--bpemodel", f"{prefix}.model"]
        for symbol in ("<blank>:0", "<unk>:1", "<sos/eos>:-1"):
            command += ["--add_symbol", symbol]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            main(command)
        tokens = TokenSet.load(path)
        assert tokens.kind == kind
        assert list(tokens.tokens) == path.read_text().splitlines()
        assert tokens.tokens[-1] == "<sos/eos>" and len(tokens) > 8
        for text in texts:
            assert 1 not in tokens.encode(" ".join(text.split())), (kind, text)
        if kind == "char":
            assert "<noise>" in tokens.split(texts[0])
