"""Augmentation in the step: by name and chance, the same on any mesh and after a resume."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import ImageEnhance

from llm_jax.configuration import ConfigError
from llm_jax.data import (
    DataConfig,
    batches,
    image_geometry,
    image_ops,
    image_policy,
    open_split,
    prepare,
)
from llm_jax.data.device_augmentation import DeviceAugmentation
from llm_jax.data.image_mixing import cutmix, partners
from llm_jax.data.objectives import Classification, MaskedPatches
from llm_jax.parallel.sharding import batch_sharding
from llm_jax.testing import relative_error
from llm_jax.training.run import parse_run
from llm_jax.training.trainer import make_trainer
from tests.data.test_image_ops import images, pillow

IMAGE = np.uint8(images()[0])
MAGNITUDES = dict.fromkeys(image_policy.MAGNITUDES, 0.3) | {
    "posterize": 3,
    "solarize": 0.9,
    "blur": 2,
}
SOME = {
    "operations": (("erase", 0.5, 0.3), ("rotate", 0.8, 20), ("flip_vertical", 0.5)),
    "mixup_alpha": 0.8,
    "cutmix_alpha": 1.0,
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    draw = np.random.default_rng(0)
    np.savez(
        root / "some.npz",
        images=draw.integers(0, 256, (60, 8, 8, 3), dtype=np.uint8),
        labels=draw.integers(0, 4, 60),
    )
    config = DataConfig(source="images", path=str(root / "some.npz"))
    prepare(config, vocab_size=0, directory=root / "data", objective=Classification())
    return root / "data"


def batch_of(size=8, seed=0):
    draw = np.random.default_rng(seed)
    return {
        "pixels": draw.integers(0, 256, (size, 3, 8, 8), dtype=np.uint8),
        "labels": draw.integers(0, 4, size, dtype=np.int32),
        "weights": np.ones(size, np.float32),
        "example_ids": np.arange(size, dtype=np.int32),
        "pixel_mean": np.full(size, 100, np.float32),
        "pixel_deviation": np.full(size, 50, np.float32),
    }


def run_of(**changes):
    given = {
        "model": {
            "family": "vit", "num_layers": 1, "num_heads": 2, "hidden_size": 16, "image_size": 8,
            "patch_size": 4, "num_channels": 3, "pooler": "none", "head": "classification",
            "num_classes": 4, "dropout_rate": 0.1,
        },
        "data": {"source": "images", "path": "-"}, "steps": 6, "batch_size": 8, "seed": 3,
        "objective": {"name": "classification", "device_augmentation": SOME},
        "mesh": {"data": 1},
    }  # fmt: skip
    return parse_run(given | changes)


def trained(run, rows, *, states=None, start=0, steps=4):
    """Returns losses and parameters, and puts the state before each step into `states`."""
    trainer = make_trainer(run, jax.devices()[: max(run.mesh.data, 1) * run.mesh.fsdp])
    losses = []
    with jax.set_mesh(trainer.mesh):
        now = trainer.new_state() if not start else jax.tree.map(jnp.copy, states[start])
        stream = batches(rows, seed=run.seed, batch_size=8, start_step=start, threads=0)
        for step, batch in zip(range(start, steps), stream):
            if states is not None and not start:
                states[step] = jax.tree.map(jnp.copy, now)
            placed = jax.device_put(batch, batch_sharding(trainer.mesh))
            now, metrics = trainer.train_step(now, placed)
            losses.append(float(metrics["loss"]))
    return losses, jax.device_get(now.params)


@pytest.fixture(scope="module")
def whole(directory):
    """Rows, losses, parameters and states before each step of a run on one device."""
    rows, states = open_split(directory, "train", run_of().objective), {}
    return rows, *trained(run_of(), rows, states=states), states


def test_a_run_that_goes_on_is_the_whole_run_bit_for_bit(whole):
    rows, losses, params, states = whole
    again, same = trained(run_of(), rows, states=states, start=2)
    assert again == losses[2:]
    jax.tree.map(np.testing.assert_array_equal, params, same)
    assert len(set(losses)) == 4


@pytest.mark.parametrize(
    "changes",
    [{"mesh": {"data": 2, "fsdp": 2}}, pytest.param({"accumulation": 2}, marks=pytest.mark.slow)],
    ids=["mesh", "accumulation"],
)
def test_meshes_and_accumulation_see_the_same_images(changes, whole):
    rows, losses, params, _ = whole
    other, theirs = trained(run_of(**changes), rows)
    np.testing.assert_allclose(other, losses, rtol=1e-5)
    assert relative_error(theirs, params) < 1e-5


def test_an_example_is_the_same_wherever_its_row_lies():
    augmentation = DeviceAugmentation(**SOME)
    run = jax.jit(lambda batch, key: augmentation(batch, key, 4))
    batch, key = batch_of(), jax.random.key(0)
    whole = run(batch, key)
    order = np.random.default_rng(1).permutation(8)
    moved = run({name: value[order] for name, value in batch.items()}, key)
    for name in ("pixels", "labels"):
        np.testing.assert_allclose(moved[name], whole[name][order], rtol=1e-6)
    assert (run(batch, jax.random.key(1))["pixels"] != whole["pixels"]).any(axis=(1, 2, 3)).all()


def test_validation_and_the_plain_batch_are_untouched(directory):
    augmented = Classification(device_augmentation=DeviceAugmentation(**SOME))
    for split in ("train", "validation"):
        got, plain = (
            open_split(directory, split, o).take(np.arange(8))
            for o in (augmented, Classification())
        )
        if split == "validation":
            assert got.keys() == plain.keys()
            np.testing.assert_array_equal(got["pixels"], plain["pixels"])
        else:
            assert got["pixels"].dtype == np.uint8
            got["example_ids"] = np.arange(8)
            # With nothing left to chance the step normalizes, and no more.
            same = DeviceAugmentation(operations=(("hue", 0.0, 0.5),))(got, jax.random.key(0), 4)
            np.testing.assert_allclose(same["pixels"], plain["pixels"], rtol=1e-6)


def test_a_probability_is_how_often_and_a_magnitude_how_far():
    picture = jnp.asarray(IMAGE, jnp.float32)
    keys = jax.random.split(jax.random.key(0), 400)

    def several(*operation):
        done = jax.jit(jax.vmap(lambda key: image_policy.apply([operation], picture, key)))(keys)
        return np.asarray(done)

    flipped = several("flip_horizontal", 0.3, 0)
    both = (flipped == picture).all(axis=(1, 2, 3)), (flipped == picture[..., ::-1]).all((1, 2, 3))
    assert (both[0] ^ both[1]).all()
    assert 0.23 < both[1].mean() < 0.37
    brighter = several("brightness", 1.0, 0.5).mean(axis=(1, 2, 3)) / picture.mean()
    assert 0.49 < brighter.min() < 0.55
    assert 1.2 < brighter.max() < 1.4  # values end at 255
    moved = several("translate", 1.0, 0.1)
    assert len(np.unique(moved, axis=0)) == 5 * 5  # up to 2 pixels of 20 and of 24


@pytest.mark.slow
def test_every_operation_changes_some_images_and_leaves_others_in_bytes():
    # Dull ones: noise has all its contrast already, and fewer than 256 pixels have no histogram.
    pictures = np.random.default_rng(0).integers(20, 240, (32, 3, 24, 24)).astype(np.float32)
    keys = jax.random.split(jax.random.key(0), 32)
    for name in image_policy.OPERATIONS:
        operation = (name, 0.5, MAGNITUDES.get(name, 0))
        run = jax.jit(jax.vmap(lambda x, k: image_policy.apply([operation], x, k)))  # noqa: B023
        got = np.asarray(run(pictures, keys))
        assert (got == np.clip(np.round(got), 0, 255)).all(), name
        changed = (got != pictures).any(axis=(1, 2, 3)).mean()
        assert 0.2 < changed < 0.8, name


@pytest.mark.parametrize("level", [0, 9, 30])
def test_rand_augment_goes_as_far_as_torchvision_says(level):
    picture = jnp.asarray(IMAGE, jnp.float32)
    branches = image_policy.rand_augment_operations((20, 24), level)
    assert len(branches) == 14
    shear, colour = np.linspace(0, 0.3, 31)[level], np.linspace(0, 0.9, 31)[level]
    move = int(np.linspace(0, 150 / 331 * 24, 31)[level])
    bits = int(8 - (np.arange(31) / (30 / 4)).round()[level])
    want = {
        "shear_y": image_geometry.shear_y(picture, -shear),
        "translate_x": np.roll(picture, -move, axis=2) * (np.arange(24) < 24 - move),
        "rotate": image_geometry.rotate(picture, -np.linspace(0, 30, 31)[level]),
        "saturation": pillow(IMAGE, lambda p: ImageEnhance.Color(p).enhance(1 - colour)),
        "posterize": np.asarray(picture) // 2 ** (8 - bits) * 2 ** (8 - bits),
        "solarize": image_ops.solarize(picture, np.linspace(255, 0, 31)[level]),
    }
    for name, expected in want.items():
        got = np.asarray(branches[name](picture, -1.0))
        assert np.mean(got == np.asarray(expected)) > 0.99, name


def test_rand_augment_takes_every_operation():
    picture = jnp.asarray(IMAGE, jnp.float32)
    keys = jax.random.split(jax.random.key(0), 300)
    run = jax.jit(
        jax.vmap(lambda key: image_policy.rand_augment(picture, key, operations=1, magnitude=9))
    )
    kinds = len(np.unique(np.asarray(run(keys)), axis=0))
    # Nine of the fourteen go either way; autocontrast of noise may leave it as it is.
    assert kinds in (22, 23)


@pytest.mark.parametrize("alphas", [(0.4, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_mixed_labels_are_the_shares_of_the_images(alphas):
    augmentation = DeviceAugmentation(mixup_alpha=alphas[0], cutmix_alpha=alphas[1])
    batch = batch_of(64)
    # Each image is filled with its own label, so that its pixels say whose they are.
    batch["pixels"][:] = batch["labels"][:, None, None, None]
    batch["pixel_mean"][:], batch["pixel_deviation"][:] = 0, 1
    done = jax.jit(lambda b: augmentation(b, jax.random.key(0), 4))(batch)
    labels, pixels = np.asarray(done["labels"]), np.asarray(done["pixels"])
    assert labels.shape == (64, 4)
    np.testing.assert_allclose(labels.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(labels @ np.arange(4), pixels.mean(axis=(1, 2, 3)), atol=1e-5)
    whole = (pixels == np.round(pixels)).all(axis=(1, 2, 3))  # a box, or equal labels
    mixed = (labels > 0).sum(axis=1) == 2
    assert mixed.sum() > 20
    assert whole[mixed].all() == (alphas[0] == 0)
    assert whole[mixed].any() == (alphas[1] > 0)


def test_mixups_shares_are_betas_and_partners_a_permutation():
    augmentation = DeviceAugmentation(mixup_alpha=0.4)
    batch = batch_of(2000)
    batch["labels"] = np.arange(2000, dtype=np.int32) % 2
    labels = jax.jit(lambda b: augmentation(b, jax.random.key(2), 2))(batch)["labels"]
    shares = np.asarray(labels)[np.arange(2000), batch["labels"]]
    shares = shares[shares < 1]  # of those whose partner has the other label
    # Beta(a, a): mean 1/2, variance 1 / (4 (2 a + 1)).
    assert abs(shares.mean() - 0.5) < 0.04
    assert abs(shares.var() - 1 / 7.2) < 0.012
    rows = partners(jax.random.key(0), jnp.arange(64)[::-1])
    assert sorted(rows.tolist()) == list(range(64))


def test_cutmix_is_the_papers_box():
    """The box of the paper's code, in numpy, at the same centres."""
    image, other = jnp.zeros((1, 12, 16)), jnp.ones((1, 12, 16))
    for seed, share in enumerate([0.0, 0.1, 0.5, 0.83, 1.0]):
        key = jax.random.key(seed)
        got, kept = jax.jit(cutmix)(image, other, share, key)
        y, x = (int(u * side) for u, side in zip(jax.random.uniform(key, (2,)), (12, 16)))
        high, wide = int(12 * np.sqrt(1 - share)), int(16 * np.sqrt(1 - share))
        want = np.zeros((12, 16))
        top, bottom = np.clip([y - high // 2, y + high // 2], 0, 12)
        left, right = np.clip([x - wide // 2, x + wide // 2], 0, 16)
        want[top:bottom, left:right] = 1
        np.testing.assert_array_equal(got[0], want)
        np.testing.assert_allclose(kept, 1 - want.mean(), rtol=1e-6)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"operations": (("rotat", 1.0, 3),)}, "has 'rotat', which is none: did you mean 'rotate'"),
        ({"operations": (("rotate", 1.5, 3),)}, "probability 1.5: give 0 to 1"),
        ({"operations": (("rotate", 0.5),)}, "magnitude None: give 0 to 180 .degrees"),
        ({"operations": (("equalize", 0.5, 2),)}, "magnitude 2: it takes none"),
        ({"operations": ("rotate",)}, "has 'rotate': give .name, probability, magnitude"),
        ({"operations": (("hue", 1, 0.1), ("hue", 1, 0.2))}, "names one twice"),
        ({"rand_augment_magnitude": 31.0}, "is 31.0: give 0 to 30"),
        ({"mixup_alpha": -1.0}, "mixup_alpha is -1.0: give 0 or more"),
    ],
)
def test_what_cannot_be_is_refused(given, words):
    with pytest.raises(ConfigError, match=words):
        DeviceAugmentation(**given)


def test_masked_patches_have_no_labels_to_mix():
    with pytest.raises(ConfigError, match="'masked_patches' has none"):
        MaskedPatches(device_augmentation=DeviceAugmentation(mixup_alpha=1.0))
