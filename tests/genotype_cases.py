"""Genotypes to try: valid, mutated and corrupted ones of every space, as text and as mappings.

Valid ones must be read, survive their document and build; corrupted ones must be refused by our
errors; what chance has made of a document may be either, but nothing else.

    python tests/genotype_cases.py --count 10000          # counts by kind of case
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from genotype_damage import FRAGMENTS, VALUES

from nas_encoder import Genotype, build_encoder, list_genotypes, load_genotype
from nas_encoder.errors import NasEncoderError
from nas_encoder.genotype.catalog import ZOO as FOLDER
from nas_encoder.spaces import get_space, list_spaces
from nas_encoder.testing.baselines import padding_changes_nothing

TEXTS = [(FOLDER / f"{name}.yaml").read_bytes() for name in list_genotypes()]
DOCUMENTS = [yaml.safe_load(text) for text in TEXTS]
DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # ten times as fast where it is there


def check(outcome: Any) -> bool:
    """Run; return whether it gave a genotype. Anything but ours is an error of the test."""
    start = time.process_time()
    try:
        genotype = outcome()
    except NasEncoderError as error:
        text = str(error)
        text.encode("utf-8")
        assert len(text) < 100_000
        return False
    finally:
        assert time.process_time() - start < 5
    assert isinstance(genotype, Genotype)
    again = Genotype.from_dict(genotype.to_dict())
    assert again.hash == genotype.hash
    return True


def mutate_bytes(rng: random.Random, text: bytes) -> bytes:
    """Damage a text anywhere."""
    data = bytearray(text)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        place = rng.randrange(len(data) + 1)
        kind = rng.randrange(6)
        if kind == 0 and data:
            data[place % len(data)] = rng.randrange(256)
        elif kind == 1:
            del data[place : place + rng.randrange(1, 40)]
        elif kind == 2:
            data[place:place] = rng.choice(FRAGMENTS)
        elif kind == 3:
            other = rng.choice(TEXTS)
            start = rng.randrange(len(other))
            data[place:place] = other[start : start + rng.randrange(1, 120)]
        elif kind == 4:
            data[place : place + rng.randrange(20)] = rng.choice(FRAGMENTS)
        else:
            del data[place:]
    return bytes(data)


def places(value: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Return all (container, key) of a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        found.append((value, key))
        if isinstance(item, (dict, list)):
            places(item, found)
    return found


def mutate_document(rng: random.Random, doc: Any) -> Any:
    """Damage a document anywhere."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        found = places(doc, [])
        if not found:
            break
        container, key = rng.choice(found)
        kind = rng.randrange(5)
        if kind == 0:
            del container[key]
        elif kind == 1:
            container[key] = copy.deepcopy(rng.choice(VALUES))
        elif kind == 2:
            other, other_key = rng.choice(found)
            container[key] = copy.deepcopy(other[other_key])
        elif kind == 3 and isinstance(container, list):
            container.extend(copy.deepcopy(container[: rng.randrange(5)]))
        elif isinstance(container, dict):
            new = copy.deepcopy(rng.choice(VALUES))
            try:
                container[new] = copy.deepcopy(rng.choice(VALUES))
            except TypeError:  # not a key
                container[str(key) * 2] = new
    return doc


@dataclass(frozen=True)
class Case:
    """One input.

    Attributes:
        kind: What was done.
        value: A document, or the bytes of a file.
        valid: Whether it must be read (True) or refused (False); None if either may happen.
        hash: Of the genotype that it must give, if known.
    """

    kind: str
    value: Any
    valid: bool | None
    hash: str | None = None


def own_places(document: dict[str, Any]) -> list[tuple[Any, Any]]:
    """Return all (container, key) of a document but those in its provenance."""
    rest = {key: value for key, value in document.items() if key != "provenance"}
    return [(document if box is rest else box, key) for box, key in places(rest, [])]


# Keys that have a default: of cells with skips, and of block encoders all but these.
OPTIONAL = ("skips", "causal_after", "provenance")
NEEDED_OF_BLOCKS = {"schema", "name", "space", "front", "stages", "width", "modules", "kind"}


