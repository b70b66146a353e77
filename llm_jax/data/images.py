"""Labelled images: a file or folder in, prepared splits of uint8 arrays, normalized batches.

A folder has one folder of pictures for each class, see `llm_jax.data.image_folders`. A file is
either `*.npz` with `images` (uint8 [N, H, W] or [N, H, W, C]) and `labels` (integers [N]), or
`*.csv` or `*.csv.gz` with an image a line: the pixels (0 .. 255) of a gray square, row by row, and
the label behind them. One image in five is held out for validation: those whose bytes have the
lowest sha256, so that equal images stay together.
"""

import dataclasses
import hashlib
import io
import platform
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from llm_jax.configuration import ConfigError
from llm_jax.data.config import DataConfig
from llm_jax.data.image_folders import read_folder
from llm_jax.data.manifest import FORMAT, Manifest, sha256_of, verify
from llm_jax.data.sources import SPLITS

HELD_OUT_ONE_IN = 5


def image_file(split: str) -> str:
    """Returns the name of the file with the split's images and labels."""
    return f"images-{split}.npz"


@dataclasses.dataclass(frozen=True)
class ImageSource:
    """The images of one file.

    Attributes:
      images: uint8 [N, C, H, W].
      labels: int32 [N], from 0.
      content_sha256: of the file or folder.
      names: of the classes, where they have any.
    """

    images: np.ndarray
    labels: np.ndarray
    content_sha256: str
    names: tuple[str, ...] = ()


def open_images(config: DataConfig) -> ImageSource:
    """Reads and checks the file or folder behind `config`.

    Raises:
      ConfigError: nothing there, or of another form, or too few images for two splits.
    """
    path = Path(config.path).expanduser()
    if path.is_dir():
        images, labels, names, digest = read_folder(path, config.image_size)
        if len(images) < HELD_OUT_ONE_IN:
            raise ConfigError(f"{path} has {len(images)} images: give {HELD_OUT_ONE_IN} or more")
        return ImageSource(images, labels, digest, names)
    if config.image_size:
        raise ConfigError(
            f"data.image_size is {config.image_size}, and {config.path!r} is no folder of "
            "pictures: leave it 0"
        )
    if not path.is_file():
        raise ConfigError(
            f"data.path is {config.path!r}, which is not there: give images as *.npz, *.csv(.gz) "
            "or a folder with one of pictures for each class; "
            "the digits of configs/vit_mnist.py come by `make assets`"
        )
    try:
        images, labels = _read_npz(path) if path.suffix == ".npz" else _read_csv(path)
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise ConfigError(
            f"{path} holds no labelled images ({error}): see llm_jax/data/images.py for the form"
        ) from None
    if len(images) < HELD_OUT_ONE_IN:
        raise ConfigError(f"{path} has {len(images)} images: give {HELD_OUT_ONE_IN} or more")
    if labels.min() < 0:
        raise ConfigError(f"{path} has the label {labels.min()}: labels count from 0")
    return ImageSource(images, labels, sha256_of(path))


def _read_npz(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        images, labels = file["images"], file["labels"]
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise ValueError(f"images are {images.dtype} {images.shape}, not uint8 [N, H, W, C]")
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise ValueError(f"labels are {labels.dtype} {labels.shape} for {len(images)} images")
    images = images[..., None] if images.ndim == 3 else images
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)), labels.astype(np.int32)


def _read_csv(path: Path) -> tuple[np.ndarray, np.ndarray]:
    table = np.loadtxt(path, delimiter=",", dtype=np.float32, ndmin=2)
    side = round((table.shape[1] - 1) ** 0.5)
    if side * side != table.shape[1] - 1 or not side:
        raise ValueError(f"{table.shape[1]} columns are no square image and a label")
    whole = np.all(table == np.round(table)) and np.all((table >= 0) & (table <= 255))
    if not whole:
        raise ValueError("a value is no whole number from 0 to 255")
    images = table[:, :-1].astype(np.uint8).reshape(-1, 1, side, side)
    return images, table[:, -1].astype(np.int32)


