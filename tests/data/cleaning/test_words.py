"""Word lists of harmless terms, on lines that the test writes itself and against a slow search."""

import random
import time

import pytest

from llm_jax.configuration import ConfigError
from llm_jax.data.cleaning.words import WordList, fold

# Each with words that only contain it.
ENGLISH = {
    "cat": ("category", "concat", "scatter", "cat2", "cat_food"),
    "ton": ("button", "tone", "Washington", "tons"),
    "hot dog": ("shot dog", "hot dogs", "hotdog"),
    "c++": ("objc++",),
    "über": ("überall", "darüber"),
}
CHINESE = {"苹果": "苹果汁", "国人": "中国人", "大学": "大学生", "火锅": "小火锅店"}
ENGLISH_LINES = ("We saw a {} there.", "{}", "({})", '"{}", he said', "x-{}, y", "以为{}在这里")
CHINESE_LINES = ("我们看到{}。", "{}", "“{}”很好", "A{}B", "有{},也好")


def labelled_lines():
    """Returns [(line, its (start, end, term)s)]."""
    draw, lines = random.Random(1), []
    for _ in range(400):
        term, containing = draw.choice(sorted(ENGLISH.items()))
        head, tail = draw.choice(ENGLISH_LINES).split("{}")
        written = draw.choice([term, term.upper(), term.title(), term.replace(" ", "\n")])
        lines.append((head + written + tail, [(len(head), len(head) + len(term), term)]))
        lines.append((head + draw.choice(containing) + tail, []))
        term, containing = draw.choice(sorted(CHINESE.items()))
        head, tail = draw.choice(CHINESE_LINES).split("{}")
        lines.append((head + term + tail, [(len(head), len(head) + len(term), term)]))
        lines.append((head + containing + tail, []))
    return lines


def test_precision_and_recall():
    words = WordList(frozenset([*ENGLISH, *CHINESE]), frozenset(CHINESE.values()))
    right = found_in_all = there = 0
    for line, expected in labelled_lines():
        found = [tuple(span) for span in words.find(line)]
        right += len(set(found) & set(expected))
        found_in_all += len(found)
        there += len(expected)
    precision, recall = right / found_in_all, right / there
    print(f"\n{there} terms in {len(labelled_lines())} lines: {precision=:.3f} {recall=:.3f}")
    assert precision >= 0.98
    assert recall >= 0.98


def slow_find(terms, allow, text):
    """All places by str.find, then the rules one by one."""

    def places(words):
        for word in words:
            at = text.find(word)
            while at >= 0:
                end = at + len(word)
                ends = [text[max(0, place - 1) : place + 1] for place in (at, end)]
                if not any(len(e) == 2 and e.isascii() and e.isalnum() for e in ends):
                    yield at, end
                at = text.find(word, at + 1)

    allowed = list(places(allow))
    hits = [h for h in places(terms) if not any(a <= h[0] and h[1] <= b for a, b in allowed)]
    kept = []
    for hit in sorted(hits, key=lambda h: (h[0] - h[1], h[0])):
        if all(hit[1] <= a or b <= hit[0] for a, b in kept):
            kept.append(hit)
    return sorted(kept)


def test_equals_a_slow_search_on_random_text():
    draw, some = random.Random(2), 0
    for _ in range(1500):
        alphabet = draw.choice(["ab ", "一二三", "a一 "])

        def make(low, high, alphabet=alphabet):
            return "".join(draw.choices(alphabet, k=draw.randint(low, high)))

        terms = {make(1, 10).strip() for _ in range(draw.randint(1, 6))} - {""}
        allow = {make(2, 14).strip() for _ in range(draw.randint(0, 4))} - {""}
        text = make(0, 60)
        found = WordList(frozenset(terms), frozenset(allow)).find(text)
        assert [(a, b) for a, b, _ in found] == slow_find(terms, allow, text), (terms, allow, text)
        assert all(text[a:b] == term for a, b, term in found)
        some += bool(found)
    assert some > 500


def test_case_never_moves_a_place():
    words = WordList(frozenset(["straße", "istanbul"]))
    text = "\u0130\u0130 Straße, \u0130STANBUL ß"
    assert len(fold(text)) == len(text)
    assert [text[a:b] for a, b, _ in words.find(text)] == ["Straße", "\u0130STANBUL"]


def test_files_are_read_without_comments(tmp_path):
    first, second = tmp_path / "a.txt", tmp_path / "b.txt"
    first.write_text("\ufeff# harmless\nCat\n\n  c#  \n", encoding="utf-8")
    second.write_text("苹果\r\n # no term\r\n", encoding="utf-8")
    words = WordList.load([first, second], allow=["苹果汁"])
    assert words.terms == {"cat", "c#", "苹果"}
    assert [span.kind for span in words.find("CAT 苹果汁 苹果 c# harmless")] == [
        "cat",
        "苹果",
        "c#",
    ]


def test_bad_files_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="none.txt cannot be read"):
        WordList.load([tmp_path / "none.txt"])
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"cat\n\xff\n")
    with pytest.raises(ConfigError, match="byte 4"):
        WordList.load([bad])
    bad.write_text("# nothing\n")
    with pytest.raises(ConfigError, match="hold no terms"):
        WordList.load([bad])


def test_a_document_is_rejected_by_count_or_share():
    words = WordList(frozenset(["cat"]))
    assert not words.rejects("a cat, a cat", max_hits=2)
    assert words.rejects("a cat, a cat", max_hits=1)
    assert not words.rejects("cat, a cat", max_share=0.6)
    assert words.rejects("cat, a cat", max_share=0.59)
    assert not words.rejects("", max_hits=0, max_share=0.0)
    with pytest.raises(ConfigError, match="give one of them"):
        words.rejects("cat")


def test_speed_with_thousands_of_terms():
    draw = random.Random(0)
    letters, characters = "abcdefghijklmnopqrstuvwxyz", [chr(c) for c in range(0x4E00, 0x55FF)]
    terms = {"".join(draw.choices(letters, k=draw.randint(4, 10))) for _ in range(5000)}
    terms |= {"".join(draw.choices(characters, k=draw.randint(2, 5))) for _ in range(5000)}
    words = WordList(frozenset(terms))
    words.find("")
    english = ["the", "house", "of", "reading", "people", "would", "therefore", "Paris", "water"]
    for name, text in (
        ("English", " ".join(draw.choices(english, k=200_000))),
        ("Chinese", "".join(draw.choices(characters, k=300_000))),
    ):
        begin = time.perf_counter()
        words.find(text)
        seconds = time.perf_counter() - begin
        print(f"\n{len(text.encode()) / 1e6 / seconds:.1f} MB/s, {name}, {len(terms)} terms")
