"""The corpus generator's text, speakers and plan: everything before audio."""

from __future__ import annotations

import dataclasses
import random
import re

import pytest
from lhotse.recipes import timit

from nas_encoder.errors import DataError
from tools.synth import english, mandarin
from tools.synth.corpus import Plan, Request
from tools.synth.layouts import LAYOUTS
from tools.synth.layouts.timit import CORE_TEST, DEV
from tools.synth.phones import PHONES, STOPS
from tools.synth.plan import DRAWERS, make_plan
from tools.synth.voices import (
    FEMALE,
    FEMALE_ECHOING,
    MALE,
    MALE_ECHOING,
    Speaker,
    variant_pools,
)


def request(layout: str = "librispeech", **changes: object) -> Request:
    """A small corpus's arguments."""
    base = Request(
        layout=layout,
        utterances=(60, 16, 20),
        speakers=(6, 2, 2),
        seed=3,
        rates=LAYOUTS[layout].rates,
    )
    return dataclasses.replace(base, **changes)


def plan_of(wanted: Request) -> Plan:
    return make_plan(wanted, LAYOUTS[wanted.layout])


def variant(speaker: Speaker) -> str:
    return speaker.voice.name.partition("+")[2]


@pytest.mark.parametrize("grammar", [english, mandarin])
def test_every_word_list_is_used_and_every_slot_has_one(grammar):
    slots = set(re.findall(r"\{(\w+)\}", " ".join(grammar.TEMPLATES)))
    assert slots == set(grammar.CATEGORIES)
    assert len(grammar.TEMPLATES) >= 12
    assert len(set(grammar.TEMPLATES)) == len(grammar.TEMPLATES)


def test_english_vocabulary_has_the_size_of_the_demo():
    words = english.vocabulary()
    assert 150 <= len(words) <= 200
    assert len(set(words)) == len(words)
    assert all(re.fullmatch("[a-z]+", word) for word in words)


def test_english_sentences_keep_to_the_vocabulary_and_reach_all_of_it():
    rng = random.Random(0)
    known = set(english.vocabulary())
    said: set[str] = set()
    for _ in range(3000):
        words = english.draw_sentence(rng)
        assert set(words) <= known
        assert 5 <= len(words) <= 9
        said.update(words)
    assert said == known


def test_english_articles_fit_the_next_word():
    rng = random.Random(1)
    articles = set()
    for _ in range(2000):
        words = english.draw_sentence(rng)
        for word, following in zip(words, words[1:], strict=False):
            if word in ("a", "an"):
                assert (word == "an") == (following[0] in "aeiou"), words
                articles.add(word)
    assert articles == {"a", "an"}


def test_english_spelling_for_timit():
    assert english.punctuated(("when", "did", "anna", "keep", "my", "eggs")) == (
        "When did Anna keep my eggs?"
    )
    assert english.punctuated(("the", "cup", "is", "old")) == "The cup is old."


@pytest.mark.parametrize("language", ["en", "zh"])
def test_sentences_depend_on_the_seed_only(language):
    draw = DRAWERS[language]
    first = [draw(random.Random("7/x")) for _ in range(3)]
    assert first[0] == first[1] == first[2]
    rng = random.Random("7/x")
    assert len({draw(rng) for _ in range(200)}) > 150


def test_mandarin_is_characters_and_each_has_a_toned_syllable():
    for word in mandarin.vocabulary():
        assert re.fullmatch("[\u4e00-\u9fff]+", word), word
        syllables = mandarin.pinyin((word,))
        assert len(syllables) == len(word)
        assert all(re.fullmatch("[a-z]+[1-5]", syllable) for syllable in syllables), syllables


def test_mandarin_words_decide_how_a_character_is_read():
    assert mandarin.pinyin(("银行", "的")) == ("yin2", "hang2", "de5")
    assert mandarin.pinyin(("音乐",))[1] == "yue4"
    assert mandarin.pinyin(("快乐",))[1] == "le4"


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_splits_share_no_speaker_no_variant_no_sentence(layout):
    plan = plan_of(request(layout))
    assert len(plan.utterances) == 96
    assert len({item.id for item in plan.utterances}) == 96
    assert len({item.audio for item in plan.utterances}) == 96
    for attribute in (
        lambda item: item.words,
        lambda item: item.speaker.name,
        lambda item: item.speaker.voice,
        lambda item: variant(item.speaker),
    ):
        seen = [
            {attribute(item) for item in plan.utterances if item.split == split.name}
            for split in plan.splits
        ]
        assert all(seen)
        assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])
    for split in plan.splits:
        speakers = {item.speaker.name for item in plan.utterances if item.split == split.name}
        assert len(speakers) == split.speakers