def write_images(source: ImageSource, inputs: dict, directory: Path) -> Manifest:
    """Writes both splits and returns their manifest; `inputs` are what they follow from."""
    count = len(source.images)
    digests = [hashlib.sha256(image.tobytes()).digest() for image in source.images]
    border = sorted(digests)[count // HELD_OUT_ONE_IN]
    held_out = np.array([digest < border for digest in digests])
    if not held_out.any():
        raise ConfigError(
            f"one image is {digests.count(border)} of {count}, and equal images stay in one split, "
            f"of which validation has one in {HELD_OUT_ONE_IN}: give other images"
        )
    files, numbers = {}, {}
    for split in SPLITS:
        chosen = held_out if split == "validation" else ~held_out
        content = io.BytesIO()
        np.savez(content, images=source.images[chosen], labels=source.labels[chosen])
        path = directory / image_file(split)
        path.write_bytes(content.getvalue())
        files[path.name], numbers[split] = sha256_of(path), int(chosen.sum())
    size = source.images[0].size
    return Manifest(
        format=FORMAT,
        inputs=inputs,
        source="images",
        python=platform.python_version(),
        hold_out=f"one image in {HELD_OUT_ONE_IN}",
        documents=numbers,
        bytes={split: number * size for split, number in numbers.items()},
        rows=numbers,
        files=files,
        images={
            "shape": source.images.shape[1:],
            "classes": int(source.labels.max()) + 1,
            **({"names": source.names} if source.names else {}),
            "mean": float(source.images[~held_out].mean(dtype=np.float64)),
            "deviation": float(source.images[~held_out].std(dtype=np.float64)),
        },
    )


class ImageRows:
    """The images of one split, uint8 in memory.

    Attributes:
      split: "train", whose images are augmented, or "validation".
      manifest: of the directory.
      documents, bytes: number of images and of their bytes.
      static_copies: 0, each crop is new.
    """

    static_copies = 0

    def __init__(self, directory: Path, split: str, manifest: Manifest, objective):
        """Opens the split in `directory`; `open_split` is the way in."""
        name = image_file(split)
        verify(directory, manifest, [name])
        with np.load(directory / name, allow_pickle=False) as file:
            self._images, self._labels = file["images"], file["labels"]
        self.split, self.manifest, self._objective = split, manifest, objective
        self.documents: int = manifest.documents[split]
        self.bytes: int = manifest.bytes[split]
        self._mean = np.float32(manifest.images["mean"])
        self._deviation = np.float32(manifest.images["deviation"] or 1.0)

    def __len__(self) -> int:
        return len(self._images)

    def amount(self) -> str:
        """Says how many examples there are."""
        return f"{len(self)} images"

    def take(self, indices, randoms: Sequence[np.random.Generator] = ()) -> dict[str, np.ndarray]:
        """Returns the images `indices` ([n] integers; -1 gives one of weight 0) as one batch.

        Returns:
          pixels float32 [n, C, H, W], of the train split's mean 0 and deviation 1, labels int32
          [n], weights float32 [n], and what the objective adds. Where the objective augments in
          the step, pixels of the train split are uint8, and pixel_mean and pixel_deviation float32
          [n] say how to normalize them.
        """
        indices = np.asarray(indices)
        images = self._images[np.maximum(indices, 0)]
        if self.split == "train":
            images = self._objective.augmentation(images, randoms)
        if self.split == "train" and self._objective.device_augmentation:
            scale = {"pixel_mean": self._mean, "pixel_deviation": self._deviation}
            pixels, more = images, {name: np.full(len(images), x) for name, x in scale.items()}
        else:
            pixels, more = (images.astype(np.float32) - self._mean) / self._deviation, {}
        return (
            more
            | {
                "pixels": pixels,
                "labels": self._labels[np.maximum(indices, 0)],
                "weights": (indices >= 0).astype(np.float32),
            }
            | self._objective.batch(pixels, randoms)
        )
