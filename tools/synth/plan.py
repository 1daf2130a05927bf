"""Decides who says what: speakers and sentences of each split, before any audio exists."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

from nas_encoder.errors import DataError
from tools.synth import english, mandarin
from tools.synth.corpus import Plan, Request, Split, Utterance
from tools.synth.espeak import Voice
from tools.synth.layouts.base import Layout
from tools.synth.voices import Speaker, variant_pools

DRAWERS: dict[str, Callable[[random.Random], tuple[str, ...]]] = {
    "en": english.draw_sentence,
    "zh": mandarin.draw_sentence,
}


def make_plan(request: Request, layout: Layout) -> Plan:
    """Draw the speakers and sentences of a request, in the layout that it names.

    The plan depends only on the request. No speaker, espeak variant (except in a second test set)
    or sentence occurs in two splits. Test is drawn first, then dev, then train, so that a seed's
    test set does not depend on the size of the training set.

    Raises:
        DataError: Values are out of range, or there are more speakers than the layout can name or
            the voices allow, or more sentences than the grammar has.
    """
    problems = request.problems() + layout.problems(request)
    if problems:
        raise DataError("corpus arguments", problems)
    splits = layout.splits(request)
    seen: set[tuple[str, ...]] = set()
    voices: set[Voice] = set()
    used: Counter[tuple[str, str]] = Counter()
    speakers: dict[str, list[Speaker]] = {}
    utterances: dict[str, list[Utterance]] = {}
    order = ("test", "dev", "other", "train")
    # Further splits come last, so that they change nothing in the others.
    for split in sorted(splits, key=lambda split: (split.first > 0, order.index(split.kind))):
        speakers[split.name] = _draw_speakers(request, layout, split, voices, used)
        own = split.name if split.first else split.kind
        draw = _new_sentences(layout.language, f"{request.seed}/sentences/{own}", seen)
        utterances[split.name] = layout.utterances(split, speakers[split.name], draw)
    return Plan(
        tuple(splits),
        tuple(speaker for split in splits for speaker in speakers[split.name]),
        tuple(utterance for split in splits for utterance in utterances[split.name]),
    )


def _draw_speakers(
    request: Request,
    layout: Layout,
    split: Split,
    taken: set[Voice],
    used: Counter[tuple[str, str]],
) -> list[Speaker]:
    """Draw the speakers of one split, with pairwise different voices.

    Args:
        request: The corpus.
        layout: Its layout.
        split: The split.
        taken: Voices in use; the new ones are added.
        used: Number of variants handed out by share and gender; updated.
    """
    rng = random.Random(f"{request.seed}/speakers/{split.name}")
    pools = variant_pools(request.seed, layout.echo)
    share = "test" if split.kind == "other" else split.kind
    names = layout.speaker_names(split, random.Random(f"{request.seed}/names/{split.kind}"))
    speakers = []
    for name, gender in names:
        pool = pools[share, gender]
        # Each variant once, then all of them again with another pitch, rate and accent.
        variant = pool[used[share, gender] % len(pool)]
        used[share, gender] += 1
        for _ in range(1000):
            voice = Voice(
                name=f"{rng.choice(layout.accents)}+{variant}",
                rate=rng.randint(*request.rates),
                pitch=rng.randint(35, 65),
                range=rng.randint(30, 70),
            )
            if voice not in taken:
                break
        else:
            raise DataError(
                f"{len(names)} {split.name} speakers",
                [f"no further voice with variant {variant}; ask for fewer or widen --rate"],
            )
        taken.add(voice)
        speakers.append(Speaker(name, split.name, gender, voice))
    return speakers


def _new_sentences(
    language: str, seed: str, seen: set[tuple[str, ...]]
) -> Callable[[], tuple[str, ...]]:
    """Return a function that draws a sentence never drawn before."""
    rng = random.Random(seed)

    def draw() -> tuple[str, ...]:
        for _ in range(2000):
            words = DRAWERS[language](rng)
            if words not in seen:
                seen.add(words)
                return words
        raise DataError(
            "corpus arguments",
            [f"the grammar has no further sentence after {len(seen)}; ask for fewer utterances"],
        )

    return draw
