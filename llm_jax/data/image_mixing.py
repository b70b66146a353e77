"""Two images become one, and so do their labels: MixUp and CutMix, on the device.

A batch's images are mixed over the whole batch, before it is cut into microbatches: the group is
global. Whose partner an example is follows from (seed, step) and its example id, not from where its
row lies.
"""

import jax
import jax.numpy as jnp

from llm_jax.data.image_policy import named


def mixup(image, other, share):
    """Returns `share` of an image and the rest of another (Zhang et al. 2017, arXiv:1710.09412)."""
    return share * image + (1 - share) * other


def cutmix(image, other, share, key):
    """Puts a box of another image into one (Yun et al. 2019, arXiv:1905.04899).

    Args:
      image, other: [C, H, W].
      share: about how much of `image` is kept; the box's sides are `sqrt(1 - share)` of the
        image's, rounded down, round a centre that may lie anywhere, and what lies outside is lost.
      key: of the centre.

    Returns:
      the image, and the share of it that is `image`'s own.
    """
    height, width = image.shape[1:]
    sides = jnp.array([height, width])
    box = jnp.floor(sides * jnp.sqrt(1 - share))
    centre = jnp.floor(jax.random.uniform(key, (2,)) * sides)
    start = jnp.clip(centre - box // 2, 0, sides)
    end = jnp.clip(centre + box // 2, 0, sides)
    y, x = jnp.arange(height), jnp.arange(width)
    rows, columns = (y >= start[0]) & (y < end[0]), (x >= start[1]) & (x < end[1])
    kept = 1 - jnp.prod(end - start) / (height * width)
    return jnp.where(rows[:, None] & columns, other, image), kept


def partners(key, example_ids):
    """Returns for each row the row it is mixed with: a permutation of the batch.

    Args:
      key: of this step.
      example_ids: int32 [B], 0 to B - 1 in any order.
    """
    row_of = jnp.argsort(example_ids)
    return row_of[jax.random.permutation(key, len(example_ids))[example_ids]]


def mix(images, labels, keys, rows, *, mixup_alpha: float, cutmix_alpha: float):
    """Mixes each image with its partner; where both alphas are positive chance chooses evenly.

    Args:
      images: float32 [B, C, H, W].
      labels: float32 [B, classes], each row's sum 1.
      keys: [B], one for each example.
      rows: int32 [B], as of `partners`.
      mixup_alpha, cutmix_alpha: the share is drawn from Beta(alpha, alpha); 0 leaves the method
        out.

    Returns:
      images and labels of the same shapes.
    """

    def each(image, other, label, other_label, key):
        mixed, share = image, 1.0
        if mixup_alpha:
            share = jax.random.beta(named(key, "mixup"), mixup_alpha, mixup_alpha)
            mixed = mixup(image, other, share)
        if cutmix_alpha:
            kept = jax.random.beta(named(key, "cutmix"), cutmix_alpha, cutmix_alpha)
            cut, kept = cutmix(image, other, kept, named(key, "box"))
            chosen = not mixup_alpha or jax.random.bernoulli(named(key, "which"))
            mixed, share = jnp.where(chosen, cut, mixed), jnp.where(chosen, kept, share)
        return mixed, share * label + (1 - share) * other_label

    return jax.vmap(each)(images, images[rows], labels, labels[rows], keys)
