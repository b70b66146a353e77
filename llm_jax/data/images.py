"""Labelled images: a file or folder in, prepared splits of uint8 arrays, normalized batches.

A folder has one folder of pictures for each class, see `llm_jax.data.image_folders`; parquet files,
saved datasets and tars have columns or members, see `llm_jax.data.image_containers`. Else a file is
`*.npz` with `images` (uint8 [N, H, W] or [N, H, W, C]) and `labels` (integers [N]), or `*.csv` or
`*.csv.gz` with an image a line: the pixels (0 .. 255) of a gray square, row by row, and the label
behind them. One image in five is held out for validation: those whose bytes have the lowest sha256,
so that equal images stay together. Images are read one after the other, and never all held in
memory: neither here nor when a batch is made of them.
"""

import dataclasses
import hashlib
import platform
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from llm_jax.configuration import ConfigError
from llm_jax.data.config import DataConfig
from llm_jax.data.image_arrays import read_csv, read_npz
from llm_jax.data.image_containers import (
    class_names,
    digest_of,
    list_containers,
    read_containers,
)
from llm_jax.data.image_folders import Example, list_folder, read_folder
from llm_jax.data.manifest import FORMAT, Manifest, sha256_of, verify
from llm_jax.data.sources import SPLITS

HELD_OUT_ONE_IN = 5


def image_file(split: str) -> str:
    """Returns the name of the file with the split's images, uint8 [N, C, H, W]."""
    return f"images-{split}.npy"


def label_file(split: str) -> str:
    """Returns the name of the file with the split's labels, int32 [N]."""
    return f"labels-{split}.npy"


@dataclasses.dataclass(frozen=True)
class ImageSource:
    """The images of a file or folder, still unread.

    Attributes:
      path: as given.
      examples: gives them one after the other.
      content_sha256: of the files, and of how they are read.
      names: of the classes, where these are known before.
    """

    path: str
    examples: Callable[[], Iterator[Example]]
    content_sha256: str
    names: tuple[str, ...] = ()


def open_images(config: DataConfig) -> ImageSource:
    """Finds the files behind `config`.

    Raises:
      ConfigError: nothing there, or of another form; what is wrong with an image comes when it is
        read.
    """
    path = Path(config.path).expanduser()
    if not path.is_file() and not path.is_dir() and "," not in config.path:
        raise ConfigError(
            f"data.path is {config.path!r}, which is not there: give images as *.npz, *.csv(.gz), "
            "*.parquet, *.tar, a saved dataset or a folder with one of pictures for each class; "
            "the digits of configs/vit_mnist.py come by `make assets`"
        )
    if files := list_containers(config):
        names, digest = class_names(files, config), digest_of(files, config)
        return ImageSource(config.path, lambda: read_containers(files, config), digest, names)
    if path.is_dir():
        pictures, names, digest = list_folder(path, config.image_size)
        return ImageSource(
            config.path, lambda: read_folder(pictures, config.image_size), digest, names
        )
    if config.image_size:
        raise ConfigError(
            f"data.image_size is {config.image_size}, and {config.path!r} holds no pictures to "
            "scale: leave it 0"
        )
    return ImageSource(config.path, lambda: _read_arrays(path), sha256_of(path))


def _read_arrays(path: Path) -> Iterator[Example]:
    try:
        yield from read_npz(path) if path.suffix == ".npz" else read_csv(path)
    except (
        *(ValueError, KeyError, OSError, EOFError, MemoryError),
        *(zipfile.BadZipFile, zlib.error, RuntimeError),  # the last: encrypted, or of a later kind
    ) as error:
        raise ConfigError(
            f"{path} holds no labelled images ({error}): see llm_jax/data/images.py for the form"
        ) from None


