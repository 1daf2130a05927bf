"""Random token lists and texts have the ids that ESPnet and NeMo give them, or are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from token_lists import HARMLESS, SPOILS, cases, run


def test_cases_are_those_of_their_seed_and_of_every_kind() -> None:
    found = list(cases(7, 400))
    assert found[:30] == list(cases(7, 30)) != list(cases(8, 30))
    assert {case.kind for case in found} == {"char", "word", "phone", "bpe"}
    assert {case.spoil for case in found} == {None, *SPOILS} > HARMLESS


@pytest.mark.espnet
@pytest.mark.slow
def test_ids_and_texts_are_those_of_espnet(tmp_path: Path) -> None:
    counts = run(0, 300, tmp_path)
    assert counts.wrong == []
    assert counts.same > 200 and counts.refused_lists > 20 and counts.refused_texts > 5


@pytest.mark.espnet
@pytest.mark.nemo
@pytest.mark.slow
def test_ids_and_texts_are_those_of_nemo_too(tmp_path: Path) -> None:
    assert run(1, 120, tmp_path, nemo=True).wrong == []


@pytest.mark.espnet
@pytest.mark.slow
def test_a_difference_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were texts split as they were once, with white space run together, it would show."""
    from nas_encoder.data import TokenSet

    split = TokenSet.split
    monkeypatch.setattr(TokenSet, "split", lambda self, text: split(self, " ".join(text.split())))
    wrong = run(0, 100, tmp_path).wrong
    assert wrong and {entry.split()[0] for entry in wrong} <= {"char", "phone"}