@pytest.mark.parametrize("layout", ["aishell", "librispeech"])
def test_every_utterance_has_a_sentence_of_its_own(layout):
    plan = plan_of(request(layout))
    assert len({item.words for item in plan.utterances}) == len(plan.utterances)


def test_the_test_set_stays_when_the_training_set_grows():
    small = plan_of(request())
    large = plan_of(request(utterances=(300, 16, 20), speakers=(30, 2, 2)))

    def held_out(plan: Plan) -> list[object]:
        return [item for item in plan.utterances if item.split != plan.splits[0].name]

    assert held_out(small) == held_out(large)


def test_another_seed_gives_other_sentences_and_voices():
    first, second = plan_of(request(seed=1)), plan_of(request(seed=2))
    assert [item.words for item in first.utterances] != [item.words for item in second.utterances]
    assert [item.voice for item in first.speakers] != [item.voice for item in second.speakers]


def test_many_speakers_have_different_voices():
    plan = plan_of(request(utterances=(300, 40, 40), speakers=(300, 40, 40)))
    assert len({speaker.voice for speaker in plan.speakers}) == 380
    assert {speaker.gender for speaker in plan.speakers} == {"F", "M"}


def test_variants_are_divided_without_rest():
    pools = variant_pools(5, echo=True)
    every = [variant for pool in pools.values() for variant in pool]
    assert sorted(every) == sorted(FEMALE + MALE + FEMALE_ECHOING + MALE_ECHOING)
    assert all(pools.values())
    plain = [variant for pool in variant_pools(5, echo=False).values() for variant in pool]
    assert sorted(plain) == sorted(FEMALE + MALE)


def test_librispeech_names_follow_the_conditions():
    def names(**changes: object) -> list[str]:
        return [split.name for split in plan_of(request(**changes)).splits]

    assert names() == ["train-clean-100", "dev-clean", "test-clean"]
    assert names(snr=(5.0, 20.0)) == ["train-other-500", "dev-other", "test-other"]
    assert names(reverb=True) == ["train-other-500", "dev-other", "test-other"]
    chosen = ("train-clean-5", "dev-clean-2", "test-clean")
    assert names(subsets=chosen) == list(chosen)


def test_librispeech_second_test_set_is_noisy_and_held_out():
    plan = plan_of(request(test_other=10))
    clean, other = plan.splits[2], plan.splits[3]
    assert (other.name, other.count) == ("test-other", 10)
    assert other.conditions.snr == (5.0, 15.0) and other.conditions.reverb
    assert clean.conditions.snr is None and not clean.conditions.reverb
    rest = [item for item in plan.utterances if item.split != "test-other"]
    own = [item for item in plan.utterances if item.split == "test-other"]
    assert not {item.words for item in rest} & {item.words for item in own}
    assert not {item.speaker.voice for item in rest} & {item.speaker.voice for item in own}
    trained = {variant(item.speaker) for item in rest if item.split == plan.splits[0].name}
    assert not trained & {variant(item.speaker) for item in own}
    # It takes nothing away from the first test set.
    assert [item for item in plan_of(request()).utterances if item.split == "test-clean"] == [
        item for item in rest if item.split == "test-clean"
    ]


def test_librispeech_with_all_its_subsets():
    more = (("train-clean-360", 12), ("train-other-500", 1), ("dev-other", 8), ("test-other", 8))
    plan, few = plan_of(request(more=more)), plan_of(request())
    assert [(split.name, split.count) for split in plan.splits[3:]] == list(more)
    by_subset = {split.name: set() for split in plan.splits}
    for item in plan.utterances:
        by_subset[item.split].add(item.speaker.name)
    names = [name for speakers in by_subset.values() for name in speakers]
    assert len(names) == len(set(names)) == len({speaker.voice for speaker in plan.speakers})
    assert len({item.words for item in plan.utterances}) == len(plan.utterances)
    assert [item.split for item in plan.utterances if item.split in dict(more)]
    kept = [item for item in plan.utterances if item.split not in dict(more)]
    assert kept == list(few.utterances)  # they change nothing in the others
    noisy = {split.name for split in plan.splits if split.conditions.reverb}
    assert noisy == {"train-other-500", "dev-other", "test-other"}
    trained = {variant(s) for s in plan.speakers if s.split.startswith("train")}
    assert not trained & {variant(s) for s in plan.speakers if s.split.startswith(("dev", "test"))}
    assert "more" not in request().to_dict() and "more" in request(more=more).to_dict()


