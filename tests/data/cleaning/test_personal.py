"""Personal data on lines that the test writes itself: valid values and near misses, labelled."""

# ruff: noqa: RUF001 (full-width punctuation belongs to Chinese text)

import random
import time
import uuid

import pytest

from llm_jax.data.cleaning import personal_numbers
from llm_jax.data.cleaning.personal import KINDS, Span, find, mask

ENGLISH = (
    "Please write to {} before Monday.",
    "{}",
    "Her new one is {}, the old one is gone.",
    '{{"user": "{}", "active": true}}',
    "(see {})",
    "We have {} on file; nothing else is known.",
)
CHINESE = (
    "请记下{}，谢谢。",
    "资料：{}。",
    "他说是{}吗？",
    "《附件》里有{}、还有别的",
)
TEMPLATES = ENGLISH + CHINESE


# The checks again, slowly and by other means: tables, weights, division digit by digit.
def slow_luhn(digits):
    doubled = dict(zip("0123456789", (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)))
    total = 0
    for place, digit in enumerate(reversed(digits)):
        total += doubled[digit] if place % 2 else int(digit)
    return total % 10 == 0


def slow_mod_97(iban):
    remainder = 0
    for character in iban[4:] + iban[:4]:
        value = ord(character) - 55 if character.isalpha() else int(character)
        for digit in str(value):
            remainder = (remainder * 10 + int(digit)) % 97
    return remainder == 1


def resident_check(seventeen):
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    return "10X98765432"[sum(w * int(d) for w, d in zip(weights, seventeen)) % 11]


def numbers(draw, count):
    return "".join(draw.choices("0123456789", k=count))


def other_digit(draw, digit):
    return draw.choice([d for d in "0123456789" if d != digit])


def with_luhn(draw, prefix, length):
    body = prefix + numbers(draw, length - len(prefix) - 1)
    return next(body + d for d in "0123456789" if slow_luhn(body + d))


def grouped(number, sizes, by):
    pieces = []
    for size in sizes:
        pieces.append(number[:size])
        number = number[size:]
    return by.join(pieces)


def card(draw):
    prefix, length, sizes = draw.choice(
        [
            ("4", 16, (4, 4, 4, 4)), ("51", 16, (4, 4, 4, 4)), ("2345", 16, (4, 4, 4, 4)),
            ("37", 15, (4, 6, 5)), ("6225", 16, (4, 4, 4, 4)), ("6217", 19, (4, 4, 4, 4, 3)),
            ("6011", 16, (4, 4, 4, 4)), ("3530", 16, (4, 4, 4, 4)), ("36", 14, (4, 6, 4)),
        ]
    )  # fmt: skip
    number = with_luhn(draw, prefix, length)
    return draw.choice([number, grouped(number, sizes, " "), grouped(number, sizes, "-")])


def resident_id(draw):
    date = f"{draw.randint(1930, 2015)}{draw.randint(1, 12):02}{draw.randint(1, 28):02}"
    province = draw.choice(["110101", "310104", "440305", "510107", "620102", "650102"])
    body = province + date + numbers(draw, 3)
    return body + resident_check(body)


def iban(draw):
    length = {"DE": 22, "FR": 27, "BE": 16, "NO": 15, "ES": 24, "GB": 22, "CH": 21, "MT": 31}
    country = draw.choice(sorted(length))
    letters = {"GB": "NWBK", "MT": "MALT"}.get(country, "")
    rest = letters + numbers(draw, length[country] - 4 - len(letters))
    check = next(n for n in range(2, 99) if slow_mod_97(f"{country}{n:02}{rest}"))
    whole = f"{country}{check:02}{rest}"
    return draw.choice([whole, grouped(whole, [4] * 8, " ").strip()])


def change_at(draw, text, places):
    digits = [i for i in places if text[i].isdigit()]
    place = draw.choice(digits)
    return text[:place] + other_digit(draw, text[place]) + text[place + 1 :]


def email(draw):
    local = draw.choice(["j.doe", "zhang_san", "a", "Mary-Ann+news", "user99", "li.wei.88"])
    host = draw.choice(["mail", "x1", "sub.example", "uni-bonn", "qq", "163"])
    return f"{local}@{host}.{draw.choice(['com', 'org', 'co.uk', 'com.cn', 'de', 'cn', 'info'])}"


