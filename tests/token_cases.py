"""Random token lists and texts, split and joined by ours and by the toolkits' own tokenizers.

    python tests/token_cases.py --count 1000 --seed 1      # prints how many of each outcome

Each case is a list as a file, sound or spoiled in a way that users' files are, and texts. A case
passes if our tokens have the ids and texts of the real tokenizers, or if we refuse what is spoiled.
"""

from __future__ import annotations

import argparse
import io
import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import sentencepiece
from nemo_configs import imported

from nas_encoder.data import BLANK, SPACE, UNK, TokenSet
from nas_encoder.errors import DataError

ALPHABETS = (
    "abcdefghijklmnopqrstuvwxyz'",
    "ABCDEFGHIJKLMNOPQRSTUVWXYZ.,?!-",
    "αβγδεζηθικλμνξοπρστυφχψω",
    "абвгдежзийклмнопрстуфхцчшщъыьэюя",
    "今天气好不我是的了在有人这中大来上国",
    "かきくけこさしすせそ゛゜ーっ",
    "가나다라마바사아자차카타파하",
    "aeiouy\u0300\u0301\u0302\u0308\u030a\u0327",  # combining marks
    "ابتثجحخدذرزسشصضطظعغ\u064b\u064e",
    "😀👩\u200d👧🎉0123456789<>[]",
    "ab\u00a0\u3000\t\u2009",  # white space that is no space
)
TAGS = ("<noise>", "[laughter]", "<*IN*>", "<NOISE>", "[vocalized-noise]", "<breath in>", "{um}")
WORDS = ("the", "cat", "sat", "naïve", "北京", "день", "o'clock", "a", "I", "well-known")
PHONES = ("sil", "aa", "ae", "dx", "h#", "ix", "n", "t", "AH0", "ʃ", "tɕʰ")
SPOILS = (
    *("byte order mark", "duplicate", "empty line", "no blank", "no unk", "blank not first"),
    *("invalid UTF-8", "leading space", "white space at the ends", "two words", "nothing"),
    *("empty line at the end", "carriage returns", "very long token", "only specials"),
    "bare space",
)
# With these, ids and texts are still those of ESPnet.
HARMLESS = {
    *(None, "no blank", "no unk", "white space at the ends", "carriage returns"),
    *("very long token", "empty line at the end", "only specials"),
}


@dataclass(frozen=True)
class Case:
    """A list and texts; ``spoil`` is what is wrong with the file, ``model`` for ``bpe`` only."""

    number: int
    kind: str
    tokens: tuple[str, ...]
    content: bytes
    texts: tuple[str, ...]
    spoil: str | None = None
    model: bytes | None = None


def lists(seed: int, count: int) -> Iterator[Case]:
    """Yield random cases, the same ones for the same seed."""
    for number in range(count):
        yield _case(number, random.Random(f"{seed} {number}"))


def cases(seed: int, count: int, nemo: bool = True) -> Counter[str]:
    """Try ``count`` token lists, each with texts; return how many had which outcome.

    Raises:
        AssertionError: Ids or texts differ from those of ESPnet or NeMo; the case is named.
    """
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for case in lists(seed, count):
            try:
                outcome = compare(case, Path(folder), outcomes)
                if nemo:
                    compare_with_nemo(case, Path(folder))
            except Exception as error:
                what = f"case {case.number} of seed {seed}: {case.kind}, {case.spoil or 'sound'}"
                raise AssertionError(what) from error
            outcomes[f"{case.kind}: {outcome}"] += 1
    return outcomes


