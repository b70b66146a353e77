# ruff: noqa: RUF001 (full-width punctuation belongs to Chinese text)

import math

import pytest

from llm_jax.configuration import ConfigError
from llm_jax.data.cleaning.quality import LINE_RULES, RULES, check, keep_lines, select
from llm_jax.data.cleaning.text_statistics import Statistics


def words(count, length=5, begin=0):
    """`count` different words of `length` letters."""
    return " ".join(
        "".join(chr(97 + (place // 26**power) % 26) for power in range(length))
        for place in range(begin, begin + count)
    )


def lines(*counted):
    """("line", count) pairs as lines; "{}" becomes the line's number, to make lines differ."""
    return "\n".join(
        line.replace("{}", f"{place:04}") for line, count in counted for place in range(count)
    )


def phrases(n, *, repeats, rest, length=5):
    """`repeats` times the same n words, different words around each, then `rest` others."""
    phrase = words(n, length)
    mixed = [f"{phrase} {words(1, length, 1000 + place)}" for place in range(repeats)]
    return " ".join([*mixed, words(rest, length, 2000)])


# Of each rule a document at its threshold or right inside, which stays, and one right outside.
DOCUMENTS = {
    "c4_lorem_ipsum": ("lorem is ipsum", "Some Lorem Ipsum here"),
    "c4_curly_bracket": ("f(x) }", "f {x}"),
    "c4_sentences": (lines(("Some line.", 5)), lines(("Some line.", 4))),
    "gopher_words_min": (words(50) + " - !", words(49) + " - !"),
    "gopher_words_max": ("word " * 100_000 + "!", "word " * 100_001),
    "gopher_word_length_min": ("ab cd efgh ijkl ... !!!!!!!", "ab cd efgh ijk ... !!!!!!!"),
    "gopher_word_length_max": (f"{'a' * 9} {'b' * 11} !", f"{'a' * 10} {'b' * 11} !"),
    "gopher_hashes": (words(9) + " #", words(8) + " #"),
    "gopher_ellipses": (words(8) + " ... x", words(8) + " ..."),
    "gopher_bullet_lines": (
        lines(("• item", 5), ("  - item", 4), ("text", 1)),
        lines(("• item", 6), ("  - item", 5), ("text", 1)),
    ),
    "gopher_ellipsis_lines": (
        lines(("and so…", 2), ("more ... ", 1), ("text", 7)),
        lines(("and so…", 2), ("more ... ", 2), ("text", 7)),
    ),
    "gopher_alphabetic_words": (words(8) + " 12 %", words(7) + " 12 %"),
    "gopher_stop_words": ("the cat and dog", "the cat, the dog: The And"),
    "gopher_duplicate_paragraphs": (
        "\n\n".join(["same"] * 4 + [f"other{place}" for place in range(6)]),
        "\n\n".join(["same"] * 5 + [f"other{place}" for place in range(6)]),
    ),
    "gopher_duplicate_paragraph_characters": (
        "\n\n\n".join([words(10), words(29, begin=50), words(10)]),
        "\n\n\n".join([words(10), words(28, begin=50), words(10)]),
    ),
    "gopher_duplicate_lines": (
        lines(("same", 4), ("other{}", 6)),
        lines(("same", 5), ("other{}", 6)),
    ),
    "gopher_duplicate_line_characters": (
        "\n\n\n".join([words(10), words(29, begin=50), words(10)]),
        "\n".join([words(10), words(28, begin=50), words(10)]),
    ),
    "gopher_top_2_gram": (phrases(2, repeats=3, rest=19), phrases(2, repeats=3, rest=18)),
    "gopher_top_3_gram": (phrases(3, repeats=3, rest=36), phrases(3, repeats=3, rest=35)),
    "gopher_top_4_gram": (phrases(4, repeats=3, rest=58), phrases(4, repeats=3, rest=57)),
    "gopher_duplicate_5_grams": (phrases(5, repeats=2, rest=16), phrases(5, repeats=2, rest=15)),
    "gopher_duplicate_6_grams": (phrases(6, repeats=2, rest=22), phrases(6, repeats=2, rest=21)),
    "gopher_duplicate_7_grams": (phrases(7, repeats=2, rest=30), phrases(7, repeats=2, rest=29)),
    "gopher_duplicate_8_grams": (phrases(8, repeats=2, rest=38), phrases(8, repeats=2, rest=37)),
    "gopher_duplicate_9_grams": (phrases(9, repeats=2, rest=49), phrases(9, repeats=2, rest=48)),
    "gopher_duplicate_10_grams": (
        phrases(10, repeats=2, rest=62),
        phrases(10, repeats=2, rest=61),
    ),
    "fineweb_punctuated_lines": (
        lines(("Ended {}.", 2), ("结束{}。", 1), ("open {}", 22)),
        lines(("Ended {}.", 1), ("结束{}。", 1), ("open {}", 22)),
    ),
    "fineweb_short_lines": (
        lines(("x" * 26 + "{}", 67), ("x" * 27 + "{}", 33)),
        lines(("x" * 26 + "{}", 68), ("x" * 27 + "{}", 32)),
    ),
    "fineweb_repeated_line_characters": (
        lines(("a" * 20, 2), ("b" * 156 + "{}", 1)),
        lines(("a" * 20, 2), ("b" * 155 + "{}", 1)),
    ),
    "fineweb_line_ends": (
        "\n".join([words(1), words(1), words(1), words(7)]),
        "\n".join([words(1), words(1), words(1), words(6)]),
    ),
}

LINES = {
    "c4_line_punctuation": (
        ["One two three.", "Is it so?", 'He said "yes."', "Yes!", "这是一句话。"],
        ["One two three", "and so on...", "One, two:", "see [1", "Ende…"],
    ),
    "c4_line_words": (["one two three", "这是一"], ["one two", "", "是"]),
    "c4_line_word_length": (["x" * 1000, "x" * 600 + " " + "y" * 600], ["a " + "x" * 1001]),
    "c4_line_javascript": (["Java script is java."], ["Enable JavaScript now."]),
    "c4_line_policy": (
        ["We bake cookies for all terms."],
        ["Our Terms of Use.", "See the cookie policy.", "This site uses cookies."],
    ),
}


def test_every_rule_has_its_documents():
    assert list(DOCUMENTS) == list(RULES)
    assert list(LINES) == list(LINE_RULES)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_rule_keeps_what_is_at_its_threshold_and_throws_out_what_is_beyond(name):
    kept, thrown = DOCUMENTS[name]
    assert check(kept, select([name])) is None
    assert check(thrown, select([name])) == name
    # Both are close to the threshold, so that a wrong number in the table does not pass.
    rule = RULES[name]
    bound = rule.maximum if rule.minimum is None else rule.minimum
    for text in (kept, thrown):
        assert abs(rule.measure(Statistics(text)) - bound) <= (0.5 * bound or 1)


@pytest.mark.parametrize("name", LINES)
def test_a_line_rule(name):
    kept, thrown = LINES[name]
    mixed = [line for pair in zip(kept + [kept[0]] * 9, thrown) for line in pair]
    rules = select([name], known=LINE_RULES)
    assert keep_lines("\n".join(mixed), rules) == "\n".join(mixed[::2])


def test_lines_lose_blanks_and_citations():
    text = "  It was so[12][citation needed].\r\nNothing ends here [3]\n\nThat is [edit]all. "
    assert keep_lines(text) == "It was so.\nThat is all."
    assert keep_lines("a[b] = c[d]", ()) == "a[b] = c[d]"


def test_the_first_rule_in_the_order_given_is_named():
    rules = select(["gopher_stop_words", "gopher_words_min"])
    assert check("short", rules) == "gopher_stop_words"
    assert check("short", rules[::-1]) == "gopher_words_min"
    assert check("short", ()) is None


def test_statistics_may_be_given_in_place_of_the_text():
    for text in DOCUMENTS["gopher_words_min"]:
        statistics = Statistics(text)
        assert check(statistics) == check(text)


def test_an_empty_document_is_thrown_out():
    for text in ("", "\n \n"):
        assert check(text) == "c4_sentences"
        assert check(text, select(["gopher_words_min"])) == "gopher_words_min"


def test_thresholds_override_the_table():
    text = words(20)
    assert check(text, select(["gopher_words_min"], {"gopher_words_min": 20})) is None
    assert check(text, select(["gopher_words_min"], {"gopher_words_min": 21})) is not None
    assert check(text, select(["gopher_words_max"], {"gopher_words_max": 19})) is not None
    assert RULES["gopher_words_min"].minimum == 50
    rules = select(["c4_line_words"], {"c4_line_words": 2}, LINE_RULES)
    assert keep_lines("one\ntwo words", rules) == "two words"


@pytest.mark.parametrize(
    ("names", "thresholds", "message"),
    [
        (["gopher_word_min"], {}, "gopher_words_min"),
        (["c4_line_words"], {}, "no quality rule"),
        (["gopher_words_min"], {"gopher_words_max": 3}, "gopher_words_max"),
        (["gopher_words_min"], {"gopher_words_min": "3"}, "give a number"),
        (["gopher_words_min"], {"gopher_words_min": True}, "give a number"),
        (["gopher_words_min"], {"gopher_words_min": math.nan}, "give a number"),
    ],
)
def test_bad_settings_are_refused(names, thresholds, message):
    with pytest.raises(ConfigError, match=message):
        select(names, thresholds)


def test_chinese_prose_passes_without_the_two_english_rules():
    sentences = [
        "今天早上下了一场大雨，街上的行人都打着伞匆匆走过。",
        "图书馆里非常安静，学生们正在准备下个月的考试。",
        "老师告诉我们，学习语言最好的办法就是每天练习。",
        "那家小店的面条又便宜又好吃，所以总是坐满了客人。",
        "如果明天天气晴朗，我们打算一起去山上看看风景。",
    ]
    english = ("gopher_word_length_min", "gopher_stop_words")
    rules = select(name for name in RULES if name not in english)
    text = "".join(sentences[:3]) + "\n" + "".join(sentences[3:])
    assert keep_lines(text) == text
    assert check(text, rules) is None
    assert check(text * 3, rules) is not None
