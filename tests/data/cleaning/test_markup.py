import html
import random
import time

import pytest

from llm_jax.data.cleaning.markup import strip_markup


@pytest.mark.parametrize(
    "text",
    [
        "a < b and c > d",
        "if a<b and c>d: return x<y",
        "List<String> of Map<K, V>, <stdin>, <module>, <T>",
        "Write to <someone@example.org> or see <https://example.org/a/>.",
        "1 <2> 3 <3 -> ok <- no </",
        "?a=1&copy=2&lt=3 AT&T R&D &unknownentity; &#; &",
        "an open <!-- comment, an open <![CDATA[ part, <![if",
        "broken <a href=x",
        "x = a[b[0]]>c --> d",
    ],
)
def test_text_that_is_no_markup_stays(text):
    assert strip_markup(text) == text


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("Hi <b>you</b> &amp; <I class=x>me</I >!", "Hi you & me!"),
        ("one<br>two<BR/>three<br />four", "one\ntwo\nthree\nfour"),
        ("<p>one</p><p class='a > b' id=\"c'd\">two</p>", "\none\n\ntwo\n"),
        ("<tr><td>1</td><td>2</td></tr>", "\n 1  2 \n"),
        ("a<!-- c <b> \n -->b<!---->c", "abc"),
        ("a<script type='x'>if (a<b) { '</p>' }</SCRIPT >b<style>p{}</style>c", "abc"),
        ("a<script>b", "ab"),
        ("<?xml version='1.0'?><!DOCTYPE html><note><to>T</to><at x='1'/></note>", "T"),
        ("x<![CDATA[ a < b ]]>y", "x a < b y"),
        ("<input disabled checked=1><input disabled><a b c>d", "<a b c>d"),
        ('<a href="broken>text</a>', "text"),
        ("&lt;tag&gt; &eacute;&#233;&#xE9; &nbsp;|", "<tag> ééé \xa0|"),
        ("&amp;lt;p&amp;gt;x &amp;amp;amp;", "\nx &"),
        ("&" + "amp;" * 50 + "lt;", "<"),
        ("</p></unknown>x", "\nx"),
        ("<ns:a.b-c x='1'>y</ns:a.b-c>", "y"),
    ],
)
def test_markup_goes(text, bare):
    assert strip_markup(text) == bare


def test_escaped_text_comes_back():
    draw = random.Random(0)
    for _ in range(300):
        text = "".join(draw.choices("ab 12.,é中\"'\n&;", k=40)).replace("&", "& ")
        assert strip_markup(f"<div><p>{html.escape(text)}</p></div>") == f"\n\n{text}\n\n"


def test_a_page_keeps_its_words_in_order():
    draw = random.Random(1)
    tags = ["b", "i", "p", "div", "span", "li", "h1", "custom"]
    for _ in range(100):
        words = [f"w{place}" for place in range(50)]
        page, open_tags = [], []
        for word in words:
            if open_tags and draw.random() < 0.4:
                page.append(f"</{open_tags.pop()}>")
            else:
                open_tags.append(draw.choice(tags))
                page.append(f"<{open_tags[-1]} class='c>{word}'>")
            page.append(f" {word} <!-- not {word} -->")
        page += [f"</{tag}>" for tag in reversed(open_tags)]
        if "</custom>" in "".join(page) or "<custom" not in "".join(page):
            assert strip_markup("".join(page)).split() == words


@pytest.mark.parametrize(
    "piece",
    [
        *("<!--", "<![CDATA[", "<script>", "<style>", "<!--<script>", "<a", "<a b='", '<a b="'),
        *(
            "<a/",
            "<a =",
            "</",
            "</a ",
            "<",
            "<!",
            "<?x",
            "&amp;",
            "&#",
            "=\"='",
            "<b:",
            "a.-",
            "<a b",
        ),
    ],
)
def test_time_grows_with_the_length_alone(piece):
    """html.parser takes seconds for 4,000 of some of these, and 25 times that for five times it."""
    for text in (piece * 20_000, f"<a {piece * 20_000}>"):
        begin = time.process_time()
        strip_markup(text)
        assert time.process_time() - begin < 2