def compare(case: Case, folder: Path, outcomes: Counter[str]) -> str:
    """Compare one case with ESPnet; return its outcome, and count those of its texts."""
    from espnet2.text.char_tokenizer import CharTokenizer
    from espnet2.text.phoneme_tokenizer import PhonemeTokenizer
    from espnet2.text.sentencepiece_tokenizer import SentencepiecesTokenizer
    from espnet2.text.token_id_converter import TokenIDConverter
    from espnet2.text.word_tokenizer import WordTokenizer

    path = folder / "tokens.txt"
    path.write_bytes(case.content)
    (folder / "bpe.model").write_bytes(case.model or b"")
    try:
        ours = TokenSet.load(path, kind=case.kind)
    except DataError:
        assert case.spoil not in HARMLESS, "a sound list was refused"
        return "refused"
    assert case.spoil in HARMLESS, "a spoiled list was read"
    has_unk = UNK in case.tokens
    converter = TokenIDConverter(path if has_unk else [*case.tokens, UNK])
    shift = 0 if case.tokens[0] == BLANK else 1  # we put the blank in front
    tags = [t for t in case.tokens if len(t) > 1 and t not in (BLANK, UNK, SPACE, "<sos/eos>")]
    tokenizer: Any = {
        "char": lambda: CharTokenizer(tags),
        "word": WordTokenizer,
        "phone": lambda: PhonemeTokenizer(None),
        "bpe": lambda: SentencepiecesTokenizer(folder / "bpe.model"),
    }[case.kind]()
    for text in case.texts:
        pieces = tokenizer.text2tokens(text)
        assert ours.split(text) == pieces, (text, pieces)
        expected = [i + shift for i in converter.tokens2ids(pieces)]
        try:
            ids = ours.encode(text)
        except DataError:
            unknown = not set(pieces) <= set(case.tokens)
            assert BLANK in pieces or (unknown and not has_unk), (text, pieces)
            outcomes["texts: refused"] += 1
            continue
        assert ids == expected, (text, ids, expected)
        said = tokenizer.tokens2text(converter.ids2tokens([i - shift for i in ids]))
        joined = " ".join if case.kind == "phone" else lambda _, said=said: said
        assert ours.decode(ids) == joined([ours.tokens[i] for i in ids]), text
        outcomes["texts: the same"] += 1
    return "the same"


def compare_with_nemo(case: Case, folder: Path) -> None:
    """Compare one case with NeMo's parser of characters, or its SentencePiece tokenizer."""
    if case.spoil is not None or case.kind not in ("char", "bpe"):
        return
    ours = TokenSet.load(folder / "tokens.txt", kind=case.kind)
    if case.kind == "bpe":
        module = imported("nemo.collections.common.tokenizers.sentencepiece_tokenizer")
        theirs = module.SentencePieceTokenizer(str(folder / "bpe.model"))
        for text in case.texts:
            assert ours.split(text) == theirs.text_to_tokens(text), text
            ids = theirs.text_to_ids(text)
            assert ours.decode(ours.encode(text)) == theirs.ids_to_text(ids), text
        return
    labels = [" " if token == SPACE else token for token in ours.tokens]
    module = imported("nemo.collections.common.parts.preprocessing.parsers")
    parser = module.CharParser(labels, unk_id=labels.index(UNK), do_normalize=False)
    for text in case.texts:
        if not any(len(label) > 1 and label in text for label in labels):
            assert ours.encode(text) == parser(text), text


def _case(number: int, rng: random.Random) -> Case:
    kind = rng.choice(("char", "char", "word", "phone", "bpe"))
    spoil = rng.choice(SPOILS) if rng.random() < 0.3 else None
    if spoil == "two words" and kind == "char":
        spoil = None  # which a tag may be
    model = None
    if kind == "bpe":
        model, pieces = _model(rng.randrange(6))
        own = list(pieces)
    elif kind == "char":
        own = sorted({c for name in rng.sample(ALPHABETS, rng.randint(1, 3)) for c in name})
        rng.shuffle(own)
        own = own[: rng.randint(2, len(own))]
        own += rng.sample(TAGS, rng.randint(0, 4))
        own += [SPACE] if rng.random() < 0.7 else []
    else:
        known = WORDS if kind == "word" else PHONES
        own = rng.sample(known, rng.randint(2, len(known)))
        own += rng.sample(("<noise>", "[laughter]", "{um}"), rng.randint(0, 2))
    plain = list(own)
    if spoil == "very long token":
        own.append("x" * 20000)
    if spoil in ("only specials", "bare space"):
        own = [" "] if spoil == "bare space" else []
    if rng.random() < 0.1 and kind == "word":
        own += [f"w{place}" for place in range(5000)]
    tokens = [BLANK, UNK, *own, "<sos/eos>"]
    if spoil == "no blank":
        tokens.remove(BLANK)
    elif spoil == "no unk":
        tokens.remove(UNK)
    elif spoil == "blank not first":
        tokens.append(tokens.pop(0))
    content = _written(tokens, spoil, rng)
    texts = tuple(_text(kind, plain, rng) for _ in range(rng.randint(3, 12)))
    return Case(number, kind, tuple(tokens), content, texts, spoil, model)


