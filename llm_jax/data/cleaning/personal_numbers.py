"""Numbers of persons: telephones, resident ids, social security, bank accounts, payment cards.

Check digits by ISO 7064 (MOD 97-10: IBAN, ISO 13616; MOD 11-2: Chinese resident ids, GB 11643) and
Luhn (cards, ISO/IEC 7812-1); calling codes by ITU-T E.164; areas of +1 by its numbering plan.
"""

# ruff: noqa: RUF001 (full-width parentheses and colons belong to Chinese text)

import datetime
import re

from llm_jax.data.cleaning.personal_form import Form, before, near


def luhn(digits: str) -> bool:
    """Whether the last of `digits` checks the rest (ISO/IEC 7812-1, annex B)."""
    doubled = sum(sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (doubled + sum(map(int, digits[::-2]))) % 10 == 0


def mod_97(iban: str) -> bool:
    """Whether digits 3 and 4 of `iban`, of digits and capitals, check it (ISO 7064 MOD 97-10)."""
    return int("".join(str(int(c, 36)) for c in iban[4:] + iban[:4])) % 97 == 1


def mod_11_2(number: str) -> bool:
    """Whether the last of `number`, a digit or X for 10, checks the rest (ISO 7064 MOD 11-2)."""
    total = 0
    for digit in number[:-1]:
        total = (total + int(digit)) * 2
    return (total + "0123456789X".index(number[-1].upper())) % 11 == 1


# A digit and six more, or capitals, close together. Before and after it is room for what may come
# with a number: "(+86) ", the letters of an IBAN, its rest where the run goes on for long.
_NEAR_DIGITS = near(re.compile(r"[0-9](?:[ .()（）-]{0,2}[0-9A-Z]){6,60}+"), before=12, after=48)

# Before and after a number: it is not in a word, a decimal or a version, and no group of a UUID or
# an ISBN.
_B = r"(?<![0-9A-Za-z_])(?<![0-9][.-])(?<![0-9A-Fa-f]{4}-)"
_A = r"(?![0-9A-Za-z_])(?![.-][0-9])"


def _digits(match: re.Match) -> str:
    return re.sub("[^0-9]", "", match[0])


def _number(pattern: str, valid=None) -> Form:
    compiled = re.compile(pattern)
    return Form(compiled, _NEAR_DIGITS, valid) if valid else Form(compiled, _NEAR_DIGITS)


# Telephones. +1 and +86 are not among the codes: they have forms of their own.
_CALLING_CODE = re.compile(
    "7|20|27|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[124]|9[0-58]|2[1-69][0-9]|35[0-9]|3[78][0-9]"
    "|42[013]|50[0-9]|59[0-9]|6[7-9][0-9]|85[0-9]|88[0-9]|96[0-9]|97[0-9]|99[0-9]"
)
_PHONE_WORD = re.compile(
    r"(?:(?<![0-9A-Za-z])(?:tel|telephone|phone|mobile|cell|cellphone|fax|call(?: me| us)?"
    r"|whatsapp|hotline)|电话|手机|座机|传真|热线|联系方式)"
    r"(?: ?(?:no\.?|number|is|at|on|号码?|是|为))*[ \t.:：#=]*[(+]?$",
    re.IGNORECASE,
)
_CHINA = r"[(（]?(?:\+|00)86[)）]?[ -]?"
_EXTENSION = r"(?: ?(?:x|ext\.?) ?[0-9]{1,5})?"


def _chinese_landline(between: str) -> str:
    """An area code without its 0, `between`, a number: 8 digits in the largest cities, or 7."""
    largest = rf"(?:10|2[0-9]){between}[2-8][0-9]{{3}}"
    return rf"(?:{largest}|[3-9][0-9]{{2}}{between}[2-8][0-9]{{2,3}})[ -]?[0-9]{{4}}"


def _is_international(match: re.Match) -> bool:
    digits = re.sub("[^0-9]", "", match[0].replace("(0)", ""))
    return 8 <= len(digits) <= 15 and _CALLING_CODE.match(digits) is not None


def _is_announced_phone(match: re.Match) -> bool:
    return _PHONE_WORD.search(before(match)) is not None


PHONES = (
    _number(
        rf"(?<![0-9A-Za-z_+])\+[2-9](?:[ .()-]{{0,2}}[0-9]){{7,16}}{_A}(?!%)", _is_international
    ),
    _number(rf"{_B}(?:{_CHINA}|86)?1[3-9][0-9]([ -]?)[0-9]{{4}}\1[0-9]{{4}}{_A}"),
    _number(
        rf"{_B}(?:(?<![0-9] )|(?=0[0-9]{{2,3}}-))"
        rf"(?:{_CHINA}[(（]?0?{_chinese_landline('[)）]?[ -]?')}"
        rf"|[(（]?0{_chinese_landline('(?:[)）][ -]?|[ -])')})(?:-[0-9]{{1,5}})?"
        rf"{_A}(?! [0-9])"
    ),
    _number(
        rf"{_B}(?:(?:\+?1|001)[ .-]?)?(?:\([2-9][0-9]{{2}}\)[ -]?[0-9]{{3}}[ .-]"
        rf"|[2-9][0-9]{{2}}([.-])[0-9]{{3}}\1)[0-9]{{4}}{_EXTENSION}{_A}"
    ),
    _number(
        rf"{_B}(?<![0-9] )(?:\+?1 )?[2-9][0-9]{{2}} [2-9][0-9]{{2}} [0-9]{{4}}{_EXTENSION}{_A}"
        r"(?! [0-9])"
    ),
    _number(rf"(?<![0-9A-Za-z_+])\+1 ?[2-9][0-9]{{9}}{_A}"),
    _number(rf"{_B}\(?[0-9](?:[ .()-]{{0,2}}[0-9]){{6,14}}{_A}", _is_announced_phone),
)

# Resident ids: province, county, birth date, order, check digit.
_PROVINCE = "(?:1[1-5]|2[1-3]|3[1-7]|4[1-6]|5[0-4]|6[1-5]|71|8[1-3])"


def _has_birth_date(number: str) -> bool:
    try:
        date = datetime.date(int(number[6:10]), int(number[10:12]), int(number[12:14]))
    except ValueError:
        return False
    return 1850 <= date.year < 2100


RESIDENT_IDS = (
    _number(
        rf"(?<![0-9A-Za-z_.]){_PROVINCE}[0-9]{{15}}[0-9Xx](?![0-9A-Za-z_])",
        lambda match: _has_birth_date(match[0]) and mod_11_2(match[0]),
    ),
)

# Social security: no area 000, 666 or 9xx, no group 00, no serial 0000.
_SSN_WORD = re.compile(
    r"(?<![0-9A-Za-z])(?:SSN|social security(?: (?:number|no\.?))?)(?: is)?[ :#]*$", re.IGNORECASE
)
_SSN = r"(?!000|666|9)[0-9]{3}%s(?!00)[0-9]{2}%s(?!0000)[0-9]{4}"

SSNS = (
    _number(_B + _SSN % ("-", "-") + _A),
    _number(
        _B + _SSN % ("([ -]?)", r"\1") + _A,
        lambda match: _SSN_WORD.search(before(match)) is not None,
    ),
)

# The length of an IBAN by country (SWIFT's registry).
_IBAN_LENGTHS = {
    15: "NO", 16: "BE", 18: "DK FI FO GL NL FK", 19: "MK SI", 20: "AT BA EE KZ LT LU XK MN",
    21: "CH CR HR LI LV", 22: "BG BH DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM SO TL",
    24: "AD CZ ES MD PK RO SA SE SK TN VG", 25: "LY PT ST SD", 26: "IS TR",
    27: "BI DJ FR GR IT MC MR SM", 28: "AL AZ BY CY DO GT HN HU LB NI PL SV", 29: "BR EG PS QA UA",
    30: "JO KW MU YE", 31: "MT SC", 32: "LC", 33: "RU",
}  # fmt: skip
_IBAN = "|".join(
    f"(?:{countries.replace(' ', '|')})[0-9]{{2}}(?: ?[A-Z0-9]{{4}}){{{length // 4 - 1}}}"
    + (f" ?[A-Z0-9]{{{length % 4}}}" if length % 4 else "")
    for length, countries in _IBAN_LENGTHS.items()
)

IBANS = (
    Form(
        re.compile(f"(?<![0-9A-Za-z_])(?:{_IBAN})(?![0-9A-Za-z_])"),
        _NEAR_DIGITS,
        lambda match: mod_97(match[0].replace(" ", "")),
    ),
)

# Issuers of cards: first digits, and how many digits there are.
_ISSUERS = tuple(
    (re.compile(prefix), lengths)
    for prefix, lengths in (
        ("4", (13, 16, 19)),  # Visa
        ("5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720", (16,)),  # Mastercard
        ("3[47]", (15,)),  # American Express
        ("62", (16, 17, 18, 19)),  # UnionPay
        ("6011|64[4-9]|65", (16, 17, 18, 19)),  # Discover
        ("352[89]|35[3-8]", (16, 17, 18, 19)),  # JCB
        ("30[0-5]|3[689]", (14,)),  # Diners Club
        ("5018|5020|5038|5893|6304|6759|676[1-3]", (13, 14, 15, 16, 17, 18, 19)),  # Maestro
        ("220[0-4]", (16,)),  # Mir
    )
)


def _is_card(match: re.Match) -> bool:
    digits = _digits(match)
    if not any(len(digits) in lengths and first.match(digits) for first, lengths in _ISSUERS):
        return False
    if len(digits) == 18 and re.match(_PROVINCE, digits) and _has_birth_date(digits):
        return False  # a resident id, with a wrong check digit if it is none
    article = sum(map(int, digits[::2])) + 3 * sum(map(int, digits[1::2]))
    if len(digits) == 13 and article % 10 == 0:
        return False  # an article's number (EAN)
    return luhn(digits)


# The first four digits of a card: none of a longer row of groups.
_ALONE = "(?:(?<![0-9] )|(?=[0-9]{4}-))"

CARDS = (
    _number(rf"{_B}[2-6][0-9]{{12,18}}{_A}", _is_card),
    _number(
        rf"{_B}{_ALONE}[2-6][0-9]{{3}}([ -])[0-9]{{4}}\1[0-9]{{4}}\1[0-9]{{4}}(?:\1[0-9]{{3}})?"
        rf"{_A}(?! [0-9]{{3}})",
        _is_card,
    ),
    _number(rf"{_B}{_ALONE}3[0-9]{{3}}([ -])[0-9]{{6}}\1[0-9]{{4,5}}{_A}", _is_card),
)
