"""A ViT that learns from 500 digits of 8 x 8 pixels, with one image augmentation or without.

Command:   python -m experiments.compare_augmentations --config=configs/vit_digits.py \\
               --workdir=runs/augmentations
Hardware:  two CPU cores
Result:    docs/image_augmentation.md

The digits are those of scikit-learn (`make assets`); the command above leaves its 500, and 125 to
validate on, in WORKDIR/digits.npz. One run alone:

           python -m experiments.pretrain --config=configs/vit_digits.py:rotate \\
               --workdir=runs/one --config.data.path=runs/augmentations/digits.npz

The variants are the keys of `AUGMENTATIONS`; `tiny` trains in seconds.
"""

from llm_jax.training.run import default_config

DIGITS = ".cache/assets/sklearn/datasets/data/digits.csv.gz"

# Colours of gray digits are left out: saturation and hue do nothing to them.
AUGMENTATIONS = {
    "none": {},
    "crop": {"operations": (("crop", 1.0, 0.6),)},
    "flip_horizontal": {"operations": (("flip_horizontal", 0.5),)},
    "flip_vertical": {"operations": (("flip_vertical", 0.5),)},
    "rotate": {"operations": (("rotate", 1.0, 15.0),)},
    "shear_x": {"operations": (("shear_x", 1.0, 0.3),)},
    "shear_y": {"operations": (("shear_y", 1.0, 0.3),)},
    "translate": {"operations": (("translate", 1.0, 0.15),)},
    "brightness": {"operations": (("brightness", 1.0, 0.5),)},
    "contrast": {"operations": (("contrast", 1.0, 0.5),)},
    "sharpness": {"operations": (("sharpness", 1.0, 0.9),)},
    "posterize": {"operations": (("posterize", 1.0, 2),)},
    "solarize": {"operations": (("solarize", 0.5, 0.5),)},
    "autocontrast": {"operations": (("autocontrast", 0.5),)},
    "equalize": {"operations": (("equalize", 0.5),)},
    "blur": {"operations": (("blur", 0.5, 0.8),)},
    "erase": {"operations": (("erase", 0.5, 0.25),)},
    "rand_augment": {"rand_augment": 2, "rand_augment_magnitude": 9.0},
    "mixup": {"mixup_alpha": 0.4},
    "cutmix": {"cutmix_alpha": 1.0},
}


def get_config(variant: str = ""):
    """Returns the configuration; `variant` is "", "tiny" or a key of `AUGMENTATIONS`."""
    if variant not in ("", "tiny", *AUGMENTATIONS):
        raise ValueError(f"variant {variant!r} is unknown: give one of {', '.join(AUGMENTATIONS)}")
    config = default_config("vit", "classification")
    config.objective.device_augmentation.update(AUGMENTATIONS.get(variant, {}))
    config.steps, config.batch_size = 400, 50

    config.model.image_size, config.model.patch_size = 8, 2
    config.model.num_channels, config.model.num_classes = 1, 10
    config.model.num_layers, config.model.num_heads, config.model.hidden_size = 2, 2, 48
    config.model.head, config.model.pooler = "classification", "none"
    config.model.init_std = 0.1
    config.execution.unroll = 0

    config.data.source, config.data.path = "images", DIGITS

    config.optim.name, config.optim.learning_rate = "adamw", 2e-3
    config.optim.warmup_steps, config.optim.weight_decay = 30, 0.05
    config.evaluation.rows, config.evaluation.batch_size = 0, 125
    config.evaluation.every = 0
    if variant == "tiny":
        config.steps, config.batch_size, config.optim.warmup_steps = 12, 8, 2
        config.model.num_layers = 1
    return config