def _written(tokens: list[str], spoil: str | None, rng: random.Random) -> bytes:
    lines = list(tokens)
    place = rng.randrange(1, len(lines))
    if spoil == "duplicate":
        lines.insert(place, rng.choice([t for t in lines if t != BLANK]))
    elif spoil == "empty line":
        lines.insert(place, "")
    elif spoil == "leading space":
        lines[place] = " " + lines[place]
    elif spoil == "two words":
        lines.insert(place, "two words")
    elif spoil == "white space at the ends":
        lines = [line + rng.choice(("", " ", "\t", " \t ")) for line in lines]
    end = "\r\n" if spoil == "carriage returns" else "\n"
    content = "".join(line + end for line in lines)
    if spoil == "empty line at the end":
        content += "\n"
    if spoil == "byte order mark":
        content = "\ufeff" + content
    data = content.encode()
    if spoil == "invalid UTF-8":
        data = data[: len(data) // 2] + b"\xff\xfe" + data[len(data) // 2 :]
    return b"" if spoil == "nothing" else data


def _text(kind: str, own: list[str], rng: random.Random) -> str:
    if rng.random() < 0.03:
        return ""
    length = rng.randint(1, 40) if rng.random() < 0.98 else 5000
    strange = ["é", "龘", "\u0301", "Ω", "unheard", "<unk>", "<noise>", "[laughter]", "<", "🎉"]
    if rng.random() < 0.1:
        strange += [BLANK, SPACE, "<sos/eos>", "\u3000", "\t"]
    pieces = []
    for _ in range(length):
        pieces.append(rng.choice(strange) if rng.random() < 0.05 else rng.choice(own))
        if kind != "char" or rng.random() < 0.2:
            pieces.append(rng.choice((" ", " ", " ", "  ", "   ")) if rng.random() < 0.1 else " ")
    text = "".join(" " if p == SPACE else p for p in pieces)
    if kind == "bpe":
        text = text.replace("\u2581", " ")
    return text if rng.random() < 0.2 else text.strip(" ")


@lru_cache
def _model(number: int) -> tuple[bytes, tuple[str, ...]]:
    """Return a model of ``spm_train`` as ESPnet calls it, or with bytes or tags, and its list."""
    rng = random.Random(number)
    words = [rng.choice(WORDS) for _ in range(400)]
    lines = [" ".join(words[place : place + 8]) for place in range(0, 400, 8)]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        vocab_size=340 if number % 3 == 1 else 60,
        model_type=("unigram", "bpe")[number % 2],
        byte_fallback=number % 3 == 1,
        user_defined_symbols=["<noise>"] if number % 3 == 2 else [],
        hard_vocab_limit=False,
        character_coverage=1.0,
        minloglevel=2,
    )
    processor: Any = sentencepiece.SentencePieceProcessor()
    processor.LoadFromSerializedProto(model.getvalue())
    pieces = map(processor.id_to_piece, range(processor.get_piece_size()))
    return model.getvalue(), tuple(p for p in pieces if p not in (UNK, "<s>", "</s>"))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    for outcome, number in sorted(cases(args.seed, args.count).items()):
        print(f"{number:6} {outcome}")


if __name__ == "__main__":
    main()
