"""ViT base and large from scratch, as DeiT trains them (Touvron et al. 2020, arXiv:2012.12877).

Command:   python -m experiments.pretrain --config=configs/vit_pretrain.py --workdir=runs/vit \\
               --config.data.path=IMAGES.npz
Hardware:  accelerators; 300 epochs of ImageNet's 1.28 million images.
Result:    none is claimed: no such machine was at hand. A test trains its `tiny`.

The images are one file of uint8 arrays, see llm_jax/data/images.py, 224 pixels wide. Of DeiT's
augmentations only the random strength of RandAugment and repeated sampling are not here.
Variants: `large` is ViT-L/16; `tiny` keeps everything but the size.
"""

from llm_jax.models.vit import PRESETS
from llm_jax.training.run import default_config

SIZES = {"": "vit-base-patch16-224", "large": "vit-large-patch16-224"}


def get_config(variant: str = ""):
    """Returns the configuration; `variant` is "", "large" or "tiny"."""
    if variant not in ("tiny", *SIZES):
        raise ValueError(f"variant {variant!r} is unknown: give none, 'large' or 'tiny'")
    config = default_config("vit", "classification")
    config.model.update(PRESETS[SIZES.get(variant, SIZES[""])])
    config.model.layer_norm_epsilon = 1e-6
    config.steps, config.batch_size, config.precision = 375_000, 1024, "bf16"
    config.data.source, config.data.path = "images", "IMAGES.npz"
    config.objective.augmentation.crop = 0.08
    config.objective.augmentation.flip = True
    config.objective.device_augmentation.operations = (("erase", 0.25, 1 / 3),)
    config.objective.device_augmentation.rand_augment = 2
    config.objective.device_augmentation.mixup_alpha = 0.8
    config.objective.device_augmentation.cutmix_alpha = 1.0
    config.loss.label_smoothing = 0.1
    config.optim.name, config.optim.learning_rate = "adamw", 1e-3
    config.optim.warmup_steps, config.optim.weight_decay = 6_250, 0.05
    config.checkpoint.every = config.evaluation.every = 5_000
    config.evaluation.rows, config.evaluation.batch_size = 0, 1024
    if variant == "tiny":
        config.steps, config.batch_size, config.optim.warmup_steps = 20, 8, 2
        config.model.num_layers, config.model.num_heads, config.model.hidden_size = 2, 2, 32
        config.model.mlp_size, config.model.image_size, config.model.patch_size = 64, 28, 4
        config.model.num_channels, config.model.num_classes = 1, 10
        config.checkpoint.every = config.evaluation.every = 10
        config.evaluation.batch_size = 8
    return config
