import collections
import re

import numpy as np
import pytest

from llm_jax.configuration import ConfigError
from llm_jax.data.augmentation.text import (
    BackTranslation,
    CharacterNoise,
    Cilin,
    Concatenation,
    Example,
    RandomDeletion,
    RandomInsertion,
    RandomSwap,
    SentenceMixing,
    SynonymReplacement,
    WordNet,
    augment,
)
from llm_jax.data.augmentation.text.characters import neighbours
from llm_jax.data.augmentation.text.mixing import sentences
from llm_jax.data.augmentation.text.words import join_words, split_words
from tests.data.augmentation.thesauri import CILIN, SYNSETS, write_wordnet

ENGLISH = 'The quick Dog saw a "FILM" of a car, and they walk well-known ways (it\'s far).'
CHINESE = "我们去公园看电影,非常好看。明天爬山!"


@pytest.fixture(scope="module")
def wordnet(tmp_path_factory):
    return WordNet(write_wordnet(tmp_path_factory.mktemp("wordnet")))


@pytest.fixture(scope="module")
def cilin(tmp_path_factory):
    path = tmp_path_factory.mktemp("cilin") / "cilin.txt"
    path.write_text(CILIN, encoding="utf-8")
    return Cilin(path)


def many(operation, text, count=300):
    return augment([text], None, [operation], seed=0, copies=count).texts


def words_of(text):
    return split_words(text)[0]


@pytest.mark.parametrize(
    "text", [ENGLISH, CHINESE, "", " ", "...", "नमस्ते दुनिया", "a", "naïve e\u0301t"]
)
def test_words_and_gaps_are_the_text(text, cilin):
    for lexicon in ((), cilin):
        words, gaps = split_words(text, lexicon)
        assert join_words(words, gaps) == text
        assert len(gaps) == len(words) + 1


def test_words():
    assert words_of("It's a well-known naïve_e\u0301t 'word'.") == [
        "It's", "a", "well-known", "naïve", "e\u0301t", "word",
    ]  # fmt: skip
    assert words_of("नमस्ते दुनिया") == ["नमस्ते", "दुनिया"]
    assert words_of("用GPT写2行") == ["用", "GPT", "写", "2", "行"]


def test_chinese_words_are_the_lexicons_longest(cilin):
    assert split_words("全人类看电影片子", cilin)[0] == ["全人类", "看", "电影", "片子"]


def test_synonyms_replace_the_share_of_words_in_their_case(wordnet):
    known = {"quick": {"fast", "agile"}, "Dog": set(), "FILM": {"MOVIE", "SHOOT"},
             "car": {"auto", "motorcar", "railway car"}, "walk": {"stroll"}}  # fmt: skip
    words, gaps = split_words(ENGLISH)
    seen = collections.defaultdict(set)
    for text in many(SynonymReplacement(wordnet, share=0.1), ENGLISH):
        pattern = re.escape(gaps[0]) + "".join(f"(.+?){re.escape(gap)}" for gap in gaps[1:])
        new = re.fullmatch(pattern, text).groups()
        changed = [(old, word) for old, word in zip(words, new) if old != word]
        assert len(changed) == 2  # round(0.1 * 16)
        for old, word in changed:
            seen[old].add(word)
    assert seen == {word: others for word, others in known.items() if others}


def test_stop_words_have_no_synonyms(wordnet):
    assert set(many(SynonymReplacement(wordnet, stop_words={"car"}), "Car.")) == {"Car."}
    assert set(many(SynonymReplacement(wordnet), "Car.")) == {"Auto.", "Motorcar.", "Railway car."}


def test_chinese_synonyms(cilin):
    seen = set(many(SynonymReplacement(cilin, share=0.01), CHINESE))
    assert seen == {CHINESE.replace(old, new) for old, new in (
        ("电影", "影片"), ("电影", "片子"), ("好看", "漂亮"), ("好看", "美丽"), ("爬山", "登山"),
    )}  # fmt: skip


def test_insertion_puts_synonyms_anywhere(wordnet, cilin):
    seen = set(many(RandomInsertion(wordnet), "the car stops."))
    assert seen == {
        text.format(word)
        for text in ("{} the car stops.", "the {} car stops.", "the car {} stops.",
                     "the car stops {}.")
        for word in ("auto", "motorcar", "railway car")
    }  # fmt: skip
    # 爬山 and its only synonym; words are 我, 爬山 and three places.
    assert set(many(RandomInsertion(cilin), "我爬山。")) == {
        "登山我爬山。", "我登山爬山。", "我爬山登山。"
    }  # fmt: skip
    assert set(many(RandomInsertion(wordnet), "unheard of")) == {"unheard of"}
    twice = many(RandomInsertion(wordnet, share=0.7), "the car stops.")
    assert all(len(words_of(text)) - text.count("railway") == 5 for text in twice)