def phone(draw):
    area, last = str(draw.randint(201, 989)), numbers(draw, 4)
    middle = str(draw.randint(200, 999))
    mobile = f"1{draw.randint(3, 9)}{numbers(draw, 9)}"
    local = f"{draw.randint(2, 8)}{numbers(draw, 7)}"
    return draw.choice(
        [
            f"({area}) {middle}-{last}", f"{area}-{middle}-{last}", f"{area}.{middle}.{last}",
            f"+1 {area} {middle} {last}", f"+1{area}{middle}{last}", f"+1-{area}-{middle}-{last}",
            f"{area}-{middle}-{last} ext. 12",
            mobile, f"{mobile[:3]}-{mobile[3:7]}-{mobile[7:]}", f"+86 {mobile}", f"+86{mobile}",
            f"0086-{mobile}", f"(+86){mobile}", f"{mobile[:3]} {mobile[3:7]} {mobile[7:]}",
            f"010-{local}", f"(021){local}", f"0755-{local}", f"0571-{local[:7]}-102",
            f"+86 10 {local[:4]} {local[4:]}", f"+86-755-{local}",
            f"+44 20 {numbers(draw, 4)} {last}", f"+44 (0)20 {numbers(draw, 4)} {last}",
            f"+49 30 {numbers(draw, 6)}", f"+33 1 23 45 {last[:2]} {last[2:]}",
            f"+81-3-{numbers(draw, 4)}-{last}", f"+4915{numbers(draw, 9)}",
            f"+91 {numbers(draw, 5)} {numbers(draw, 5)}",
        ]
    )  # fmt: skip


def ip(draw):
    if draw.random() < 0.3:
        return draw.choice(["2001:4860:4860::{:x}", "2606:4700:0:0:0:0:{:x}:1"]).format(
            draw.randint(1, 65535)
        )
    first = draw.choice([1, 8, 23, 52, 91, 114, 151, 185, 202, 223])
    return f"{first}.{draw.randint(0, 255)}.{draw.randint(0, 255)}.{draw.randint(1, 254)}"


def ssn(draw):
    area = draw.choice([n for n in range(1, 900) if n != 666])
    return f"{area:03}-{draw.randint(1, 99):02}-{draw.randint(1, 9999):04}"


def alphabet(draw, count, upper=True):
    letters = "abcdefghijklmnopqrstuvwxyz0123456789" + "ABCDEFGHIJKLMNOPQRSTUVWXYZ" * upper
    return "".join(draw.choices(letters, k=count - 2)) + "7z"


def key(draw):
    token = alphabet(draw, 40)
    return draw.choice(
        [
            "AKIA" + alphabet(draw, 16).upper(), "ghp_" + alphabet(draw, 36),
            "github_pat_" + alphabet(draw, 82), "xoxb-" + f"{numbers(draw, 11)}-{token[:24]}",
            "AIza" + alphabet(draw, 35), "sk-" + alphabet(draw, 48),
            f"eyJ{alphabet(draw, 30)}.eyJ{alphabet(draw, 80)}.{alphabet(draw, 43)}",
            "-----BEGIN RSA PRIVATE KEY-----\n" + "\n".join(alphabet(draw, 64) for _ in range(9))
            + "\n-----END RSA PRIVATE KEY-----",
        ]
    )  # fmt: skip


MAKERS = {
    "email": email, "phone": phone, "china_id": resident_id, "us_ssn": ssn, "iban": iban,
    "card": card, "ip": ip, "key": key,
}  # fmt: skip


def announced(draw):
    """(line, value, kind) of values that only the words before them tell."""
    ten = f"{draw.randint(201, 989)}{draw.randint(200, 999)}{numbers(draw, 4)}"
    secret = alphabet(draw, 32)
    return draw.choice(
        [
            (f"Phone: {ten}", ten, "phone"),
            (f"call me at 020 7946 {ten[:4]}, please", f"020 7946 {ten[:4]}", "phone"),
            (f"联系方式：{ten[:8]}。", ten[:8], "phone"),
            (f"SSN: 123{ten[4:6]}4567"[:14], f"123{ten[4:6]}4567", "us_ssn"),
            (f'api_key = "{secret}"', secret, "key"),
            (f"AWS_SECRET_ACCESS_KEY={secret}", secret, "key"),
            (f"Authorization: Bearer {secret}", secret, "key"),
            (f"密码：{secret}", secret, "key"),
        ]
    )


