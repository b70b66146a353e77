"""The same pictures in every container give the same prepared data."""

import io
import json
import re
import subprocess
import sys
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from llm_jax.configuration import ConfigError
from llm_jax.data import DataConfig, load_manifest, open_split, prepare
from llm_jax.data.manifest import sha256_of
from llm_jax.data.objectives import Classification

NAMES = ("ant", "cat")
IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def pictures():
    """Returns 20 (bytes of a PNG, label), sizes mixed; a few are gray."""
    draw, found = np.random.default_rng(0), []
    for number in range(20):
        shape = (8 + number % 3, 9) + ((3,) if number % 4 else ())
        out = io.BytesIO()
        Image.fromarray(draw.integers(0, 256, shape, np.uint8)).save(out, "PNG")
        found.append((out.getvalue(), number // 10))
    return found


def table(samples, column="struct"):
    """Returns them as a table with Hugging Face's features in its metadata."""
    raw = [content for content, _ in samples]
    images = pa.array(raw, pa.binary())
    if column == "struct":
        images = pa.array([{"bytes": one, "path": "/etc/passwd"} for one in raw], IMAGE)
    labels = pa.array([label for _, label in samples], pa.int64())
    features = {"image": {"_type": "Image"}, "label": {"names": NAMES, "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.table({"image": images, "label": labels}).replace_schema_metadata(metadata)


def folder(root, samples):
    for number, (content, label) in enumerate(samples):
        (root / NAMES[label]).mkdir(parents=True, exist_ok=True)
        (root / NAMES[label] / f"{number:02}.png").write_bytes(content)
    return root


def parquet(root, samples, column="struct"):
    root.mkdir()
    (root / "README.md").write_text("about")
    half = len(samples) // 2
    pq.write_table(table(samples[:half], column), root / "a-0.parquet", row_group_size=4)
    pq.write_table(table(samples[half:], column), root / "a-1.parquet", row_group_size=9)
    return root


def arrow(root, samples):
    """Writes the layout of `datasets.Dataset.save_to_disk`."""
    root.mkdir()
    found = table(samples)
    with pa.ipc.new_stream(root / "data-00000-of-00001.arrow", found.schema) as writer:
        writer.write_table(found, max_chunksize=7)
    (root / "dataset_info.json").write_text("{}")
    (root / "state.json").write_text(
        json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]})
    )
    return root


def saved(root, samples):
    datasets = pytest.importorskip("datasets")
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(NAMES))}
    rows = {
        "image": [{"bytes": content, "path": None} for content, _ in samples],
        "label": [label for _, label in samples],
    }
    datasets.Dataset.from_dict(rows, datasets.Features(features)).save_to_disk(root)
    return root


