r"""Draws what each image augmentation does to a picture, as one PNG.

  python -m experiments.draw_augmentations --image=PHOTO.jpg --other=ANOTHER.jpg --output=grid.png

Each row is an operation of `llm_jax.data.image_policy`, or a way to mix, with four draws beside
each other. `--other` is what MixUp and CutMix mix in. The last line of stdout is one JSON object.
"""

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from absl import flags
from PIL import Image

from experiments import entry
from llm_jax.configuration import ConfigError
from llm_jax.data import image_mixing, image_policy

matplotlib.use("Agg")
import matplotlib.pyplot as plt

IMAGE = flags.DEFINE_string("image", None, "The picture to change.")
OTHER = flags.DEFINE_string("other", None, "The picture that is mixed in.")
OUTPUT = flags.DEFINE_string("output", "augmentations.png", "The picture to write (.png).")
SIDE = flags.DEFINE_integer("side", 112, "Pixels of a side at which they are changed.")

DRAWS, COLUMNS = 4, 3
MAGNITUDES = {
    "crop": 0.2, "rotate": 30, "shear_x": 0.3, "shear_y": 0.3, "translate": 0.2, "brightness": 0.6,
    "contrast": 0.8, "saturation": 0.9, "sharpness": 1, "hue": 0.3, "posterize": 1, "solarize": 0.7,
    "blur": 3, "erase": 0.3,
}  # fmt: skip


def main() -> dict:
    """Runs the experiment; returns the result that is printed in JSON."""
    image, other = (_read(entry.required(flag)) for flag in (IMAGE, OTHER))
    keys = jax.random.split(jax.random.key(0), DRAWS)

    def drawn(function):
        return np.asarray(jax.jit(jax.vmap(function))(keys))

    rows = {
        name: drawn(lambda key, f=function, m=MAGNITUDES.get(name, 0): f(image, key, m))
        for name, function in image_policy.OPERATIONS.items()
    }
    rows["rand_augment"] = drawn(
        lambda key: image_policy.rand_augment(image, key, operations=2, magnitude=9.0)
    )
    pair, labels = jnp.stack([image, other]), jnp.eye(2)
    for name in ("mixup", "cutmix"):
        alphas = {"mixup_alpha": 0.0, "cutmix_alpha": 0.0} | {f"{name}_alpha": 1.0}
        rows[name] = drawn(
            lambda key, alphas=alphas: image_mixing.mix(
                pair, labels, jnp.stack([key, key]), jnp.array([1, 0]), **alphas
            )[0][0]
        )
    _draw(rows, OUTPUT.value)
    return {"output": OUTPUT.value, "operations": list(rows)}


def _read(path: str):
    try:
        with Image.open(path) as picture:
            picture = picture.convert("RGB")
    except OSError as error:
        raise ConfigError(f"{path} is no picture that opens ({error}): give another") from None
    side = min(picture.size)
    left, top = ((length - side) // 2 for length in picture.size)
    picture = picture.crop((left, top, left + side, top + side))
    picture = picture.resize((SIDE.value, SIDE.value), Image.Resampling.LANCZOS)
    return jnp.asarray(np.asarray(picture), jnp.float32).transpose(2, 0, 1)


def _draw(rows: dict[str, np.ndarray], output: str) -> None:
    """Draws the rows in columns, each as one strip."""
    height = -(-len(rows) // COLUMNS)
    figure, axes = plt.subplots(height, COLUMNS, figsize=(3.0 * COLUMNS, 0.95 * height))
    figure.set_layout_engine("constrained", h_pad=0.02, w_pad=0.05)
    for panel in axes.flat:
        panel.axis("off")
    for panel, (name, images) in zip(axes.T.flat, rows.items(), strict=False):
        gap = np.full((*images.shape[1:3], 4), 255.0)
        strip = np.concatenate([np.concatenate([x, gap], axis=2) for x in images], axis=2)
        panel.imshow(np.uint8(strip.transpose(1, 2, 0)))
        panel.set_title(name, loc="left", fontsize=9, color="#22303c", fontweight="bold", pad=2)
    try:
        figure.savefig(output, dpi=80, format="png")
    except OSError as error:
        raise ConfigError(f"--output={output}: {error.strerror}; give a path to write") from None


if __name__ == "__main__":
    entry.launch(main)
