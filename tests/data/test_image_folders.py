import re

import numpy as np
import pytest
from PIL import Image

from llm_jax.configuration import ConfigError
from llm_jax.data import DataConfig, load_manifest, open_split, prepare
from llm_jax.data.images import StoredImages, open_images
from llm_jax.data.objectives import Classification


def fill(root, *, mode="RGB", sizes=((12, 8),), each=10):
    """Three classes of pictures, one shade each, in files of several formats."""
    draw = np.random.default_rng(0)
    for number, name in enumerate(("zebra", "ant", "cat")):
        (root / name / "more").mkdir(parents=True)
        for index in range(each):
            width, height = sizes[index % len(sizes)]
            shape = (height, width) if mode == "L" else (height, width, 3)
            pixels = draw.integers(60 * number, 60 * number + 50, shape).astype(np.uint8)
            folder = root / name / ("more" if index % 2 else "")
            Image.fromarray(pixels).save(folder / f"{index}.{('png', 'bmp')[index % 3 == 0]}")
    (root / ".hidden").mkdir()
    (root / "notes.txt").write_text("no picture")
    return DataConfig(source="images", path=str(root))


def read(config, tmp_path):
    """Returns all images [N, C, H, W], their labels and the classes' names."""
    stored = StoredImages(open_images(config), tmp_path / "stored")
    return np.stack(list(stored)), stored.labels, stored.names


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1)])
def test_classes_are_the_folders_in_alphabetical_order(tmp_path, mode, channels):
    images, labels, names = read(fill(tmp_path / "a", mode=mode), tmp_path)
    assert names == ("ant", "cat", "zebra")
    assert images.shape == (30, channels, 8, 12)
    assert labels.tolist() == [0] * 10 + [1] * 10 + [2] * 10
    means = [images[labels == label].mean() for label in range(3)]
    assert 60 < means[0] < 110 and 120 < means[1] < 170 and means[2] < 50  # noqa: PT018
    first = np.asarray(Image.open(tmp_path / "a" / "ant" / "0.bmp"))
    first = first[None] if mode == "L" else first.transpose(2, 0, 1)
    np.testing.assert_array_equal(images[0], first)


def test_sizes_are_made_one(tmp_path):
    config = fill(tmp_path / "a", sizes=((12, 8), (9, 20)))
    with pytest.raises(ConfigError, match=r"have sizes 12x8, 9x20, .*data.image_size"):
        read(config, tmp_path)
    scaled = DataConfig(source="images", path=config.path, image_size=8)
    images, labels, _ = read(scaled, tmp_path)
    assert images.shape == (30, 3, 8, 8)
    # Of 12 x 8 nothing is scaled: the middle is cut out.
    whole = np.asarray(Image.open(tmp_path / "a" / "ant" / "0.bmp"))
    np.testing.assert_array_equal(images[0], whole[:, 2:10].transpose(2, 0, 1))
    tall = Image.open(tmp_path / "a" / "ant" / "more" / "1.png")
    tall = np.asarray(tall.resize((8, 18), Image.Resampling.BILINEAR))[5:13]
    found = images[labels == 0]
    assert any(np.array_equal(image, tall.transpose(2, 0, 1)) for image in found)


def test_gray_pictures_among_coloured_ones_are_gray(tmp_path):
    config = fill(tmp_path / "a")
    Image.fromarray(np.full((8, 12), 7, np.uint8)).save(tmp_path / "a" / "ant" / "0.bmp")
    assert (read(config, tmp_path)[0][0] == 7).all()


def test_rows_and_names_of_prepared_folders(tmp_path):
    config = fill(tmp_path / "a")
    prepare(config, vocab_size=0, directory=tmp_path / "data", objective=Classification())
    assert tuple(load_manifest(tmp_path / "data").images["names"]) == ("ant", "cat", "zebra")
    rows = open_split(tmp_path / "data", "validation", Classification())
    assert rows.take([0])["pixels"].shape == (1, 3, 8, 12)
    # Another size is other data.
    again = DataConfig(source="images", path=config.path, image_size=6)
    assert open_images(again).content_sha256 != open_images(config).content_sha256


def test_what_cannot_be_read_is_named(tmp_path, monkeypatch):
    config = fill(tmp_path / "a")
    picture = tmp_path / "a" / "cat" / "0.bmp"
    content = picture.read_bytes()
    for broken in (b"", b"no picture", content[:60]):
        picture.write_bytes(broken)
        with pytest.raises(ConfigError, match=r"cat/0.bmp does not decode"):
            read(config, tmp_path)
    picture.write_bytes(content)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60)
    with pytest.raises(ConfigError, match="0.bmp is too large"):
        read(config, tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(ConfigError, match="0.bmp does not decode"):
        read(config, tmp_path)
    monkeypatch.undo()
    (tmp_path / "a" / "dog").mkdir()
    with pytest.raises(ConfigError, match="class 'dog' .* has no picture"):
        read(config, tmp_path)
    (tmp_path / "b").mkdir()
    with pytest.raises(ConfigError, match="has no folders"):
        open_images(DataConfig(source="images", path=str(tmp_path / "b")))
    with pytest.raises(ConfigError, match="data.image_size is -1"):
        DataConfig(image_size=-1)
    np.savez(tmp_path / "x.npz", images=np.zeros((9, 4, 4), np.uint8), labels=np.zeros(9, int))
    with pytest.raises(ConfigError, match=re.escape("x.npz' holds no pictures to scale")):
        open_images(DataConfig(source="images", path=str(tmp_path / "x.npz"), image_size=4))