def test_chapters_hold_at_most_forty_utterances():
    plan = plan_of(request(utterances=(90, 2, 2), speakers=(1, 2, 2)))
    chapters = [item.id.split("-")[1] for item in plan.utterances if item.split.startswith("train")]
    assert sorted({chapters.count(chapter) for chapter in chapters}) == [10, 40]


def test_timit_speakers_are_those_that_lhotse_looks_for():
    dev, test = timit.get_speakers()
    assert sorted(name.lower() for name in DEV) == sorted(dev)
    assert sorted(name.lower() for name in CORE_TEST) == sorted(test)


def test_timit_phones_are_those_that_lhotse_knows():
    known = set(timit.get_phonemes(48))
    ours = {label for labels in (*STOPS.values(), *PHONES.values()) for label in labels}
    assert ours | {"h#", "pau"} <= known
    assert len(ours) > 45


def test_timit_speakers_read_sa_sx_and_si_sentences():
    plan = plan_of(request("timit", utterances=(60, 10, 20)))
    train = [item for item in plan.utterances if item.split == "train"]
    for speaker in {item.speaker.name for item in train}:
        kinds = [item.id.split("-")[1][:2] for item in train if item.speaker.name == speaker]
        assert [kinds.count(kind) for kind in ("SA", "SX", "SI")] == [2, 5, 3]
        sentences = [item.words for item in train if item.speaker.name == speaker]
        assert len(set(sentences)) == 10
    for sa in ("SA1", "SA2"):
        assert len({item.words for item in train if item.id.endswith(sa)}) == 1
    assert all(item.speaker.gender == item.speaker.name[0] for item in plan.utterances)
    # A number names one sentence everywhere.
    numbered = {(item.id.split("-")[1], item.words) for item in plan.utterances}
    shared = [name for name, _ in numbered if not name.startswith("SA")]
    assert len(shared) == len(set(shared))


def test_timit_takes_all_official_speakers_with_their_gender():
    plan = plan_of(request("timit", utterances=(50, 100, 48), speakers=(10, 50, 24)))
    names = {
        kind: sorted(speaker.name for speaker in plan.speakers if speaker.split == kind)
        for kind in ("dev", "test")
    }
    assert names == {"dev": sorted(DEV), "test": sorted(CORE_TEST)}


def test_all_problems_of_a_request_are_reported_together():
    wrong = request(
        utterances=(0, 1, 20), speakers=(0, 2, 2), rates=(400, 100), snr=(20.0, 5.0), test_other=-1
    )
    with pytest.raises(DataError) as caught:
        plan_of(wrong)
    text = "\n".join(caught.value.problems)
    for part in ("--train", "--speakers", "--dev", "--rate", "--snr", "--test-other"):
        assert part in text, part


@pytest.mark.parametrize(
    ("layout", "changes", "message"),
    [
        ("timit", {"speakers": (6, 2, 25), "utterances": (60, 16, 30)}, "24 test speakers, got 25"),
        ("timit", {"test_other": 5}, "--test-other: only for --layout librispeech"),
        ("aishell", {"speakers": (6, 41, 2), "utterances": (60, 50, 20)}, "40 dev speakers"),
        ("aishell", {"subsets": ("a", "b", "c")}, "--subsets: only for"),
        ("librispeech", {"subsets": ("train-x", "dev-clean", "test-clean")}, "got 'train-x'"),
        ("librispeech", {"snr": (5.0, 9.0), "test_other": 5}, "the test set itself"),
        ("librispeech", {"more": (("dev-clean", 5),)}, "--more: must be one of train-clean-360"),
        ("librispeech", {"more": (("dev-x", 0),)}, "--more: must be at least 1, got 0"),
        ("timit", {"more": (("dev-other", 5),)}, "--more: only for --layout librispeech"),
    ],
)
def test_layouts_refuse_what_they_cannot_hold(layout, changes, message):
    with pytest.raises(DataError, match=re.escape(message)):
        plan_of(request(layout, **changes))


def test_a_grammar_that_runs_out_says_so(monkeypatch):
    monkeypatch.setitem(DRAWERS, "en", lambda rng: rng.choice([("a", "cup"), ("my", "dog")]))
    with pytest.raises(DataError, match="no further sentence after 2"):
        plan_of(request())
