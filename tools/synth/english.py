"""English sentences from a small grammar over this project's own word lists.

The vocabulary is closed (:func:`vocabulary`, 150 to 200 words) and has no two words that sound
alike, so that a recogniser can in principle spell every sentence from its sound.
"""

from __future__ import annotations

import random

from tools.synth import grammar

CATEGORIES: dict[str, tuple[str, ...]] = {
    "name": ("anna", "peter", "maria", "george", "linda", "thomas", "susan", "robert"),
    "person": (
        "boy", "girl", "farmer", "teacher", "doctor", "sailor",
        "baker", "king", "driver", "painter", "child", "mother",
    ),
    "animal": ("dog", "cat", "horse", "bird", "cow", "sheep", "fox", "mouse"),
    "thing": (
        "box", "letter", "cup", "lamp", "chair", "basket", "ladder",
        "hammer", "picture", "bottle", "bell", "umbrella",
    ),
    "things": ("apples", "books", "shoes", "coins", "plates", "eggs", "pencils", "flowers"),
    "place": (
        "house", "garden", "market", "river", "school", "kitchen",
        "forest", "bridge", "station", "island", "village", "field",
    ),
    "number": ("two", "three", "five", "six", "seven", "nine", "ten", "twelve"),
    "adjective": (
        "big", "small", "old", "young", "green", "black", "white",
        "quiet", "warm", "cold", "heavy", "empty",
    ),
    "mood": ("happy", "tired", "angry", "hungry", "busy", "afraid"),
    "took": (
        "found", "carried", "painted", "opened", "dropped", "wanted",
        "bought", "sold", "lost", "forgot", "watched", "broke",
    ),
    "went": ("walked", "ran", "slept", "waited", "sang", "laughed", "worked", "played"),
    "take": ("bring", "open", "find", "take", "clean", "keep", "close", "send", "count", "move"),
    "how": ("slowly", "quickly", "again", "today", "early", "often"),
    "day": ("monday", "friday", "sunday", "thursday"),
    "time": ("morning", "evening", "winter", "summer", "weekend"),
    "weather": ("rain", "snow", "wind", "storm", "thunder", "fog"),
    "where": ("in", "near", "behind", "under", "across", "beside"),
    "who": ("he", "she", "we", "they", "you"),
    "will": ("will", "can", "must", "should", "may"),
    "my": ("my", "your", "his", "her"),
}  # fmt: skip
"""Word lists, by the name that the templates use in braces."""

TEMPLATES: tuple[str, ...] = (
    "the {adjective} {animal} {went} {where} the {place}",
    "{name} {took} the {thing} on {day}",
    "{number} {things} were {where} the {thing}",
    "{will} {who} {take} the {adjective} {thing}",
    "{will} {who} {take} it before {day}",
    "please {take} {my} {adjective} {thing} {how}",
    "{who} {will} {take} {number} {things} {how}",
    "{who} {took} the {thing} from {my} {person}",
    "where is the {adjective} {thing} of the {person}",
    "the {person} and the {animal} {went} {how}",
    "it was a {adjective} and {adjective} {time}",
    "there are {number} {things} {where} the {place}",
    "{name} {took} {number} {things} after the {weather}",
    "the {thing} is {adjective} but not {adjective}",
    "why was the {person} so {mood} on {day}",
    "after the {weather} the {place} was {adjective}",
    "a {adjective} {animal} {went} with {my} {person}",
    "when did {name} {take} {my} {things}",
    "{name} is very {mood} at the {place}",
    "every {time} {my} {animal} {went} {how}",
)
"""Sentence templates; a name in braces stands for one word of that list."""

PROPER: frozenset[str] = frozenset((*CATEGORIES["name"], *CATEGORIES["day"]))
"""Words capitalised in ordinary spelling."""

QUESTIONS: frozenset[str] = frozenset(("where", "why", "when", *CATEGORIES["will"]))
"""Words that make a sentence a question if they start it."""


def punctuated(words: tuple[str, ...]) -> str:
    """Return a sentence in ordinary spelling, for example "Did Anna sleep?"."""
    spelled = [word.capitalize() if word in PROPER else word for word in words]
    spelled[0] = spelled[0].capitalize()
    return " ".join(spelled) + ("?" if words[0] in QUESTIONS else ".")


def vocabulary() -> list[str]:
    """Return every word that a sentence can contain, sorted."""
    return sorted(grammar.vocabulary(CATEGORIES, TEMPLATES) | {"an"})


def draw_sentence(rng: random.Random) -> tuple[str, ...]:
    """Draw the words of a sentence, in lower case, without punctuation."""
    words = grammar.draw(CATEGORIES, TEMPLATES, rng)
    return tuple(
        "an" if word == "a" and following[0] in "aeiou" else word
        for word, following in zip(words, [*words[1:], "."], strict=True)
    )
