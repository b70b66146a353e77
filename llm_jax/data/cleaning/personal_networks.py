"""Personal data of networks: mail addresses, addresses of machines, keys and tokens.

Mail as RFC 5321 has it without quotes; domains by IANA's root zone; machines by `ipaddress`; keys
by the marks that their makers document, others by the name before them and their entropy.
"""

# ruff: noqa: RUF001 (full-width colons belong to Chinese text)

import ipaddress
import math
import re
from collections import Counter

from llm_jax.data.cleaning.personal_form import Form, before, everywhere, marked, near

# The domains of countries, and the commonest others.
_DOMAINS = frozenset(
    re.findall(
        r"\w+",
        """
    ac ad ae af ag ai al am ao aq ar as at au aw ax az ba bb bd be bf bg bh bi bj bm bn bo br bs
    bt bw by bz ca cc cd cf cg ch ci ck cl cm cn co cr cu cv cw cx cy cz de dj dk dm do dz ec ee
    eg er es et eu fi fj fk fm fo fr ga gd ge gf gg gh gi gl gm gn gp gq gr gs gt gu gw gy hk hm
    hn hr ht hu id ie il im in io iq ir is it je jm jo jp ke kg kh ki km kn kp kr kw ky kz la lb
    lc li lk lr ls lt lu lv ly ma mc md me mg mh mk ml mm mn mo mp mq mr ms mt mu mv mw mx my mz
    na nc ne nf ng ni nl no np nr nu nz om pa pe pf pg ph pk pl pm pn pr ps pt pw py qa re ro rs
    ru rw sa sb sc sd se sg sh si sk sl sm sn so sr ss st su sv sx sy sz tc td tf tg th tj tk tl
    tm tn to tr tt tv tw tz ua ug uk us uy uz va vc ve vg vi vn vu wf ws ye yt za zm zw
    com org net edu gov mil int info biz name pro aero coop museum jobs mobi travel tel cat asia
    post arpa app dev xyz online site shop store tech cloud club top vip wang ink ltd group live
    email work works world website space blog art bio agency company design digital fun games
    global guru health host icu law life link media network news one page party photo press
    rocks school science services social software solutions studio systems team today tools
    university wiki win zone academy bank berlin london nyc paris tokyo swiss google apple
    example test
    """,
    )
)


def _is_email(match: re.Match) -> bool:
    local, _, domain = match[0].rpartition("@")
    last = domain.rpartition(".")[2].lower()
    if local == "git" and match.string.startswith(":", match.end()):
        return False
    return len(local) <= 64 and (last in _DOMAINS or last.startswith("xn--"))


EMAILS = (
    Form(
        re.compile(
            r"(?<![A-Za-z0-9_%+-])(?<![A-Za-z0-9_%+-]\.)[A-Za-z0-9_%+-]{1,64}"
            r"(?:\.[A-Za-z0-9_%+-]{1,64})*+@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+"
            r"(?:[A-Za-z]{2,24}|xn--[a-z0-9-]{2,59})(?![A-Za-z0-9_]|-[A-Za-z0-9])"
        ),
        marked(("@",), before=66, after=256),
        _is_email,
    ),
)

# What makes four numbers with dots a version: a word or a sign before them.
_VERSION_WORD = re.compile(
    r"(?:(?<![0-9A-Za-z])(?:versions?|ver|v|releases?|firmware|build|section|sec|chapter|clause|oid)\.?"
    r"|版本?|第|§|[=<>~^]=|[~^]|[A-Za-z][-/])[\s:：号是]*$",
    re.IGNORECASE,
)


def _is_ipv4(match: re.Match) -> bool:
    if re.match(r"[0-9A-Za-z_]|\.[0-9]|-[A-Za-z]", match.string[match.end() : match.end() + 2]):
        return False
    text = before(match)
    if re.search(r"[0-9A-Za-z_.]$", text) or _VERSION_WORD.search(text):
        return False
    return _is_public(match)


