"""Registries and the errors of this package."""

from __future__ import annotations

import pickle

import pytest

from nas_encoder import errors
from nas_encoder.registry import Registry


def registry() -> Registry[object]:
    table: Registry[object] = Registry("fruit")
    table.add("apple", 1)
    table.add("pear", 2)
    return table


def test_a_registry_is_an_ordered_mapping() -> None:
    table = registry()
    assert list(table) == ["apple", "pear"]
    assert len(table) == 2
    assert table["pear"] == 2
    assert dict(table) == {"apple": 1, "pear": 2}
    assert "apple" in table
    assert "plum" not in table


def test_a_taken_name_is_refused_and_the_first_entry_stays() -> None:
    table = registry()
    with pytest.raises(errors.RegistryError, match="fruit 'apple' is registered already"):
        table.add("apple", 3)
    assert table["apple"] == 1


def test_registering_the_same_object_again_is_allowed() -> None:
    table, entry = registry(), object()
    assert table.add("fig", entry) is entry
    assert table.add("fig", entry) is entry
    assert len(table) == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("aple", r"unknown fruit 'aple' \(did you mean 'apple'\?\); known: apple, pear"),
        ("", "unknown fruit ''; known: apple, pear"),
        (None, "unknown fruit None; known: apple, pear"),
        (["apple"], "unknown fruit"),
    ],
)
def test_an_unknown_name_lists_the_known_ones(name: object, message: str) -> None:
    with pytest.raises(errors.RegistryError, match=message):
        registry()[name]  # type: ignore[index]


def test_get_and_contains_take_any_key() -> None:
    table = registry()
    assert table.get("pear") == 2
    assert table.get("plum") is None
    assert table.get("plum", 7) == 7
    assert table.get([], 7) == 7  # type: ignore[call-overload]
    assert [] not in table


def test_an_empty_registry_says_so() -> None:
    with pytest.raises(errors.RegistryError, match="known: none"):
        Registry("fruit")["apple"]


def test_problems_are_all_in_the_message() -> None:
    error = errors.GenotypeError("a.yaml", ["x: one", "y: two"])
    assert str(error) == "a.yaml: 2 problems:\n  - x: one\n  - y: two"
    assert str(errors.GenotypeError("a.yaml", ["x: one"])) == "a.yaml: x: one"
    assert error.problems == ("x: one", "y: two")


def test_a_message_stays_readable_however_many_problems_there_are() -> None:
    error = errors.DataError("manifest", [f"line {i}" for i in range(5000)])
    assert len(error.problems) == 5000
    assert str(error).endswith("- and 4900 more")
    assert str(error).startswith("manifest: 5000 problems:")


@pytest.mark.parametrize(
    "error",
    [
        errors.NasEncoderError("plain"),
        errors.GenotypeError("a", ["b", "c"]),
        errors.ConfigError("a", ["b"]),
        errors.DataError("a", ["b"]),
        errors.CheckpointError("a", ["b"]),
        errors.InputError("wrong"),
        errors.UtteranceTooShortError("short", 3, 4),
        errors.RegistryError("unknown"),
        errors.MissingDependencyError("optuna", "search", "searching"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_cross_process_borders_and_share_a_base(error: errors.NasEncoderError) -> None:
    assert isinstance(error, errors.NasEncoderError)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


def test_every_error_class_is_among_those_tested() -> None:
    parameters = test_errors_cross_process_borders_and_share_a_base.pytestmark[0].args[1]
    tested = {type(error) for error in parameters} | {errors.ProblemsError}
    defined = {
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, errors.NasEncoderError)
    }
    assert defined == tested