def near_miss(draw):
    """Something that is no personal data, though it nearly looks so."""
    ten, last = numbers(draw, 10), numbers(draw, 4)
    wrong_card, wrong_id, wrong_iban = card(draw), resident_id(draw), iban(draw)
    body = "110101" + draw.choice(["19901301", "19900230", "18000101"]) + numbers(draw, 3)
    unknown = with_luhn(draw, draw.choice(["9", "10", "71", "81"]), 16)
    hexes = "".join(draw.choices("0123456789abcdef", k=40))
    dots = f"{draw.randint(1, 9)}.{draw.randint(0, 30)}.{draw.randint(0, 30)}.{draw.randint(0, 9)}"
    return draw.choice(
        [
            change_at(draw, wrong_card, [len(wrong_card) - 1]),
            change_at(draw, wrong_card, range(6, len(wrong_card) - 1)),
            unknown, body + resident_check(body),
            wrong_id[:17] + draw.choice([c for c in "0123456789X" if c != wrong_id[17]]),
            change_at(draw, wrong_iban, [2, 3]),
            change_at(draw, wrong_iban, range(10, len(wrong_iban))),
            f"000-{last[:2]}-1{last[1:]}", f"666-12-{last}", f"9{ten[:2]}-12-{last}",
            f"123-00-{last}", f"123-{draw.randint(1, 99):02}-0000",
            "user@localhost", "zhang.san@", "@handle", "icon@2x.png", "x@self.weight",
            "git@github.com:org/repo.git", "name at example dot com", "a @ b.T",
            f"978-7-111-{numbers(draw, 5)}-0", f"9787111{numbers(draw, 6)}", f"0-13-{ten[:6]}-8",
            f"version {dots}", f"v{dots}", f"numpy=={dots}", f"版本{dots}", f"Chrome/{dots}",
            f"1.{dots}", f"300.{dots[2:]}.1",
            f"192.168.{draw.randint(0, 255)}.{draw.randint(1, 254)}", f"10.0.0.{ten[:2]}",
            "127.0.0.1", "203.0.113.7", "224.0.0.251", "2001:db8::1", "fe80::1", "::1",
            "00:1a:2b:3c:4d:5e", "12:34:56", "std::vector", "a::b",
            str(uuid.UUID(int=draw.getrandbits(128))), hexes, f"commit {hexes}",
            f"3.{numbers(draw, 16)}", f"0.1{ten}", f"-{ten}.5", f"1{ten[:4]}e{ten[:3]}",
            f"2023-{draw.randint(10, 12)}-{draw.randint(10, 28)}", "20231115 093000",
            "2023-11-15T09:30:00.123456", "15/11/2023", "2023年11月15日", "1999-2004",
            f"${draw.randint(1, 9)},{numbers(draw, 3)},{numbers(draw, 3)}.00", f"¥{ten[:8]}.00",
            f"170{ten}", f"1{ten}{ten}"[:11].replace("1", "2", 1), f"SN{wrong_card}X",
            f"12{numbers(draw, 9)}", f"{numbers(draw, 9)}", f"5{ten[1:]}", f"+{ten[:5]}",
            f"+{draw.choice(['2', '5'])}5%", f"010-{last}", f"99-{last}-{last}", f"IMG_{ten}1",
            'api_key = "your_api_key_goes_here"', "token = aaaaaaaaaaaaaaaa11",
            "secret: os.environ['SECRET_TOKEN_12']", "ghp_short", "AKIA1234", "eyJhbGciOi",
            "-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----",
            "-----BEGIN PUBLIC KEY-----\nMFwwDQYJKoZIhvcNAQEBBQADSwAw\n-----END PUBLIC KEY-----",
        ]
    )  # fmt: skip


def labelled_lines(seed=7):
    """Returns [(line, its spans)]: 60 lines of each kind, 80 announced ones, 800 near misses."""
    draw, lines = random.Random(seed), []
    for kind, make in MAKERS.items():
        for index in range(60):
            head, tail = TEMPLATES[index % len(TEMPLATES)].format("\0").split("\0")
            value = make(draw)
            lines.append((head + value + tail, [Span(len(head), len(head) + len(value), kind)]))
    for _ in range(80):
        line, value, kind = announced(draw)
        lines.append((line, [Span(line.index(value), line.index(value) + len(value), kind)]))
    for index in range(800):
        template = TEMPLATES[index % len(TEMPLATES)]
        lines.append((template.format(near_miss(draw)), []))
    return lines


