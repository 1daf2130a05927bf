"""The speakers: espeak-ng's voice variants with pitch, speed and accent.

A variant changes the formants, the voice source and the pitch, and so makes the greatest
difference between synthetic speakers. Each variant belongs to one split, so a test speaker's
variant never occurs in training.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from tools.synth.espeak import Voice

FEMALE: tuple[str, ...] = (
    "Andrea", "Annie", "anika", "aunty", "belinda", "f1", "grandma", "linda", "shelby", "steph",
)  # fmt: skip
MALE: tuple[str, ...] = (
    "Alex", "Andy", "Denis", "Diogo", "Gene", "Gene2", "Hugo", "Jacky", "Lee", "Mario",
    "Michael", "Mike", "Nguyen", "Reed", "Tweaky", "adam", "antonio", "benjamin", "boris",
    "david", "ed", "edward", "gustave", "ian", "iven", "iven2", "iven3", "john", "kaukovalta",
    "klatt", "klatt3", "klatt4", "m1", "m3", "m4", "m5", "m6", "m7", "m8", "marcelo", "max",
    "michel", "mike2", "norbert", "paul", "pedro", "quincy", "rob", "robert", "sandro",
    "travis", "victor",
)  # fmt: skip
"""Variants of espeak-ng 1.52 that sound like a person speaking.

Left out: whispers, creaks and robots; near copies of another one (mean log-mel spectra of
one sentence closer than 0.35 at equal pitch); see ``ECHOING`` for those with an echo. Gender
is what the variant declares, or else follows from its pitch.
"""

FEMALE_ECHOING: tuple[str, ...] = ("Alicia", "f2", "f3", "f4", "f5")
MALE_ECHOING: tuple[str, ...] = ("Marco", "m2", "pablo")
"""Variants with a faint echo, which fills the closures of stops, so they have no boundary."""

SHARES: tuple[tuple[str, float], ...] = (("test", 0.25), ("dev", 0.15))
"""Fraction of the variants reserved for a split; training takes the rest."""


@dataclass(frozen=True)
class Speaker:
    """One synthetic speaker; the layout names it and its split, gender is ``F`` or ``M``."""

    name: str
    split: str
    gender: str
    voice: Voice


def variant_pools(seed: int, echo: bool) -> dict[tuple[str, str], list[str]]:
    """Divide the variants, with ``echo`` all, by (``train``/``dev``/``test``, gender)."""
    rng = random.Random(f"{seed}/variants")
    pools: dict[tuple[str, str], list[str]] = {}
    for gender, plain, echoing in (("F", FEMALE, FEMALE_ECHOING), ("M", MALE, MALE_ECHOING)):
        variants = sorted(plain + echoing if echo else plain)
        rng.shuffle(variants)
        total = len(variants)
        for split, share in SHARES:
            count = max(1, round(share * total))
            pools[split, gender] = variants[:count]
            variants = variants[count:]
        pools["train", gender] = variants
    return pools
