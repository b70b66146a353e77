# ruff: noqa: RUF001 (full-width punctuation belongs to Chinese text)

import random

import pytest

from llm_jax.configuration import ConfigError
from llm_jax.data.cleaning.normalize import STEPS, clean

_SIGNS = [
    *"ab Z09.,;<>&/=\"'-!\t\n\r\v\f\x00\x07\x1c\x7f\x85\xa0\xad",
    *"éüÅ²…“”ﬁ中文，。！？：；（）～＂＃Ａｚ０｡｢ｶﾞﾟﾡ￥￣　",
    *"\u0301\u0308\u200b\u200c\u200d\u200e\u202e\u2028\u2060\u3000\ufe0f\ufeff\ufffd\ufffe",
    *"\ud800\ue000\U000e0041\U000f0000\U0010ffff\U0001f469\U0001f4bb",
]
_PIECES = [
    *("<b>", "</b>", "<p>", "<br/>", "<x>", "</x>", "<!--", "-->", "<![CDATA[", "]]>", "<script>"),
    *("</script>", "<a href='", "x>y", "&amp;", "amp;", "lt;", "&lt;", "&#60;", "&#x3e;", "<?x"),
    *(
        "Ã©",
        "â€™",
        "Ã\xa0",
        "æ–‡",
        "é".encode().decode("latin-1"),
        "\r\n",
        "\n\n\n",
        "e\u0301",
        "   ",
        " \n ",
    ),
]


def random_texts(count, seed):
    draw = random.Random(seed)
    for _ in range(count):
        signs = draw.choices(_SIGNS, k=draw.randrange(30))
        pieces = draw.choices(_PIECES, k=draw.randrange(12))
        anything = [chr(draw.randrange(0x110000)) for _ in range(draw.randrange(4))]
        mixed = signs + pieces + anything
        draw.shuffle(mixed)
        yield "".join(mixed)


@pytest.mark.parametrize("step", STEPS)
def test_a_step_done_twice_is_done_once(step):
    changed = 0
    for text in random_texts(2000, seed=0):
        once = STEPS[step](text)
        assert STEPS[step](once) == once
        changed += once != text
    assert changed > 100


@pytest.mark.parametrize("step", STEPS)
def test_plain_text_stays(step):
    text = "It is so, café n° 1: 中文，好。\n\nSecond <paragraph> a < b & c > d; 👩‍💻 می‌خواهم."
    assert STEPS[step](text) == text
    assert STEPS[step]("") == ""


def test_steps_run_in_the_order_given():
    assert clean("a &nbsp; b", ["markup", "white_space"]) == "a b"
    assert clean("a &nbsp; b", ["white_space", "markup"]) == "a \xa0 b"
    assert clean(" a ", []) == " a "


def test_an_unknown_step_is_refused_with_the_names():
    with pytest.raises(ConfigError) as caught:
        clean("text", ["markup", "whitespace"])
    assert "'whitespace'" in str(caught.value)
    for step in STEPS:
        assert step in str(caught.value)


def test_mojibake_is_mended_line_by_line():
    for text in ("café déjà vu", "Être ou ne pas être", "中文句子", "“quoted”"):
        broken = text.encode().decode("windows-1252", "replace")
        if "\ufffd" not in broken:
            assert STEPS["mojibake"](broken) == text
    mixed = "cafÃ© crÃ¨me\n中文句子 stays\nplain"
    assert STEPS["mojibake"](mixed) == "café crème\n中文句子 stays\nplain"


def test_unicode_composes_and_keeps_compatibility_characters():
    assert STEPS["unicode"]("cafe\u0301 A\u030a x² ﬁ …") == "café Å x² ﬁ …"


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("ＡＢＣ　ｘｙｚ　１２３", "ABC xyz 123"),
        ("Ｐｙｔｈｏｎ３．１１＋［ａ］", "Python3.11+[a]"),
        ("你好，世界！（真的？）：；～。、", "你好，世界！（真的？）：；～。、"),
        ("ｶﾞｷﾞｸﾞ ﾊﾟﾝ｡｢ｱ｣､", "ガギグ パン。「ア」、"),
        ("￥１００ ￡５", "¥100 £5"),
    ],
)
def test_width(text, folded):
    assert STEPS["width"](text) == folded


def test_control_takes_out_what_has_no_glyph():
    bare = "a\x00\x07\x1b\x7f\x9f\xad\u061c\u200b\u200e\u202e\u2066\u2060\ufeff\ufff9\ue000b"
    assert STEPS["control"](bare) == "ab"
    assert STEPS["control"]("\U000e0041\U000f0000\U0010fffd\ufdd0\uffff\ud800x") == "x"
    assert STEPS["control"]("a\tb\nc\r\nd\re\x85f\u2028g") == "a\tb\nc\nd\ne\nf\ng"


def test_control_keeps_joiners_only_where_scripts_need_them():
    assert STEPS["control"]("a\u200db \u200cc\u200c") == "ab c"
    for text in ("👩‍💻", "می‌خواهم", "क्‍ष"):
        assert STEPS["control"](text) == text


def test_white_space():
    text = "  a \t b\r\n\r\n\r\n\u3000\r\nc\xa0 d \n e\u2028f \n"
    assert STEPS["white_space"](text) == "a b\n\nc d\ne\nf"
    assert STEPS["white_space"]("a\n\n\nb\n\nc\nd") == "a\n\nb\n\nc\nd"


def test_code_white_space_keeps_indentation():
    code = "\n\ndef f():  \r\n    x  = 1\t\n\n\n\n\n\tif x:\n        pass\n\n"
    expected = "def f():\n    x  = 1\n\n\n\tif x:\n        pass"
    assert STEPS["code_white_space"](code) == expected
    assert STEPS["code_white_space"]("    indented\n  less") == "    indented\n  less"


@pytest.mark.parametrize("step", [name for name in STEPS if name != "mojibake"])
def test_time_grows_with_the_length_alone(step):
    """Runs of what a step looks for: quadratic work on these would take minutes."""
    runs = (" ", "\r", "\n", " \n", "\u200d", "\u200b", "Ａ", "ﾞ", "a\u0301", "&amp;", "< ")
    for run in runs:
        STEPS[step](f"x{run * 50_000}x")