def tar(path, samples, mode="w"):
    with tarfile.open(path, mode) as archive:
        for number, (content, label) in enumerate(samples):
            for kind, data in (("cls", str(label).encode()), ("png", content), ("json", b"{}")):
                member = tarfile.TarInfo(f"some/{number:02}.{kind}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return path


WRITERS = {
    "parquet": parquet,
    "parquet of bytes": lambda root, samples: parquet(root, samples, "bytes"),
    "arrow": arrow,
    "saved": saved,
    "tar": lambda root, samples: tar(root.with_suffix(".tar"), samples),
    "tgz": lambda root, samples: tar(root.with_suffix(".tgz"), samples, "w:gz"),
}


def prepared(path, directory, **more):
    config = DataConfig(source="images", path=str(path), **more)
    return prepare(config, vocab_size=0, directory=directory, objective=Classification())


@pytest.mark.parametrize("name", WRITERS)
def test_every_container_gives_what_a_folder_does(tmp_path, name):
    samples = pictures()
    want = prepared(folder(tmp_path / "folder", samples), tmp_path / "want", image_size=6)
    found = prepared(WRITERS[name](tmp_path / "some", samples), tmp_path / "data", image_size=6)
    assert found.files == want.files
    assert set(found.files) == {path.name for path in (tmp_path / "data").iterdir()} - {
        "manifest.json"
    }
    images = dict(want.images)
    if "t" + name[-2:] in ("tar", "tgz"):
        del images["names"]
    assert found.images == images
    assert found.documents == {"train": 16, "validation": 4}


def test_mean_and_deviation_are_those_of_the_train_split(tmp_path):
    manifest = prepared(tar(tmp_path / "a.tar", pictures()), tmp_path / "data", image_size=8)
    images = np.load(tmp_path / "data" / "images-train.npy")
    assert images.shape == (16, 3, 8, 8)
    assert manifest.images["mean"] == images.mean(dtype=np.float64)
    np.testing.assert_allclose(manifest.images["deviation"], images.std(dtype=np.float64), 1e-15)
    assert np.float32(manifest.images["deviation"]) == np.float32(images.std(dtype=np.float64))


def test_classes_by_name_are_in_alphabetical_order(tmp_path):
    rows = {"picture": [content for content, _ in pictures()], "kind": ["dog", "bee"] * 10}
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    keys = {"image": "picture", "label": "kind", "image_size": 8}
    manifest = prepared(tmp_path / "a.parquet", tmp_path / "data", **keys)
    assert tuple(manifest.images["names"]) == ("bee", "dog")
    assert np.load(tmp_path / "data" / "labels-train.npy").mean() < 1
    with pytest.raises(ConfigError, match="a.parquet has no column 'image', .*give data.image"):
        prepared(tmp_path / "a.parquet", tmp_path / "other")


def broken(samples, content=None, label=None):
    """Returns `samples` with something else as the eleventh."""
    one = samples[10]
    return [*samples[:10], (one[0] if content is None else content, label or one[1]), *samples[11:]]


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("parquet", "a-1.parquet row 0"),
        ("arrow", "arrow row 10"),
        ("tar", "tar member 'some/10.png'"),
    ],
)
def test_one_bad_picture_is_named(tmp_path, monkeypatch, name, place):
    content = pictures()[10][0]
    for number, bad in enumerate((b"", b"no picture", content[:60])):
        path = WRITERS[name](tmp_path / str(number), broken(pictures(), bad))
        with pytest.raises(ConfigError, match=f"{re.escape(place)} does not decode"):
            prepared(path, tmp_path / "data", image_size=6)
        assert not (tmp_path / "data").exists()
    path = WRITERS[name](tmp_path / "label", broken(pictures(), label=-2))
    with pytest.raises(ConfigError, match=r"has the label -2: labels|.cls that is no whole"):
        prepared(path, tmp_path / "data", image_size=6)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60)
    path = WRITERS[name](tmp_path / "whole", pictures())
    with pytest.raises(ConfigError, match=r"(row|member) \S+ (is too large|does not decode)"):
        prepared(path, tmp_path / "data", image_size=6)