def test_swap_exchanges_two_words_and_leaves_the_rest():
    seen = collections.Counter(many(RandomSwap(), "One, (two) three!", 600))
    assert set(seen) == {"two, (One) three!", "three, (two) One!", "One, (three) two!"}
    assert min(seen.values()) > 130
    assert set(many(RandomSwap(), "alone.")) == {"alone."}
    for text in many(RandomSwap(share=0.5), ENGLISH):
        assert sorted(words_of(text)) == sorted(words_of(ENGLISH))


def test_swap_of_chinese_words(cilin):
    assert set(many(RandomSwap(lexicon=cilin), "电影好看")) == {"好看电影"}
    assert "影电好看" in many(RandomSwap(), "电影好看")


def test_deletion_removes_each_word_with_its_probability():
    texts = many(RandomDeletion(share=0.3), "One, two three (four) five.", 2000)
    words = ["One", "two", "three", "four", "five"]
    rates = [np.mean([word not in text for text in texts]) for word in words]
    assert np.all(np.abs(np.array(rates) - 0.3) < 0.05)
    spaces = {text for text in texts if re.search(r"  |^ | $", text)}
    assert not spaces
    # What is no word stays; of two spaces around a word one goes.
    assert {"One, two three () five.", ", two three (four) five.", "One, three (four)."} <= set(
        texts
    )
    assert set(many(RandomDeletion(share=1.0), "One two")) == {"One", "two"}


def test_noise_strikes_at_its_rate_and_only_in_words():
    text = "abcdefgh " * 100
    got = many(CharacterNoise(rate=0.05), text, 10)
    # A slip changes the length in two kinds of four, and two letters in another.
    for one in got:
        assert one.count(" ") == 100
        changed = sum(word != "abcdefgh" for word in one.split())
        assert 15 < changed < 55
    assert not set("".join(got)) - set("abcdefgh 1234567890qwertyuiopasdfghjklzxcvbnm")


def test_every_kind_of_slip_comes():
    seen = set(many(CharacterNoise(rate=0.2), "Go, g", 3000))
    assert {"oG, g", "G, g", "o, g", "Fo, g", "FGo, g", "GFo, g"} - seen == {"FGo, g"}
    assert set(many(CharacterNoise(rate=0.3), "爬山,花")) == {
        "爬山,花", "山爬,花", "山,花", "爬,花", ",花", "爬山,", "山爬,", "山,", "爬,",
    }  # fmt: skip


def test_neighbours_touch():
    keys = neighbours()
    assert set(keys["g"]) == set("tyhbvf")
    assert set(keys["A"]) == set("QWSZ")
    assert set(keys["1"]) == set("2q")
    for key, near in keys.items():
        assert all(key in keys[other] for other in near if other.isalnum() and not key.isdigit()
                   and not other.isdigit())  # fmt: skip


def test_sentences_are_the_text():
    text = 'He said "no." Then 3.5 left!? Yes\nThe end'
    assert sentences(text) == ['He said "no." ', "Then 3.5 left!? ", "Yes\n", "The end"]
    assert sentences("好看\u3002\u201d真的\uff01走") == ["好看\u3002\u201d", "真的\uff01", "走"]
    assert sentences("") == []


def test_concatenation_takes_another_text_of_the_class():
    texts, labels = ["A one.", "A two.", "A three.", "B one.", "B two."], ["a", "a", "a", "b", "b"]
    more = augment(texts, labels, [Concatenation()], seed=0, copies=60)
    assert {text for text, label in zip(more.texts, more.labels) if label == "a"} == {
        f"{one} {other}" for one in texts[:3] for other in texts[:3] if one != other
    }
    assert {text for text, label in zip(more.texts, more.labels) if label == "b"} == {
        "B one. B two.", "B two. B one."
    }  # fmt: skip
    assert augment(["好。", "坏。"], [0, 0], [Concatenation()], seed=0, copies=1).texts == [
        "好。坏。", "坏。好。"
    ]  # fmt: skip
    assert augment(["x", "y"], [0, 1], [Concatenation()], seed=0, copies=1).texts == ["x", "y"]


def test_sentences_are_mixed_within_the_class():
    texts = ["A1. A2. A3.", "A4. A5.", "B1. B2."]
    more = augment(texts, [0, 0, 1], [SentenceMixing()], seed=0, copies=200)
    mine = [text for text, source in zip(more.texts, more.sources) if source == 0]
    for text in mine:
        assert re.fullmatch(r"(A1|A4|A5)\. (A2|A4|A5)\. (A3|A4|A5)\.\s*", text)
    kept = np.mean([[f"A{i + 1}" in text for i in range(3)] for text in mine])
    assert abs(kept - 0.5) < 0.07
    assert {text for text, source in zip(more.texts, more.sources) if source == 2} == {texts[2]}


