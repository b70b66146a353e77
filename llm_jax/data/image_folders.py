"""A folder with a folder of pictures for each class, as torchvision's ImageFolder has it."""

import hashlib
import warnings
from pathlib import Path

import numpy as np

from llm_jax.configuration import ConfigError
from llm_jax.data.manifest import sha256_of

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def read_folder(root: Path, side: int) -> tuple[np.ndarray, np.ndarray, tuple[str, ...], str]:
    """Reads all pictures below `root`; classes are its folders in alphabetical order.

    Args:
      root: the folder of the classes' folders; what is hidden is left out.
      side: pictures are scaled until their short side has so many pixels, bilinearly, and their
        middle is cut out; 0 takes them as they are, all of one size.

    Returns:
      images uint8 [N, C, H, W], C 1 where all are gray and else 3; labels int32 [N]; the classes'
      names; and the sha256 of all names and contents.

    Raises:
      ConfigError: no classes, one without pictures, a picture that does not decode or decompresses
        to more than Pillow allows, or different sizes.
    """
    classes = sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] != ".")
    if not classes:
        raise ConfigError(
            f"{root} has no folders: give one with a folder of pictures for each class"
        )
    pictures, labels, digest = [], [], hashlib.sha256()
    for label, folder in enumerate(classes):
        found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
        if not found:
            raise ConfigError(
                f"class {folder.name!r} in {root} has no picture ({', '.join(SUFFIXES)}): add "
                "some, or remove the folder"
            )
        for path in found:
            pictures.append(_read(path, side))
            digest.update(f"{path.relative_to(root).as_posix()} {sha256_of(path)}\n".encode())
        labels += [label] * len(found)
    sizes = {picture.shape[:2] for picture in pictures}
    if len(sizes) > 1:
        shown = ", ".join(f"{width}x{height}" for height, width in sorted(sizes)[:3])
        raise ConfigError(f"the pictures in {root} have sizes {shown}, ...: give data.image_size")
    if any(picture.shape[2] == 3 for picture in pictures):
        pictures = [np.broadcast_to(one, (*one.shape[:2], 3)) for one in pictures]
    images = np.ascontiguousarray(np.stack(pictures).transpose(0, 3, 1, 2))
    names = tuple(folder.name for folder in classes)
    digest.update(f"side {side}".encode())
    return images, np.array(labels, np.int32), names, digest.hexdigest()


def _read(path: Path, side: int) -> np.ndarray:
    """Returns uint8 [H, W, 1 or 3]."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as file:
                gray = file.mode in ("1", "L", "I", "I;16", "F")
                picture = file.convert("L" if gray else "RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ConfigError(f"{path} does not decode ({error}): mend it or remove it") from None
    except Image.DecompressionBombWarning as error:
        raise ConfigError(f"{path} is too large ({error}): scale it down or remove it") from None
    if side:
        factor = side / min(picture.size)
        size = tuple(max(side, round(length * factor)) for length in picture.size)
        picture = picture.resize(size, Image.Resampling.BILINEAR)
        left, top = ((length - side) // 2 for length in picture.size)
        picture = picture.crop((left, top, left + side, top + side))
    array = np.asarray(picture, np.uint8)
    return array[..., None] if array.ndim == 2 else array