def test_what_holds_no_labelled_pictures_is_told(tmp_path):
    def fails(path, message, **more):
        with pytest.raises(ConfigError, match=message):
            prepared(path, tmp_path / "data", **{"image_size": 6} | more)

    samples = pictures()
    fails(parquet(tmp_path / "high", broken(samples, label=2)), "a-1.* row 0 has the label 2.*to 1")
    whole = table(samples)
    null = pa.array([{"bytes": None, "path": "/etc/passwd"}] * 20, IMAGE)
    pq.write_table(whole.set_column(0, "image", null), tmp_path / "null.parquet")
    fails(tmp_path / "null.parquet", "null.parquet row 0 has no bytes in column 'image'")
    pq.write_table(whole.set_column(1, "label", pa.array([0.5] * 20)), tmp_path / "half.parquet")
    fails(tmp_path / "half.parquet", "half.parquet column 'label' is double")
    fails(tmp_path / "half.parquet", "column 'label' is double.*whole", image="image")
    pq.write_table(whole, tmp_path / "cut.parquet")
    raw = (tmp_path / "cut.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(raw[:-9])
    fails(tmp_path / "cut.parquet", "cut.parquet is damaged or no parquet")
    path = tar(tmp_path / "a.tar", samples)
    fails(path, "a.tar is a tar, which has no columns", label="kind")
    path.write_bytes(path.read_bytes()[:5000])
    fails(path, "a.tar is truncated")
    with tarfile.open(tmp_path / "b.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("x.png"))
    fails(tmp_path / "b.tar", "sample 'x.png' has 1 pictures and 0 members .cls")
    with tarfile.open(tmp_path / "c.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("../x.png"))
    fails(tmp_path / "c.tar", "member '../x.png' leaves its folder")
    fails(tar(tmp_path / "d.tar", samples), "have sizes 9x8, 9x9, .*data.image_size", image_size=0)
    np.savez(tmp_path / "new.npz", images=np.zeros((9, 4, 4), np.uint8), labels=np.zeros(9, int))
    raw = bytearray((tmp_path / "new.npz").read_bytes())
    raw[raw.index(b"PK\1\2") + 6] = 245  # the version of zip that reads it
    (tmp_path / "new.npz").write_bytes(raw)
    fails(tmp_path / "new.npz", "new.npz holds no labelled images .*24.5", image_size=0)
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "dataset_dict.json").write_text("{}")
    fails(arrow(tmp_path / "both" / "train", samples).parent, "several splits: give one, .*train")


def test_data_prepared_as_npz_are_still_read(tmp_path):
    prepared(folder(tmp_path / "folder", pictures()), tmp_path / "data", image_size=6)
    want = open_split(tmp_path / "data", "train", Classification()).take([3, 1])
    path = tmp_path / "data" / "images-train.npz"
    arrays = [tmp_path / "data" / f"{kind}-train.npy" for kind in ("images", "labels")]
    np.savez(path, **dict(zip(("images", "labels"), map(np.load, arrays))))
    manifest = load_manifest(tmp_path / "data")
    for array in arrays:
        array.unlink()
        del manifest.files[array.name]
    manifest.files[path.name] = sha256_of(path)
    manifest.save(tmp_path / "data")
    found = open_split(tmp_path / "data", "train", Classification()).take([3, 1])
    for key in want:
        np.testing.assert_array_equal(found[key], want[key])


MEASURED = """
import re, sys
from pathlib import Path
import numpy as np
from llm_jax.data import DataConfig, open_split, prepare
from llm_jax.data.objectives import Classification
from tests.data.test_image_containers import parquet, pictures, prepared
prepared(parquet(Path(sys.argv[1], "few"), pictures()), sys.argv[1] + "/small", image_size=8)
peak = lambda: int(re.search("VmHWM:(.*) kB", Path("/proc/self/status").read_text())[1])
before = peak()
prepared(sys.argv[2], sys.argv[1] + "/data")
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["parquet", "tar", "npz", "folder"])
def test_memory_does_not_grow_with_the_images(tmp_path, name):
    """Of 63 MB of pixels; the peak of a process of its own, in KiB.

    Arrow files are mapped: their pages count, though the system may drop them.
    """
    draw, samples, images = np.random.default_rng(0), [], []
    for number in range(320):
        image = draw.integers(0, 256, (256, 256, 3), np.uint8)
        out = io.BytesIO()
        Image.fromarray(image).save(out, "PNG", compress_level=0)
        samples.append((out.getvalue(), number // 160))
        images.append(image)
    path = tmp_path / "some"
    if name == "npz":
        path = tmp_path / "some.npz"
        np.savez(path, images=np.stack(images), labels=[label for _, label in samples])
    else:
        path = (WRITERS | {"folder": folder})[name](path, samples)
    command = [sys.executable, "-c", MEASURED, str(tmp_path), str(path)]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    grown = int(run.stdout.split()[-1])
    print(f"{name}: {grown / 1024:.1f} MiB")
    assert grown * 1024 < 32e6
