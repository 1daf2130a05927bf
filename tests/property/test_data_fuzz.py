"""Malformed manifests: whatever is in them, the answer is data or our error."""

from __future__ import annotations

import copy
import json
import os
import random

import pytest
from data_samples import kaldi_dir

from nas_encoder.data import TokenSet, open_cuts, write_espnet_dir, write_nemo_manifest
from nas_encoder.errors import DataError

ROUNDS = 150
VALUES = [
    None, "", " ", "x", "~nobody/x", "a" * 5000, "\0", "\u2028", "nan", -1, 0, 1, 1.5, 10**400,
    float("nan"), float("inf"), -float("inf"), True, [], {}, [[]], {"id": 1}, "/", "x.ark:12",
    "echo 'x |",
]  # fmt: skip


def mutated_json(value, rng):
    """Replace, drop or add something, anywhere in a document."""
    value = copy.deepcopy(value)
    target = value
    while True:
        if isinstance(target, dict):
            keys = list(target)
        else:
            keys = list(range(len(target)))
        key = rng.choice(keys)
        if isinstance(target[key], dict | list) and target[key] and rng.random() < 0.7:
            target = target[key]
            continue
        action = rng.choice(("replace", "replace", "drop"))
        if action == "drop":
            del target[key]
        else:
            target[key] = rng.choice(VALUES)
        return value


def mutated_bytes(data, rng):
    data = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        data = data or bytearray(b"\n")
        position = rng.randrange(len(data))
        action = rng.randrange(3)
        if action == 0:
            data[position] = rng.randrange(256)
        elif action == 1:
            del data[position : position + rng.randint(1, 12)]
        else:
            data[position:position] = bytes(rng.choices(b'\n\t |\0\xff01-nan"{}[]', k=3))
    return bytes(data) or b"\n"


def data_or_our_error(source):
    """Open, and use what was opened."""
    try:
        cuts = open_cuts(source)
    except DataError as error:
        assert error.problems and str(error)
        return False
    for cut in cuts:
        assert cut.duration > 0 and cut.supervisions[0].text.strip()
    assert TokenSet.build([cut.supervisions[0].text for cut in cuts])
    return True


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    root = tmp_path_factory.mktemp("fuzz")
    cuts = open_cuts(kaldi_dir(root / "kaldi", [0.1, 0.2, 0.3]))
    cuts.to_file(root / "cuts.jsonl")
    write_nemo_manifest(cuts, root / "nemo.json")
    write_espnet_dir(cuts, root / "espnet")
    (root / "espnet" / "segments").write_text(
        "".join(f"{c.id} {c.id} 0.0 {c.duration}\n" for c in cuts)
    )
    return root


@pytest.mark.parametrize("name", ["cuts.jsonl", "nemo.json"])
def test_json_manifests_with_changed_values(sources, name, tmp_path):
    rng = random.Random(7)
    rows = [json.loads(line) for line in (sources / name).read_text().splitlines()]
    accepted = 0
    for _ in range(ROUNDS):
        changed = list(rows)
        changed[1] = mutated_json(rows[1], rng)
        path = tmp_path / "m.json"
        path.write_text("".join(json.dumps(row) + "\n" for row in changed))
        accepted += data_or_our_error(path)
    assert 0 < accepted < ROUNDS


@pytest.mark.parametrize("name", ["cuts.jsonl", "nemo.json"])
def test_json_manifests_with_changed_bytes(sources, name, tmp_path):
    rng = random.Random(8)
    data = (sources / name).read_bytes()
    for _ in range(ROUNDS):
        path = tmp_path / "m.json"
        path.write_bytes(mutated_bytes(data, rng))
        data_or_our_error(path)


def test_kaldi_folders_with_changed_bytes(sources, tmp_path):
    rng = random.Random(9)
    folder = sources / "espnet"
    names = sorted(os.listdir(folder))
    accepted = 0
    for _ in range(ROUNDS):
        chosen = rng.choice(names)
        for name in names:
            data = (folder / name).read_bytes()
            # No pipes: their commands would be run.
            changed = mutated_bytes(data, rng).replace(b"|", b" ") if name == chosen else data
            (tmp_path / name).write_bytes(changed)
        accepted += data_or_our_error(tmp_path)
    assert 0 < accepted < ROUNDS


def test_token_lists_with_changed_bytes(tmp_path):
    rng = random.Random(10)
    path = tmp_path / "tokens.txt"
    for _ in range(ROUNDS):
        path.write_bytes(mutated_bytes("<blank>\n<unk>\n<space>\na\nb\n好\n".encode(), rng))
        try:
            tokens = TokenSet.load(path)
        except DataError as error:
            assert str(path) in str(error)
        else:
            assert tokens.tokens[0] == "<blank>" and len(set(tokens.tokens)) == len(tokens)