def needed(box: Any, key: Any) -> bool:
    """Return whether a document without a key must be refused."""
    if not isinstance(box, dict) or key in OPTIONAL:
        return False
    of_blocks = "stages" in box or "kind" in box or "modules" in box or "channels" in box
    return not of_blocks or key in NEEDED_OF_BLOCKS or "genotype" in box


def corrupted(rng: random.Random, document: dict[str, Any], kind: str) -> Any:
    """Return a document or text that must be refused."""
    found = own_places(document)
    numbers = [(box, key) for box, key in found if type(box[key]) is int]
    box, key = rng.choice(found)
    if kind == "wrong type":
        own = int | float if isinstance(box[key], float) else type(box[key])  # 2 is 2.0
        wrong = [value for value in VALUES if not isinstance(value, own | tuple)]
        if key == "ahead" and box["kind"] in ("attention", "parallel"):  # null: as before
            wrong = [value for value in wrong if value is not None]
        box[key] = copy.deepcopy(rng.choice(wrong))
    elif kind in ("huge number", "not a number"):
        box, key = rng.choice(numbers)
        huge = (2**63, -(2**70), 10**40, 10**6000)
        box[key] = rng.choice(huge if kind == "huge number" else (float("nan"), float("inf"), 0.5))
    elif kind == "missing key":
        required = [(box, key) for box, key in found if needed(box, key)]
        box, key = rng.choice(required)
        del box[key]
    elif kind == "extra key":
        boxes = [document, *(box[key] for box, key in found if isinstance(box[key], dict))]
        rng.choice(boxes)[rng.choice(["ops", "Nodes", "", "x" * 300, 7, None])] = 1
    elif kind == "unknown operation":
        names = [(box, key) for box, key in found if isinstance(box[key], str) and key != "name"]
        box, key = rng.choice(names)
        box[key] = rng.choice([box[key] + "x", box[key][1:], box[key].upper(), "none\x00", "conv"])
    elif kind == "deep nesting":
        for _ in range(rng.choice((1, 9, 900))):
            box[key] = [box[key]] if rng.random() < 0.5 else {"nodes": box[key]}
    elif kind == "contains itself":
        box[key] = document
    return document


def corrupted_text(rng: random.Random, document: dict[str, Any], kind: str) -> bytes:
    """Return a text that must be refused."""
    lines = yaml.dump(document, Dumper=DUMPER, sort_keys=rng.random() < 0.5).splitlines()
    starts = [place for place, line in enumerate(lines) if not line.startswith((" ", "-"))]
    at = rng.choice(starts)
    if kind == "duplicate key":
        lines.append(f"{lines[at].split(':')[0]}: {rng.choice(['1', 'again', '[]'])}")
    elif kind == "alias":
        lines = [f"a: &a {rng.choice(['1', '[1]', '{b: c}'])}", *lines, "b: *a"]
    elif kind == "deep text":
        depth = rng.choice((30, 99, 101, 500, 1000, 5000))
        lines.append("more: " + rng.choice(["[" * depth + "]" * depth, "{a: " * depth]))
    elif kind == "cut short":  # before the last of the required keys
        required = [line.split(":")[0] not in OPTIONAL for line in lines]
        text = "\n".join(lines[: max(at for at in starts if required[at])])
        return text[: rng.randrange(len(text))].encode()
    return "\n".join(lines).encode()


def written(rng: random.Random, document: dict[str, Any]) -> bytes:
    """Return a document as somebody else's editor would write it."""
    text = yaml.dump(
        document,
        Dumper=DUMPER,
        sort_keys=rng.random() < 0.5,
        default_flow_style=rng.choice((None, True, False)),
        indent=rng.choice((1, 2, 4)),
        width=rng.choice((20, 80, 10_000)),
    )
    text = rng.choice(("", "# a comment\n", "---\n")) + text + rng.choice(("", "\n# end\n", "\n\n"))
    data = text.replace("\n", rng.choice(("\n", "\r\n"))).encode()
    return rng.choice((b"", b"\xef\xbb\xbf")) + data