def test_precision_and_recall_of_each_kind():
    lines = labelled_lines()
    assert len(lines) >= 500
    counts = {kind: [0, 0, 0] for kind in KINDS}
    wrong = []
    for line, expected in lines:
        found = find(line)
        for span in set(found) | set(expected):
            counts[span.kind][0] += span in found and span in expected
            counts[span.kind][1] += span in found
            counts[span.kind][2] += span in expected
            if (span in found) != (span in expected):
                wrong.append((line, span, "missed" if span in expected else "taken"))
    print(f"\n{'kind':10} {'right':>6} {'found':>6} {'there':>6} precision recall")
    for kind, (right, found, there) in counts.items():
        print(f"{kind:10} {right:6} {found:6} {there:6} {right / found:9.3f} {right / there:6.3f}")
    for kind, (right, found, there) in counts.items():
        assert there >= 60
        assert right >= 0.98 * found, [w for w in wrong if w[1].kind == kind]
        assert right >= 0.98 * there, [w for w in wrong if w[1].kind == kind]


def test_check_digits_equal_slow_ones():
    draw = random.Random(3)
    verdicts = {"luhn": set(), "mod_97": set(), "mod_11_2": set()}
    for _ in range(3000):
        digits = numbers(draw, draw.randint(13, 19))
        account = draw.choice(["DE", "GB", "XK"]) + numbers(draw, 2) + alphabet(draw, 18).upper()
        person = numbers(draw, 17) + draw.choice("0123456789Xx")
        account = draw.choice([account, iban(draw).replace(" ", "")])
        for name, value, slow in (
            ("luhn", digits, slow_luhn(digits)),
            ("mod_97", account, slow_mod_97(account)),
            ("mod_11_2", person, resident_check(person[:17]) == person[17].upper()),
        ):
            assert getattr(personal_numbers, name)(value) == slow, value
            verdicts[name].add(slow)
    assert all(seen == {True, False} for seen in verdicts.values())


def test_spans_do_not_overlap_and_mask_keeps_the_rest():
    draw = random.Random(11)
    for _ in range(300):
        values = [draw.choice(list(MAKERS.values()))(draw) for _ in range(4)]
        values += [near_miss(draw), "普通文字 ", "abc\r\n\t"]
        draw.shuffle(values)
        text = draw.choice([" ", "", ",", "\n", "，", "-"]).join(values)
        spans = find(text)
        ends = [0] + [place for span in spans for place in span[:2]] + [len(text)]
        assert ends == sorted(ends)
        rest = [text[a:b] for a, b in zip(ends[::2], ends[1::2])]
        masks = [f"<{span.kind.upper()}>" for span in spans] + [""]
        assert mask(text, spans) == "".join(a + b for a, b in zip(rest, masks))
        assert all(span.start < span.end for span in spans)


def test_the_longer_of_two_wins():
    token = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N"
    assert [span.kind for span in find(f"token: {token}")] == ["key"]
    assert find(f"token: {token}")[0].end == len(f"token: {token}")
    assert [span.kind for span in find("phone: 4111 1111 1111 1111")] == ["card"]
    assert [span.kind for span in find("tel 123-45-6789")] == ["us_ssn"]


def test_only_the_kinds_asked_for():
    text = "a.b@example.com, 13812345678, 8.8.8.8"
    assert [span.kind for span in find(text)] == ["email", "phone", "ip"]
    assert [span.kind for span in find(text, ("phone",))] == ["phone"]
    assert find(text, ()) == []


def test_numbers_in_a_long_row_are_found_wherever_the_row_is_cut():
    draw = random.Random(5)
    for maker in (resident_id, card, iban):
        for filler in range(40, 75):
            row = " ".join(["7"] * filler) + ", " + maker(draw).replace(" ", "")
            assert len(find(row.replace(", ", " x "))) == 1, row
            assert len(find(row.replace(", ", " "))) == 1, row


def test_speed_on_clean_prose():
    words = ["the", "house", "of", "reading", "people", "would", "therefore", "Paris", "water"]
    draw = random.Random(0)
    prose = " ".join(draw.choices(words, k=400_000)) + " in 1998."
    begin = time.perf_counter()
    assert find(prose) == []
    print(f"\n{len(prose) / 1e6 / (time.perf_counter() - begin):.1f} MB/s on clean prose")


@pytest.mark.parametrize(
    "unit", ["1", "4111 ", "13812345678 ", "a@", "a.a@b.", "eyJ-", "2:", "=", "1(", "1.2.3.4 "]
)
def test_time_grows_with_length_only(unit):
    """Ten times the text takes at most thirty times as long: nothing quadratic hides here."""
    times = []
    for size in (20_000, 200_000):
        text = unit * (size // len(unit))
        runs = []
        for _ in range(3):  # the best: a shared machine and the collector only add
            begin = time.process_time()
            find(text)
            runs.append(time.process_time() - begin)
        times.append(min(runs))
    assert times[1] < 30 * times[0] + 0.1
