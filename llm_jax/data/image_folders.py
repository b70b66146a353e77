"""A folder with a folder of pictures for each class, as torchvision's ImageFolder has it."""

import hashlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from llm_jax.configuration import ConfigError
from llm_jax.data.manifest import sha256_of

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


class Example(NamedTuple):
    """An image as it is read: its place, uint8 [H, W, C], and its class or the class's name."""

    place: str
    image: np.ndarray
    label: int | str


def list_folder(root: Path, side: int) -> tuple[list[tuple[Path, int]], tuple[str, ...], str]:
    """Finds all pictures below `root`; classes are its folders in alphabetical order.

    Args:
      root: the folder of the classes' folders; what is hidden is left out.
      side: as of `decode_picture`.

    Returns:
      the pictures with their labels; the classes' names; and the sha256 of all names and contents.

    Raises:
      ConfigError: no classes, or one without pictures.
    """
    classes = sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] != ".")
    if not classes:
        raise ConfigError(
            f"{root} has no folders: give one with a folder of pictures for each class"
        )
    pictures, digest = [], hashlib.sha256()
    for label, folder in enumerate(classes):
        found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
        if not found:
            raise ConfigError(
                f"class {folder.name!r} in {root} has no picture ({', '.join(SUFFIXES)}): add "
                "some, or remove the folder"
            )
        for path in found:
            digest.update(f"{path.relative_to(root).as_posix()} {sha256_of(path)}\n".encode())
        pictures += [(path, label) for path in found]
    digest.update(f"side {side}".encode())
    return pictures, tuple(folder.name for folder in classes), digest.hexdigest()


def read_folder(pictures: list[tuple[Path, int]], side: int) -> Iterator[Example]:
    """Yields the pictures of `list_folder`, one after the other."""
    for path, label in pictures:
        yield Example(str(path), decode_picture(path, str(path), side), label)


def decode_picture(file: Path | BinaryIO, name: str, side: int) -> np.ndarray:
    """Decodes one picture.

    Args:
      file: its path, or its bytes.
      name: what an error calls it.
      side: it is scaled until its short side has so many pixels, bilinearly, and its middle is cut
        out; 0 takes it as it is.

    Returns:
      uint8 [H, W, C], C 1 where it is gray and else 3.

    Raises:
      ConfigError: it does not decode, or decompresses to more than Pillow allows.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as opened:
                gray = opened.mode in ("1", "L", "I", "I;16", "F")
                picture = opened.convert("L" if gray else "RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ConfigError(f"{name} does not decode ({error}): mend it or remove it") from None
    except Image.DecompressionBombWarning as error:
        raise ConfigError(f"{name} is too large ({error}): scale it down or remove it") from None
    if side:
        factor = side / min(picture.size)
        size = tuple(max(side, round(length * factor)) for length in picture.size)
        picture = picture.resize(size, Image.Resampling.BILINEAR)
        left, top = ((length - side) // 2 for length in picture.size)
        picture = picture.crop((left, top, left + side, top + side))
    array = np.asarray(picture, np.uint8)
    return array[..., None] if array.ndim == 2 else array