def test_mixing_needs_labels():
    for operation in (Concatenation(), SentenceMixing()):
        with pytest.raises(ConfigError, match=r"give augment\(\) labels"):
            augment(["x", "y"], None, [operation], seed=0, copies=1)


def test_back_translation_goes_through_its_translators():
    calls = []

    def upper(texts):
        calls.append(list(texts))
        return [text.upper() for text in texts]

    operation = BackTranslation(upper, lambda texts: [text[::-1] for text in texts])
    more = augment(["ab", "cd", "ab"], [0, 1, 2], [operation], seed=0, copies=2)
    assert more.texts == ["BA", "BA", "DC", "DC", "BA", "BA"]
    assert calls == [["ab", "cd"]]
    with pytest.raises(ConfigError, match="translator 1 gave no 1 texts"):
        augment(["ab"], None, [BackTranslation(upper, lambda texts: [])], seed=0, copies=1)
    with pytest.raises(ConfigError, match="BackTranslation has no translators"):
        BackTranslation()


def operations(wordnet):
    edits = (RandomSwap(), RandomDeletion(0.3), CharacterNoise(0.1))
    return [*edits, SynonymReplacement(wordnet), (RandomInsertion(wordnet), RandomSwap())]


def test_a_copy_follows_from_seed_index_and_copy(wordnet):
    texts = [f"{ENGLISH} {number}" for number in range(20)]
    first = augment(texts, list(range(20)), operations(wordnet), seed=1, copies=3)
    assert first.labels.tolist() == first.sources.tolist() == np.repeat(range(20), 3).tolist()
    assert first.texts == augment(texts, None, operations(wordnet), seed=1, copies=3).texts
    # Fewer texts, and fewer copies, change nothing of those that are left.
    fewer = augment(texts[:7], None, operations(wordnet), seed=1, copies=2)
    assert fewer.labels is None
    assert fewer.texts == [first.texts[3 * i + c] for i in range(7) for c in range(2)]
    other = augment(texts, None, operations(wordnet), seed=2, copies=3).texts
    assert sum(a == b for a, b in zip(first.texts, other)) < 6
    assert len(set(first.texts)) > 50


def test_operations_come_equally_often_and_chains_in_order():
    marks = [lambda e, m=mark: [each.text + m for each in e] for mark in "abc"]
    texts = [""] * 900
    counts = collections.Counter(augment(texts, None, marks, seed=0, copies=1).texts)
    assert set(counts) == {"a", "b", "c"}
    assert min(counts.values()) > 240
    assert augment(["x"], None, [marks], seed=0, copies=1).texts == ["xabc"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: augment(["a"], None, [RandomSwap()], seed=0, copies=0), "copies is 0"),
        (lambda: augment(["a"], None, [], seed=0, copies=1), "operations are empty"),
        (lambda: augment(["a"], [0, 1], [RandomSwap()], seed=0, copies=1), "2 labels for 1 texts"),
        (lambda: augment(["a"], None, [lambda e: []], seed=0, copies=1), "gave 0 texts for 1"),
        (lambda: RandomSwap(0), "share is 0: give more than 0 and at most 1"),
        (lambda: RandomDeletion(1.5), "share is 1.5"),
        (lambda: SynonymReplacement({}, -1), "share is -1"),
        (lambda: RandomInsertion({}, 2), "share is 2"),
        (lambda: SentenceMixing(0), "share is 0"),
        (lambda: CharacterNoise(0), "rate is 0"),
    ],
)
def test_bad_settings_are_refused(call, message):
    with pytest.raises(ConfigError, match=message):
        call()


@pytest.mark.parametrize("text", ["", " ", "?!", "\n"])
def test_texts_without_words_stay(text, wordnet, cilin):
    given = [*operations(wordnet)[:4], RandomInsertion(cilin)]
    more = augment([text, "x"], [0, 0], given, seed=0, copies=20)
    assert set(more.texts[:20]) == {text}
    for operation in (Concatenation(), SentenceMixing()):
        assert len(augment([text, "x"], [0, 0], [operation], seed=0, copies=5).texts) == 10


def test_examples_are_what_an_own_operation_gets():
    def own(examples):
        assert all(isinstance(example, Example) for example in examples)
        return [f"{example.text}|{','.join(example.others)}" for example in examples]

    more = augment(["x", "y", "z"], [0, 1, 0], [own], seed=0, copies=1)
    assert more.texts == ["x|z", "y|", "z|x"]
    assert {len(words) for words in SYNSETS["noun"]} == {1, 2, 3}
