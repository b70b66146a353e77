"""Readers: every format, every kind of damage, limits of memory, and going on from a place."""

import gzip
import io
import json
import resource
import tarfile
import zlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llm_jax.configuration import ConfigError
from llm_jax.data.readers import Bad, Columns, Limits, Record, files_of, read, read_file
from tests.data.fuzz_readers import fuzz

TEXTS = ["one", "zwei\nZeilen", 'three, "3"', "四", "", "ü" * 50]
ROWS = [{"id": f"n{i}", "text": text, "score": i} for i, text in enumerate(TEXTS)]


def jsonl(rows=ROWS):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def table(delimiter, rows=ROWS):
    def quote(cell):
        return '"' + cell.replace('"', '""') + '"'

    lines = [["id", "text"]] + [[row["id"], quote(row["text"])] for row in rows]
    return "".join(delimiter.join(line) + "\n" for line in lines).encode()


def tar(members, form=tarfile.PAX_FORMAT):
    """An archive of (name, bytes) or of TarInfo without content."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            archive.addfile(info, io.BytesIO(member[1]))
    return out.getvalue()


def samples(rows=ROWS):
    for row in rows:
        yield f"s/{row['id']}.jpg", b"\xff\xd8"
        yield f"s/{row['id']}.json", json.dumps(row).encode()


def parquet(rows=ROWS, **options):
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out, **options)
    return out.getvalue()


def arrow(rows=ROWS, chunk=2):
    out, content = io.BytesIO(), pa.Table.from_pylist(rows)
    with pa.ipc.new_stream(out, content.schema) as writer:
        writer.write_table(content, max_chunksize=chunk)
    return out.getvalue()


def whole_files():
    return {
        "a.jsonl": jsonl(), "a.json.gz": gzip.compress(jsonl()), "a.csv": table(","),
        "a.csv.gz": gzip.compress(table(",")), "a.tsv": table("\t"), "a.tar": tar(samples()),
        "a.tgz": gzip.compress(tar(samples())), "a.parquet": parquet(row_group_size=2),
        "a.arrow": arrow(),
    }  # fmt: skip


def write(folder, name, data):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def items_of(folder, name, data, columns=Columns(), **limits):
    path = write(folder, name, data)
    return list(read(path, columns, limits=Limits(**limits)))


def texts(items):
    return [item.text for item in items if isinstance(item, Record)]


def bad(items):
    return [item for item in items if isinstance(item, Bad)]


@pytest.mark.parametrize("name", whole_files())
def test_every_format_gives_the_same_rows(tmp_path, name):
    items = items_of(tmp_path, name, whole_files()[name], Columns(id="id"))
    assert [(item.id, item.text) for item in items] == [(row["id"], row["text"]) for row in ROWS]
    assert {item.file for item in items} == {name}
    without_id = items_of(tmp_path, name, whole_files()[name])
    assert texts(without_id) == TEXTS
    assert len({item.id for item in without_id}) == len(TEXTS)


@pytest.mark.parametrize("name", [*whole_files(), "a.txt", "a.txt.gz"])
def test_reading_goes_on_from_any_place(tmp_path, name):
    many = [{"id": f"m{i}", "text": f"t{i}\n" * (i % 7), "score": i} for i in range(200)]
    plain = {
        "jsonl": jsonl(many) + b"no json\n" + jsonl(many), "txt": b"line\nlonger line\n\n" * 90,
        "csv": table(",", many), "tsv": table("\t", many), "tar": tar(samples(many)),
        "parquet": parquet(many, row_group_size=64), "arrow": arrow(many, chunk=100),
    }  # fmt: skip
    form = name.replace("json.gz", "jsonl.gz").replace("tgz", "tar.gz").split(".")[1]
    data = gzip.compress(plain[form])[:-5] if name.endswith("gz") else plain[form]
    path = write(tmp_path, name, data)
    limits = Limits(max_record_bytes=300)
    items = list(read(path, limits=limits))
    assert len(items) > 3
    assert [item.offset for item in items] == sorted({item.offset for item in items})
    for place in range(0, len(items), max(1, len(items) // 15)):
        rest = read(path, limits=limits, start=(name, items[place].offset))
        assert list(rest) == items[place + 1 :], place


def test_files_are_read_in_the_order_of_their_names(tmp_path):
    write(tmp_path, "b/2.txt", b"two")
    write(tmp_path, "b/1.txt.gz", gzip.compress(b"one"))
    write(tmp_path, "a.jsonl", b'{"text": "first"}\n')
    write(tmp_path, ".hidden.bin", b"\xff")
    assert [file[0] for file in files_of(tmp_path)] == ["a.jsonl", "b/1.txt.gz", "b/2.txt"]
    assert [file.format for file in files_of(tmp_path)] == ["jsonl", "text.gz", "text"]
    items = list(read(tmp_path))
    assert texts(items) == ["first", "one", "two"]
    assert list(read(tmp_path, start=("b/1.txt.gz", 0))) == items[2:]


def test_unknown_files_are_refused_or_read_as_text(tmp_path):
    path = write(tmp_path, "setup.cfg", b"[a]\n")
    with pytest.raises(ConfigError, match="setup.cfg is of no known format"):
        read(tmp_path)
    assert texts(read(path, unknown_as_text=True)) == ["[a]\n"]
    write(tmp_path, "x.parquet.gz", b"")
    with pytest.raises(ConfigError, match="x.parquet.gz"):
        files_of(tmp_path, unknown_as_text=True)


def test_wrong_settings_are_refused_before_anything_is_read(tmp_path):
    with pytest.raises(ConfigError, match="not there"):
        read(tmp_path / "none.jsonl")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no files"):
        read(tmp_path / "empty")
    write(tmp_path, "a.jsonl", b"")
    with pytest.raises(ConfigError, match="start names 'b.jsonl'"):
        read(tmp_path / "a.jsonl", start=("b.jsonl", 0))
    with pytest.raises(ConfigError, match=r"columns.text is empty"):
        Columns(text="")
    with pytest.raises(ConfigError, match=r"columns.id is empty"):
        Columns(id="")
    with pytest.raises(ConfigError, match="max_record_bytes is 0"):
        Limits(max_record_bytes=0)
    with pytest.raises(ConfigError, match="free_bytes is -1"):
        Limits(free_bytes=-1)


def test_lines_that_are_no_records(tmp_path):
    lines = [
        b'{"text": "good"}', b"not json", b"[1]", b'{"texts": "x"}', b'{"text": 5}',
        b'{"text": null}', b'{"text": "\xff"}', b'{"text": "\\ud800"}', b"[" * 100_000, b"  ",
        b'{"text": "1", "id": ' + b"9" * 5000 + b"}", b'{"text": "last", "id": 7}',
    ]  # fmt: skip
    data = b"\xef\xbb\xbf" + b"\n".join(lines)
    items = items_of(tmp_path, "a.jsonl", data)
    assert texts(items) == ["good", "last"]
    reasons = [item.reason for item in bad(items)]
    expected = ["not JSON", "no JSON object", "no column 'text'", "is a int", "is null"]
    expected += [f"byte {data.index(0xFF)} is 0xff", "surrogate", "not JSON", "not JSON"]
    for reason, part in zip(reasons, expected, strict=True):
        assert part in reason
    assert [item.offset for item in items[1:]] == [
        data.index(b"\n" + x) + 1 for x in lines[1:] if x.strip()
    ]
    items = items_of(tmp_path, "b.jsonl", b"\n".join(lines), Columns(id="id"))
    assert [item.id for item in items if isinstance(item, Record)] == ["7"]


def test_a_line_too_long_is_bad_and_never_held(tmp_path):
    """A line of 200 MB costs no more memory than the limit of a record."""
    path = tmp_path / "a.jsonl"
    with open(path, "wb") as file:
        file.write(b'{"text": "before"}\n{"text": "')
        for _ in range(200):
            file.write(b"x" * (1 << 20))
        file.write(b'"}\n{"text": "behind"}\n')
    (tmp_path / "b.txt").write_bytes(b"before\n" + b"x" * (3 << 20) + b"\nbehind\n")
    assert texts(read(path.with_name("b.txt"), limits=Limits(max_record_bytes=1 << 20))) == [
        "before\n",
        "behind\n",
    ]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    items = list(read(path, limits=Limits(max_record_bytes=1 << 20)))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40 << 10
    assert texts(items) == ["before", "behind"]
    assert [(item.offset, "209715" in item.reason) for item in bad(items)] == [(19, True)]


def test_a_text_file_is_one_record_or_parts_cut_after_lines(tmp_path):
    assert texts(items_of(tmp_path, "a.txt", b"\xef\xbb\xbfa\r\nb")) == ["a\r\nb"]
    assert items_of(tmp_path, "empty.txt", b"") == []
    data = b"".join(b"line %d\n" % i for i in range(100)) + b"end"
    items = items_of(tmp_path, "b.txt", data, max_record_bytes=50)
    assert "".join(texts(items)).encode() == data
    assert all(len(text) <= 50 and text.endswith(("\n", "end")) for text in texts(items))
    assert [data[item.offset :][:5] for item in items] == [b"line "] * len(items)
    (only,) = items_of(tmp_path, "c.txt", b"fine\n\xe4 not\n")
    assert only == Bad("c.txt", 0, "is not UTF-8: byte 5 is 0xe4")


def test_damaged_tables(tmp_path):
    data = b'id,text\n1,"a\nb"\n2\n3,\xffc\n4,"open\n5,five\n6,six\n'
    items = items_of(tmp_path, "a.csv", data)
    assert texts(items) == ["a\nb"]
    assert [item.offset for item in items] == [data.index(b"%d" % i) for i in (1, 2, 3, 4)]
    for item, part in zip(bad(items), ["1 cells", f"byte {data.index(0xFF)} ", "end of data"]):
        assert part in item.reason
    # What an open quote swallows is bounded.
    items = items_of(tmp_path, "a.csv", data, max_record_bytes=10)
    assert texts(items)[-1] == "six"
    assert "open quote" in bad(items)[-1].reason
    (only,) = items_of(tmp_path, "b.csv", b"id,body\n1,x\n")
    assert only.reason == "has no column 'text', but id, body"
    (only,) = items_of(tmp_path, "c.csv", b"")
    assert only.reason == "has no header"
    long = b"text\n" + b"x" * 400_000 + b"\n"
    assert [len(text) for text in texts(items_of(tmp_path, "d.csv", long))] == [400_000]
    items = items_of(tmp_path, "e.csv", b'text\n"a"b\nfine\n')
    assert texts(items) == ["fine"]
    assert "is no row" in items[0].reason


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.csv.gz", "a.tar.gz"])
def test_records_before_damaged_gzip_stand(tmp_path, name):
    many = [{"id": str(i), "text": f"text {i} {zlib.crc32(b'%d' % i)}"} for i in range(1500)]
    plain = {"jsonl": jsonl(many), "csv": table(",", many), "tar": tar(samples(many))}
    compressed = gzip.compress(plain[name.split(".")[1]])
    expected = [row["text"] for row in many]
    cut = compressed[: len(compressed) // 2]
    broken = cut[:-1000] + bytes(500) + compressed[len(cut) - 500 :]
    wrong_sum = compressed[:-8] + bytes(4) + compressed[-4:]
    for data, least in ((cut, 0.4), (broken, 0.3), (wrong_sum, 1), (compressed + b"garbage", 1)):
        items = items_of(tmp_path, name, data)
        stand = int(least * len(expected))
        assert texts(items[:stand]) == expected[:stand]
        if data is cut:
            assert texts(items[:-1]) == expected[: len(items) - 1]
        if least < 1 or name != "a.tar.gz":  # an archive ends before its gzip does
            assert isinstance(items[-1], Bad)
            assert data is broken or "gzip" in items[-1].reason
    write(tmp_path, "z.txt", b"next")
    assert texts(read(tmp_path))[-1] == "next"
    (only,) = items_of(tmp_path / "none", name, b"")
    assert "truncated gzip" in only.reason


def test_gzip_members_in_a_row_and_padding(tmp_path):
    data = gzip.compress(b"a\n") + gzip.compress(b"") + gzip.compress(b"b\n") + bytes(999)
    assert texts(items_of(tmp_path, "a.txt.gz", data)) == ["a\nb\n"]


@pytest.mark.parametrize("name", ["a.txt.gz", "a.jsonl.gz", "a.tar.gz"])
def test_decompression_bombs_are_left(tmp_path, name):
    bomb = gzip.compress(b'{"text": "fine"}\n' + bytes(50 << 20))
    if name == "a.tar.gz":
        info = tarfile.TarInfo("b.jpg")
        info.size = 50 << 20
        head = tar([("a.txt", b"fine")])[:1024] + info.tobuf()
        bomb = gzip.compress(head + bytes(50 << 20))
    begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    items = items_of(tmp_path, name, bomb)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - begin < 30 << 10
    assert "decompression bomb" in items[-1].reason
    assert texts(items) == ([] if name == "a.txt.gz" else ["fine"])
    # The same ratio in little is no bomb.
    assert bad(items_of(tmp_path, "b.txt.gz", gzip.compress(bytes(1 << 20)))) == []


def test_a_parquet_bomb_is_left(tmp_path):
    rows = [{"text": "x" * 100_000}] * 1000
    items = items_of(tmp_path, "a.parquet", parquet(rows, compression="zstd"))
    assert "decompression bomb" in items[-1].reason
    assert len(items) < 1000


def test_archives_are_never_unpacked(tmp_path):
    def special(kind, name="x.txt", target="/etc/passwd"):
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, target
        return info

    (tmp_path / "in").mkdir()
    members = [
        ("../up.txt", b"evil"), ("good.txt", b"good"), ("/etc/absolute.txt", b"evil"),
        ("a/../../b.txt", b"evil"), ("..\\w.txt", b"evil"), special(tarfile.SYMTYPE, "s1.txt"),
        special(tarfile.LNKTYPE, "s2.txt"), special(tarfile.CHRTYPE, "s3.txt"),
        special(tarfile.FIFOTYPE, "s4.txt"), special(tarfile.DIRTYPE, "folder"),
        ("n" * 300 + ".txt", b"long name"), ("only.jpg", b"\xff"), ("b.json", b"{"),
        ("c.txt", b"\xff"), ("d.txt", b"x" * 2000), ("e.txt", b"last"),
    ]  # fmt: skip
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        items = items_of(tmp_path / "in", "a.tar", tar(members, form), max_record_bytes=1000)
        assert texts(items) == ["good", "long name", "last"]
        reasons = [item.reason for item in bad(items)]
        parts = ["leaves its folder"] * 4 + ["link", "link", "device", "named pipe", "no member"]
        for reason, part in zip(reasons, [*parts, "JSON", "byte 0 is 0xff", "2000"], strict=True):
            assert part in reason
        assert [path.name for path in tmp_path.rglob("*")] == ["in", "a.tar"]


def test_a_sample_is_the_members_of_one_key(tmp_path):
    members = [
        ("a/1.txt", b"one"), ("a/1.json", b'{"id": "first", "text": "unused"}'),
        ("b/1.json", b'{"id": "second", "text": "two"}'), ("b/2.en.txt", b"other kind"),
        ("b/3.txt", b"three"),
    ]  # fmt: skip
    items = items_of(tmp_path, "a.tar", tar(members), Columns(id="id"))
    assert [(i.id, i.text) for i in items[:2]] == [("first", "one"), ("second", "two")]
    assert "no member" in items[2].reason
    assert "no column 'id'" in items[3].reason
    items = items_of(tmp_path, "a.tar", tar(members))
    assert [item.id for item in items if isinstance(item, Record)] == [
        "a.tar:a/1",
        "a.tar:b/1",
        "a.tar:b/3",
    ]


def test_records_before_damage_in_an_archive_stand(tmp_path):
    data = tar([(f"{i}.txt", b"text %d" % i) for i in range(10)])
    for broken, reason in (
        (data[:5000], "truncated"),
        (data[: 5 * 1024], "truncated"),
        (data[: 5 * 1024] + b"\1" * 512 + data[5 * 1024 + 512 :], "number that is none"),
        (data[: 5 * 1024 + 7] + b"?" + data[5 * 1024 + 8 :], "checksum"),
        (data[: 10 * 1024], "truncated"),
    ):
        items = items_of(tmp_path, "a.tar", broken)
        assert texts(items) == [f"text {i}" for i in range(len(items) - 1)]
        assert len(items) >= 5
        assert reason in items[-1].reason


def test_damaged_parquet(tmp_path):
    many = [{"id": str(i), "text": f"text {i} {zlib.crc32(b'%d' % i)}"} for i in range(1000)]
    data = parquet(many, row_group_size=100, compression="snappy", use_dictionary=False)
    (only,) = items_of(tmp_path, "a.parquet", data[: len(data) // 2])
    assert "no parquet" in only.reason
    group = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(5).column(1)
    place = group.data_page_offset
    broken = data[:place] + bytes(200) + data[place + 200 :]
    items = items_of(tmp_path, "a.parquet", broken)
    assert texts(items) == [row["text"] for row in many[:500]]
    assert isinstance(items[500], Bad)
    assert (len(items), items[500].offset) == (501, 500)
    (only,) = items_of(tmp_path, "a.parquet", data, Columns(text="body"))
    assert only.reason.startswith("has no column 'body'")


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_cells_of_tables_are_checked_one_by_one(tmp_path, name):
    make = parquet if name == "a.parquet" else arrow
    cells = [b"fine", b"\xffbroken", None, b"x" * 300, b"gut"]
    strings = pa.array(cells, pa.binary()).view(pa.string())
    out = io.BytesIO()
    content = pa.table({"text": strings, "id": pa.array(range(5))})
    if name == "a.parquet":
        pq.write_table(content, out)
    else:
        with pa.ipc.new_stream(out, content.schema) as writer:
            writer.write_table(content)
    items = items_of(tmp_path, name, out.getvalue(), Columns(id="id"), max_record_bytes=200)
    assert [(item.id, item.text) for item in items if isinstance(item, Record)] == [
        ("0", "fine"),
        ("4", "gut"),
    ]
    for item, part in zip(bad(items), ["byte 0 is 0xff", "is null", "300 bytes"], strict=True):
        assert part in item.reason
    (only,) = items_of(tmp_path, name, make([{"text": 5}]))
    assert "int64, not a string" in only.reason
    for kind in (pa.large_string(), pa.dictionary(pa.int32(), pa.string())):
        out, content = io.BytesIO(), pa.table({"text": pa.array(["a", "b", None, "a"], kind)})
        if name == "a.parquet":
            pq.write_table(content, out)
        else:
            with pa.ipc.new_stream(out, content.schema) as writer:
                writer.write_table(content)
        assert texts(items_of(tmp_path, name, out.getvalue())) == ["a", "b", "a"]


def test_records_before_the_end_of_a_truncated_arrow_file_stand(tmp_path):
    many = [{"text": f"text {i}"} for i in range(1000)]
    data = arrow(many, chunk=100)
    items = items_of(tmp_path, "a.arrow", data[: len(data) // 2])
    assert texts(items) == [row["text"] for row in many[: len(items) - 1]]
    assert len(items) > 300
    assert "arrow stream" in items[-1].reason


def test_a_dataset_saved_to_disk(tmp_path):
    def save(folder, names):
        for index, name in enumerate(names):
            write(folder, name, arrow(ROWS[3 * index : 3 * index + 3]))
        state = {"_data_files": [{"filename": name} for name in names], "_split": "train"}
        write(folder, "state.json", json.dumps(state).encode())
        write(folder, "dataset_info.json", b"{}")

    names = ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    save(tmp_path / "set" / "train", names)
    write(tmp_path / "set" / "train", "cache-1.arrow", arrow())
    write(tmp_path / "set", "dataset_dict.json", b'{"splits": ["train"]}')
    assert [file.name for file in files_of(tmp_path / "set")] == [f"train/{n}" for n in names]
    assert texts(read(tmp_path / "set")) == TEXTS
    assert texts(read(tmp_path / "set" / "train")) == TEXTS
    (tmp_path / "set" / "train" / names[1]).unlink()
    with pytest.raises(ConfigError, match=f"{names[1]}, which is not there"):
        read(tmp_path / "set")
    write(tmp_path / "set" / "train", "state.json", b'{"_data_files": [{"filename": "../x"}]}')
    with pytest.raises(ConfigError, match=r"'\.\./x'"):
        read(tmp_path / "set")
    write(tmp_path / "set" / "train", "state.json", b"{")
    with pytest.raises(ConfigError, match="is damaged"):
        read(tmp_path / "set")


def test_a_file_that_goes_away_is_bad_and_the_next_follows(tmp_path):
    for name in ("a.jsonl", "b.csv", "c.tar.gz", "d.parquet", "e.arrow"):
        write(tmp_path, name, b"x")
    write(tmp_path, "f.txt", b"next")
    items = read(tmp_path)
    for name in "a.jsonl", "b.csv", "c.tar.gz", "d.parquet", "e.arrow":
        (tmp_path / name).unlink()
    items = list(items)
    assert [item.file[0] for item in bad(items)] == list("abcde")
    assert texts(items) == ["next"]


def test_one_file_alone(tmp_path):
    (file,) = files_of(write(tmp_path, "a.jsonl", jsonl()))
    items = list(read_file(file))
    assert texts(items) == TEXTS
    assert list(read_file(file, start=items[2].offset)) == items[3:]


def test_fuzzed_for_two_seconds():
    files, records, items = fuzz(2, seed=3)
    assert files > 20
    assert 0 < records < items


@pytest.mark.slow
def test_fuzzed_for_thirty_seconds():
    files, records, items = fuzz(30, seed=4)
    assert files > 300
    assert 0 < records < items


def test_a_parquet_file_whose_statistics_contradict_its_schema_is_bad(tmp_path):
    """Found by the fuzzer: pyarrow ends the process when it is asked about such a column."""
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["one", None, "three"]}), path)
    optional, required = (b"\x25" + kind + b"\x18\x04text" for kind in (b"\x02", b"\x00"))
    data = path.read_bytes()
    assert data.count(optional) == 1
    path.write_bytes(data.replace(optional, required))
    (item,) = read(path)
    assert isinstance(item, Bad)
    assert "is damaged or no parquet" in item.reason