IN_DOCUMENTS = ("wrong type", "huge number", "not a number", "missing key", "extra key")
IN_DOCUMENTS += ("unknown operation", "deep nesting", "contains itself")
IN_TEXTS = ("duplicate key", "alias", "deep text", "cut short")
BY_CHANCE = ("bytes by chance", "values by chance", "cut anywhere")
VALID = ("sampled", "mutated", "written")


def cases(seed: int, count: int) -> Iterator[Case]:
    """Yield cases of every kind over every space; a case depends on its number and the seed."""
    kinds = (*VALID, *BY_CHANCE, *IN_DOCUMENTS, *IN_TEXTS)
    for number in range(count):
        rng = random.Random(f"{seed} {number}")
        kind = kinds[number % len(kinds)]
        space = get_space(rng.choice(list_spaces()))
        genotype = space.sample(rng)
        if kind == "mutated":
            for _ in range(3):
                genotype = space.mutate(genotype, rng)
        document = genotype.to_dict()
        if kind in ("sampled", "mutated"):
            yield Case(kind, document, True, genotype.hash)
        elif kind == "written":
            yield Case(kind, written(rng, document), True, genotype.hash)
        elif kind == "values by chance":
            source = rng.choice((document, copy.deepcopy(rng.choice(DOCUMENTS))))
            yield Case(kind, mutate_document(rng, source), None)
        elif kind == "bytes by chance":
            yield Case(kind, mutate_bytes(rng, rng.choice((written(rng, document), *TEXTS))), None)
        elif kind == "cut anywhere":
            text = written(rng, document)
            yield Case(kind, text[: rng.randrange(len(text))], None)
        elif kind in IN_DOCUMENTS:
            yield Case(kind, corrupted(rng, document, kind), False)
        else:
            yield Case(kind, corrupted_text(rng, document, kind), False)


def read(case: Case, folder: Path) -> Genotype | None:
    """Read a case as users do: a mapping, or a file; None if it is refused."""
    source = case.value
    if isinstance(source, bytes):
        source = folder / "case.yaml"
        source.write_bytes(case.value)
    found: list[Genotype] = []

    def load() -> Genotype:
        found.append(load_genotype(source))
        return found[0]

    accepted = check(load)
    assert case.valid in (None, accepted), f"{case.kind}: {accepted}, {str(case.value)[:2000]}"
    assert case.hash in (None, found[0].hash if found else None), case.kind
    return found[0] if accepted else None


def build(genotype: Genotype, path: Path) -> None:
    """Save it, build a small network, and check that padding changes nothing in its outputs."""
    genotype.save(path)
    assert load_genotype(path).hash == genotype.hash
    torch.manual_seed(0)
    module = build_encoder(genotype, input_size=8, channels=4, layers=3, output_size=6)
    with torch.no_grad():
        padding_changes_nothing(module.double().eval())


def run(seed: int, count: int, build_every: int) -> dict[str, Counter[str]]:
    """Try cases; return for each kind how many were read, refused and built.

    Of the valid ones every so many are built, and all that chance has made.
    """
    counts: dict[str, Counter[str]] = {}
    accepted = 0
    with tempfile.TemporaryDirectory() as folder:
        for case in cases(seed, count):
            genotype = read(case, Path(folder))
            own = counts.setdefault(case.kind, Counter())
            own["refused" if genotype is None else "read"] += 1
            if genotype is not None:
                accepted += 1
                if case.valid is None or accepted % build_every == 0:
                    build(genotype, Path(folder) / "saved.yaml")
                    own["built"] += 1
    return counts


def main() -> None:
    """Print counts by kind of case."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument(
        "--build-every", type=int, default=20, help="of valid ones; all that chance made"
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    counts = run(arguments.seed, arguments.count, arguments.build_every)
    total = sum(counts.values(), Counter())
    if arguments.json:
        print(json.dumps({"count": arguments.count, "total": total, "kinds": counts}))
        return
    for kind, own in (*counts.items(), ("all", total)):
        print(f"{kind:20}", *(f"{own[name]:6} {name}" for name in ("read", "refused", "built")))


if __name__ == "__main__":
    main()