def _is_public(match: re.Match) -> bool:
    try:
        address = ipaddress.ip_address(match[0])
    except ValueError:
        return False
    return address.is_global and not address.is_multicast


IPS = (
    Form(
        re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}"),
        near(re.compile(r"\.[0-9]{1,3}\."), before=3, after=10),
        _is_ipv4,
    ),
    Form(  # global ones are 2000::/3, so far
        re.compile(
            r"[23][0-9A-Fa-f]{3}(?<![0-9A-Za-z_:.].{4}):[0-9A-Fa-f:]{0,33}[0-9A-Fa-f]"
            r"(?![0-9A-Za-z_])"
        ),
        near(re.compile(":[0-9A-Fa-f]{0,4}:"), before=40, after=40),
        _is_public,
    ),
)

_KEY_NAME = re.compile(
    r"(?:(?:api|access|secret|private|auth|encryption)[_ -]?key|key[_-]?id|secret|token"
    r"|passw(?:or)?d|pwd|credentials?|authorization|密钥|令牌|密码|口令)[\"'\]]?\s{0,3}$",
    re.IGNORECASE,
)


def _is_secret(match: re.Match) -> bool:
    value = match["value"]
    letters, digits = sum(map(str.isalpha, value)), sum(map(str.isdigit, value))
    if min(letters, digits) < 2 or entropy(value) < 3:
        return False
    return _KEY_NAME.search(before(match)) is not None


def entropy(text: str) -> float:
    """Returns bits a character of `text`, by how often each stands in it (Shannon 1948)."""
    shares = [count / len(text) for count in Counter(text).values()]
    return -sum(share * math.log2(share) for share in shares)


KEYS = (
    Form(
        re.compile(
            r"(?<![0-9A-Za-z_])(?:(?:AKIA|ASIA)[A-Z0-9]{16}|xox[abeoprs]-[A-Za-z0-9-]{10,255}"
            r"|AIza[A-Za-z0-9_-]{35}|glpat-[A-Za-z0-9_-]{20}|sk-(?:[a-z]{2,8}-)?[A-Za-z0-9_]{32,255}"
            r")(?![0-9A-Za-z_])"
        ),
        marked(("AKIA", "ASIA", "xox", "AIza", "glpat-", "sk-"), before=1, after=280),
    ),
    Form(
        re.compile(
            r"(?<![0-9A-Za-z_])(?:gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{22,255}"
            r"|hf_[A-Za-z0-9]{34}|[sr]k_(?:live|test)_[A-Za-z0-9]{16,255})(?![0-9A-Za-z_])"
        ),
        near(re.compile("_[A-Za-z0-9_]{16}"), before=12, after=260),
    ),
    Form(  # JSON web tokens (RFC 7519)
        re.compile(
            r"(?<![0-9A-Za-z_])eyJ[A-Za-z0-9_-]{8,4096}\.eyJ[A-Za-z0-9_-]{8,8192}"
            r"\.[A-Za-z0-9_-]{8,4096}(?![0-9A-Za-z_])"
        ),
        marked(("eyJ",), before=0, after=17_000),
    ),
    Form(  # PEM blocks (RFC 7468), to their end or as far as they go
        re.compile(
            r"-----BEGIN (?P<name>(?:[A-Z0-9]{1,12} ){0,3})PRIVATE KEY(?P<pgp> BLOCK|)-----"
            r"(?=[^-]{0,400}[A-Za-z0-9+/=]{20})"
            r"(?:[^-]{0,20000}-----END (?P=name)PRIVATE KEY(?P=pgp)-----"
            r"|(?:(?:\s|\\n){0,4}[A-Za-z0-9+/=]{20,200}){1,400}+)"
        ),
        marked(("PRIVATE KEY",), before=60, after=21_000),
    ),
    Form(
        re.compile(
            r"[:=：]\s{0,3}[\"']?(?:Bearer )?(?P<value>[A-Za-z0-9+/_-]{16,512}+={0,2}+)"
            r"(?![0-9A-Za-z_.(\[+/-])"
        ),
        everywhere,
        _is_secret,
    ),
)
