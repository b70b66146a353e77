"""Statistics against slow, obvious computations, on random documents full of repeats."""

# ruff: noqa: RUF001 (full-width punctuation belongs to Chinese text)

import random
from collections import Counter
from pydoc_data.topics import topics

import pytest

from llm_jax.data.cleaning.text_statistics import (
    STOP_WORDS,
    Statistics,
    cjk_characters,
    tokenize,
)

_PIECES = [
    *("the", "of", "that", "word", "Repeated", "x_1", "3.14", "don't", "99", "été", "naïve"),
    *(
        "中文",
        "句子。",
        "かな",
        "...",
        "…",
        "--",
        "-",
        "•",
        "#",
        "!",
        "?",
        '."',
        "lorem ipsum",
        "{",
    ),
    *(
        "• item",
        "- item",
        "  - item",
        "A longer line that is more than thirty characters.",
        "end…",
        "end ...",
    ),
]
_GLUE = [" ", " ", " ", "  ", "\n", "\n", "\n\n", "\n\n\n", "\t", " \n", ""]


def random_documents(count, seed=0):
    draw = random.Random(seed)
    documents = ["", " ", "\n\n", "word", "a b", "a b a b a b"]
    for _ in range(count):
        pieces = draw.sample(_PIECES, draw.randrange(1, len(_PIECES)))
        glue = draw.sample(_GLUE, draw.randrange(1, 5))
        blocks = [
            "".join(draw.choice(pieces) + draw.choice(glue) for _ in range(draw.randrange(1, 12)))
            for _ in range(draw.randrange(1, 6))
        ]
        documents.append("".join(draw.choices(blocks, k=draw.randrange(1, 12))))
    return documents


DOCUMENTS = [*random_documents(300), *list(topics.values())[:10]]


def is_cjk(sign):
    return sign in "中文句子かな"


def of_word(sign):
    return (sign.isalnum() or sign == "_") and not is_cjk(sign)


def slow_tokens(text):
    """One character after the other; what joins one to the token before it."""
    tokens, previous, inside = [], " ", False
    for sign, following in zip(text, text[1:] + " "):
        point_inside = sign in "'’.," and of_word(previous) and of_word(following)
        goes_on = of_word(sign) and (of_word(previous) or inside)
        if goes_on or point_inside or (sign in "-." and previous == sign):
            tokens[-1] += sign
        elif not sign.isspace():
            tokens.append(sign)
        previous, inside = sign, point_inside
    return tokens


def slow_top(tokens, n, characters):
    grams = [" ".join(tokens[begin : begin + n]) for begin in range(len(tokens) - n + 1)]
    if not grams:
        return 0
    gram, count = Counter(grams).most_common(1)[0]
    return len(gram) * count / characters


def slow_duplicates(tokens, n, characters):
    seen, repeated, begin = set(), 0, 0
    while begin + n <= len(tokens):
        gram = tuple(tokens[begin : begin + n])
        if gram in seen:
            repeated += sum(map(len, gram))
            begin += n
        else:
            seen.add(gram)
            begin += 1
    return repeated / characters


def slow_repeats(parts):
    earlier = [part for place, part in enumerate(parts) if part in parts[:place]]
    return len(earlier), sum(map(len, earlier))


def split_on(text, shortest):
    """Parts between runs of at least `shortest` line ends."""
    parts, run = [""], 0
    for sign in text + "\0":
        if sign == "\n":
            run += 1
            continue
        if run >= shortest:
            parts.append("")
        else:
            parts[-1] += "\n" * run
        run = 0
        parts[-1] += sign
    parts[-1] = parts[-1][:-1]
    return parts


def share(part, whole):
    return part / whole if whole else 0


def test_tokens_equal_a_walk_over_the_characters():
    for text in DOCUMENTS[:306]:
        assert tokenize(text) == slow_tokens(text)


def test_ascii_text_has_the_same_tokens_as_in_a_text_that_is_not_ascii():
    for text in DOCUMENTS:
        text = text.encode("ascii", "ignore").decode()
        assert tokenize(text) == tokenize(text + " é")[:-1]


@pytest.mark.parametrize("n", [2, 3, 4, 5, 7, 10])
def test_repeated_n_grams(n):
    repeats = 0
    for text in DOCUMENTS:
        tokens, statistics = tokenize(text), Statistics(text)
        assert statistics.top_n_gram(n) == pytest.approx(slow_top(tokens, n, len(text)))
        if text:
            value = statistics.duplicate_n_grams(n)
            assert value == pytest.approx(slow_duplicates(tokens, n, len(text)))
            repeats += 0 < value < 0.9
    assert repeats > 20


def test_words():
    for text in DOCUMENTS:
        tokens, statistics = tokenize(text), Statistics(text)
        words = [token for token in tokens if any(sign.isalnum() for sign in token)]
        letters = [token for token in tokens if any(sign.isalpha() for sign in token)]
        assert statistics.words == len(words)
        length = share(sum(map(len, words)), len(words))
        assert statistics.mean_word_length == pytest.approx(length)
        assert statistics.alphabetic_tokens == share(len(letters), len(tokens))
        assert statistics.stop_words == len(STOP_WORDS & set(tokens))
        assert statistics.hashes_per_token == share(text.count("#"), len(tokens))
        ellipses = text.count("...") + text.count("…")
        assert statistics.ellipses_per_token == share(ellipses, len(tokens))
        assert statistics.line_ends_per_token == share(text.count("\n"), len(tokens))


def test_lines_and_paragraphs():
    for text in DOCUMENTS:
        statistics = Statistics(text)
        for parts, count, characters in (
            (
                split_on(text, 1),
                statistics.duplicate_lines,
                statistics.duplicate_line_characters,
            ),
            (
                split_on(text.strip(), 2),
                statistics.duplicate_paragraphs,
                statistics.duplicate_paragraph_characters,
            ),
        ):
            assert count == share(slow_repeats(parts)[0], len(parts))
            assert characters == share(slow_repeats(parts)[1], len(text))
        lines = text.splitlines()
        bullets = [line for line in lines if line.strip()[:1] in ("•", "-")]
        ended = [line for line in lines if line.strip()[-3:] == "..." or line.strip()[-1:] == "…"]
        assert statistics.bullet_lines == share(len(bullets), len(lines))
        assert statistics.ellipsis_lines == share(len(ended), len(lines))
        lines = [line for line in text.split("\n") if line.strip()]
        assert statistics.short_lines == share(sum(len(x) < 31 for x in lines), len(lines))
        assert statistics.punctuated_lines == share(
            sum(x[-1] in ".!?。" for x in lines), len(lines)
        )
        repeated = slow_repeats(lines)[1]
        assert statistics.repeated_line_characters == share(repeated, len(text.replace("\n", "")))


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("", 0),
        (" \n\n", 0),
        ("One. Two! Three?", 3),
        ('He said "No." Then he left.', 2),
        ("One.\nTwo.\n\nThree", 3),
        ("Version 3.14 is out.", 1),
        ("第一句。第二句！第三句？", 3),
        ("他说：“好。”然后走了。", 2),
    ],
)
def test_sentences(text, sentences):
    assert Statistics(text).sentences == sentences


def test_chinese_characters_are_words():
    assert tokenize("我爱Python编程。") == ["我", "爱", "Python", "编", "程", "。"]
    assert cjk_characters("我爱Python编程。") == 4
    assert Statistics("我爱Python编程。").words == 5
