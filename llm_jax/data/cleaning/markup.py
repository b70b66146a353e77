"""HTML and XML out of text: tags, comments, scripts and styles dropped, entities read.

Written with one regular expression in place of `html.parser`, whose time grows with the square of
broken input (24 KB of `<a b='` take it seconds) and which takes "List<T>" for a tag. Here a tag is
what looks like one and has a name of HTML's, or an end tag or a "/>" of its own; "a < b and c > d"
stays. Work grows with the text's length.
"""

import html
import re

_BLOCKS = frozenset(
    str.split(
        "address article aside blockquote body br center dd details dialog dir div dl dt "
        "fieldset figcaption figure footer form frameset h1 h2 h3 h4 h5 h6 head header hr "
        "html legend li main menu nav ol optgroup option p pre section summary table tbody "
        "tfoot thead title tr ul"
    )
)
_CELLS = frozenset(("td", "th"))
_INLINE = frozenset(
    str.split(
        "a abbr acronym applet area audio b base basefont bdi bdo big button canvas caption "
        "cite code col colgroup data datalist del dfn em embed font frame i iframe img input "
        "ins kbd label link map mark meta meter noframes noscript object output param picture "
        "progress q rp rt ruby s samp script select small source span strike strong style sub "
        "sup svg template textarea time track tt u var video wbr"
    )
)
_ELEMENTS = _BLOCKS | _CELLS | _INLINE
# Attributes that may stand without a value.
_FLAGS = frozenset(
    str.split(
        "allowfullscreen async autofocus autoplay checked compact controls default defer "
        "disabled hidden ismap itemscope loop multiple muted nomodule noshade novalidate "
        "nowrap open playsinline readonly required reversed selected"
    )
)

# "<" ends every attempt to read a tag, so that none is read twice.
_NAME = r"[A-Za-z][\w.-]*(?::[\w.-]+)?"
_MARKUP = re.compile(
    r"(?P<comment><!--)|(?P<cdata><!\[CDATA\[)|(?P<declaration><[!?][A-Za-z][^<>]*+>)"
    rf"|</(?P<end>{_NAME})\s*+>"
    rf"|<(?P<start>{_NAME})(?P<attributes>(?=[\s/>])"
    r"(?:[^<>=]++|=\s*+(?:\"[^\"<]*+\"|'[^'<]*+')?+)*+)>"
)
_END_TAG = re.compile(rf"</({_NAME})\s*+>")
_RAW_END = {name: re.compile(rf"</{name}\s*+>", re.IGNORECASE) for name in ("script", "style")}
# With its ";", since "?a=1&copy=2" is more often an address. "&amp;amp;lt;" is read at once.
_ENTITY = re.compile(
    r"&(?:amp;)*((?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});)"
)
_ROUNDS = 8


def strip_markup(text: str) -> str:
    """Returns `text` without HTML and XML markup; block elements and <br> become line ends.

    Scripts and styles go with their content; entities become characters. What then looks like
    markup goes too (web pages hold escaped markup), up to 8 times.
    """
    for _ in range(_ROUNDS):
        stripped = _ENTITY.sub(_character, _strip_tags(text))
        if stripped == text:
            break
        text = stripped
    return text


def _character(match: re.Match) -> str:
    return html.unescape("&" + match[1])


def _strip_tags(text: str) -> str:
    if "<" not in text:
        return text
    closed = {name.lower() for name in _END_TAG.findall(text)}
    pieces, begin, position, unended = [], 0, 0, set()
    while (match := _MARKUP.search(text, position)) is not None:
        position = match.end()
        drop_to, replacement = _read(match, closed, unended)
        if drop_to is not None:
            pieces += (text[begin : match.start()], replacement)
            begin = position = drop_to
    pieces.append(text[begin:])
    return "".join(pieces)


def _read(match: re.Match, closed: set[str], unended: set[str]) -> tuple[int | None, str]:
    """Returns where the markup that `match` begins ends (None: it is text), and what stands for it.

    `unended` holds the closing marks that do not occur in the rest of the text.
    """
    text, kind = match.string, match.lastgroup
    if kind in ("comment", "cdata"):
        mark = "-->" if kind == "comment" else "]]>"
        end = -1 if mark in unended else text.find(mark, match.end())
        if end < 0:
            unended.add(mark)
            return None, ""
        return end + len(mark), text[match.end() : end] if kind == "cdata" else ""
    if kind == "declaration":
        return match.end(), ""
    name = (match["end"] or match["start"]).lower()
    if match["start"]:
        if not _is_tag(name, match["attributes"], closed):
            return None, ""
        if name in _RAW_END and name not in unended:
            end = _RAW_END[name].search(text, match.end())
            if end is not None:
                return end.end(), ""
            unended.add(name)
    return match.end(), "\n" if name in _BLOCKS else " " if name in _CELLS else ""


def _is_tag(name: str, attributes: str, closed: set[str]) -> bool:
    if name not in _ELEMENTS and name not in closed and not attributes.endswith("/"):
        return False
    # Of "if a<b and c>d" no attribute has a value.
    return "=" in attributes or _FLAGS.issuperset(attributes.lower().rstrip("/").split())
