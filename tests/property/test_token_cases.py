"""Random token lists and texts have the ids that ESPnet and NeMo give them, or are refused."""

from __future__ import annotations

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
    outcomes = cases(0, 300, nemo=False)
    assert min(outcomes[f"{kind}: the same"] for kind in ("char", "word", "phone", "bpe")) > 30
    assert sum(n for outcome, n in outcomes.items() if outcome.endswith(": refused")) > 30


@pytest.mark.espnet
@pytest.mark.nemo
@pytest.mark.slow
def test_ids_and_texts_are_those_of_nemo_too() -> None:
    assert cases(1, 100)["texts: the same"] > 400


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