class StoredImages:
    """Images of one size in a file, one behind the other, and their labels in memory.

    Attributes:
      shape: (C, H, W), C 3 where a gray image stands among coloured ones.
      labels: int32 [N].
      names: of the classes, if they have any.
    """

    def __init__(self, source: ImageSource, file: Path):
        """Reads all of `source` into `file`.

        Raises:
          ConfigError: too few images for two splits, of different sizes, or a wrong label.
        """
        self._file, self._channels, labels, sizes = file, [], [], {}
        with file.open("wb") as out:
            for example in source.examples():
                height, width, channels = example.image.shape
                sizes[height, width] = None
                if len(sizes) > 1:
                    shown = ", ".join(f"{width}x{height}" for height, width in sorted(sizes))
                    raise ConfigError(
                        f"the pictures in {source.path} have sizes {shown}, ...: give "
                        "data.image_size"
                    )
                known = len(source.names) or 2**31
                if isinstance(example.label, int) and not 0 <= example.label < known:
                    raise ConfigError(
                        f"{example.place} has the label {example.label}: labels count from 0"
                        + (f" to {known - 1}, the last with a name" if source.names else "")
                    )
                out.write(np.ascontiguousarray(example.image.transpose(2, 0, 1)))
                self._channels.append(channels)
                labels.append(example.label)
        if len(labels) < HELD_OUT_ONE_IN:
            raise ConfigError(
                f"{source.path} has {len(labels)} images: give {HELD_OUT_ONE_IN} or more"
            )
        self.names = source.names
        if len({type(label) for label in labels}) > 1:
            raise ConfigError(f"{source.path} has classes by name and by number: give one of them")
        if isinstance(labels[0], str):
            self.names = tuple(sorted(set(labels)))
            number = {name: label for label, name in enumerate(self.names)}
            labels = [number[label] for label in labels]
        self.labels = np.array(labels, np.int32)
        self.shape = (max(self._channels), *next(iter(sizes)))

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yields uint8 [C, H, W]."""
        _, height, width = self.shape
        with self._file.open("rb") as file:
            for channels in self._channels:
                image = np.frombuffer(file.read(channels * height * width), np.uint8)
                yield np.broadcast_to(image.reshape(channels, height, width), self.shape)


def write_images(source: ImageSource, inputs: dict, directory: Path) -> Manifest:
    """Writes both splits and returns their manifest; `inputs` are what they follow from."""
    stored = StoredImages(source, directory / "all-images")
    count = len(stored.labels)
    digests = [hashlib.sha256(image.tobytes()).digest() for image in stored]
    border = sorted(digests)[count // HELD_OUT_ONE_IN]
    held_out = np.array([digest < border for digest in digests])
    if not held_out.any():
        raise ConfigError(
            f"one image is {digests.count(border)} of {count}, and equal images stay in one split, "
            f"of which validation has one in {HELD_OUT_ONE_IN}: give other images"
        )
    files, numbers = {}, {}
    shades = np.zeros(256, np.int64)  # of the train split, how often each is there
    for split in SPLITS:
        chosen = held_out if split == "validation" else ~held_out
        numbers[split] = int(chosen.sum())
        with (directory / image_file(split)).open("wb") as out:
            shape = (numbers[split], *stored.shape)
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(out, header)
            for image, taken in zip(stored, chosen):
                if taken:
                    out.write(image.tobytes())
                    if split == "train":
                        shades += np.bincount(image.ravel(), minlength=256)
        np.save(directory / label_file(split), stored.labels[chosen])
        files |= {
            name: sha256_of(directory / name) for name in (image_file(split), label_file(split))
        }
    (directory / "all-images").unlink()
    mean, deviation = _moments(shades)
    size = int(np.prod(stored.shape))
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
            "shape": stored.shape,
            "classes": int(stored.labels.max()) + 1,
            **({"names": stored.names} if stored.names else {}),
            "mean": mean,
            "deviation": deviation,
        },
    )


def _moments(shades: np.ndarray) -> tuple[float, float]:
    """Returns mean and deviation of pixels of which `shades` [256] are the counts.

    The sums are whole numbers, so that both are exact to float64's rounding.
    """
    counts = shades.tolist()
    number = sum(counts)
    total = sum(shade * count for shade, count in enumerate(counts))
    squares = sum(shade * shade * count for shade, count in enumerate(counts))
    return total / number, ((squares * number - total * total) / number**2) ** 0.5


class ImageRows:
    """The images of one split, uint8 in a file that is mapped into memory.

    Attributes:
      split: "train", whose images are augmented, or "validation".
      manifest: of the directory.
      documents, bytes: number of images and of their bytes.
      static_copies: 0, each crop is new.
    """

    static_copies = 0

    def __init__(self, directory: Path, split: str, manifest: Manifest, objective):
        """Opens the split in `directory`; `open_split` is the way in."""
        if f"images-{split}.npz" in manifest.files:  # prepared before there were maps
            name = f"images-{split}.npz"
            verify(directory, manifest, [name])
            with np.load(directory / name, allow_pickle=False) as file:
                self._images, self._labels = file["images"], file["labels"]
        else:
            verify(directory, manifest, [image_file(split), label_file(split)])
            images = np.load(directory / image_file(split), mmap_mode="r", allow_pickle=False)
            self._images = images.view(np.ndarray)
            self._labels = np.load(directory / label_file(split), allow_pickle=False)
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
