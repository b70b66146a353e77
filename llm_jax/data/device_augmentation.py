"""Augmentation in the train step: what is done to a batch of images before the model sees it.

All of it is a function of (seed, step, example id), so that a resumed run and any mesh compute the
same images, and it costs the host nothing: the batch comes as bytes. JAX is imported where it is
needed: the room of data opens without it.
"""

import dataclasses

from llm_jax.configuration import ConfigError, nearest


@dataclasses.dataclass(frozen=True)
class DeviceAugmentation:
    """What happens to the train split's images on the device; by default nothing.

    Attributes:
      operations: `(name, probability, magnitude)` each, done in order; those that have no magnitude
        take `(name, probability)`. See `llm_jax.data.image_policy`.
      rand_augment: operations that RandAugment does behind those; 0 for none.
      rand_augment_magnitude: how far RandAugment goes, 0 to 30.
      mixup_alpha: MixUp's share is drawn from Beta(alpha, alpha); 0 leaves it out.
      cutmix_alpha: the same of CutMix. With both, each example is mixed by one or the other.
    """

    operations: tuple = ()
    rand_augment: int = 0
    rand_augment_magnitude: float = 9.0
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0

    def __post_init__(self):
        where = "objective.device_augmentation"
        names = []
        for operation in self.operations:
            if not isinstance(operation, tuple | list) or len(operation) not in (2, 3):
                raise ConfigError(
                    f"{where}.operations has {operation!r}: give (name, probability, magnitude)"
                )
            _check(f"{where}.operations", *operation)
            names.append(operation[0])
        if len(set(names)) < len(names):
            raise ConfigError(
                f"{where}.operations names one twice ({', '.join(names)}): give each once"
            )
        if self.rand_augment < 0:
            raise ConfigError(f"{where}.rand_augment is {self.rand_augment}: give 0 or more")
        if not 0 <= self.rand_augment_magnitude <= 30:
            raise ConfigError(
                f"{where}.rand_augment_magnitude is {self.rand_augment_magnitude}: give 0 to 30"
            )
        for name in ("mixup_alpha", "cutmix_alpha"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{where}.{name} is {getattr(self, name)}: give 0 or more")

    @property
    def mixes(self) -> bool:
        """Whether images and labels are mixed."""
        return bool(self.mixup_alpha or self.cutmix_alpha)

    def __bool__(self) -> bool:
        """Whether anything is done."""
        return bool(self.operations or self.rand_augment or self.mixes)

    def __call__(self, batch: dict, key, classes: int) -> dict:
        """Augments a whole batch; to be called under `jit`.

        Args:
          batch: pixels uint8 [B, C, H, W], labels int32 [B], example_ids int32 [B], and
            pixel_mean and pixel_deviation float32 [B], by which pixels are normalized in the end.
          key: of the step.
          classes: how many there are.

        Returns:
          the batch with pixels float32, normalized; where images are mixed, labels are float32
          [B, classes], each row's sum 1.
        """
        import jax
        import jax.numpy as jnp

        from llm_jax.data import image_mixing, image_policy

        batch = dict(batch)
        mean, deviation = (
            batch.pop(name)[:, None, None, None] for name in ("pixel_mean", "pixel_deviation")
        )
        ids = batch["example_ids"]
        keys = jax.vmap(lambda example: jax.random.fold_in(key, example))(ids)
        images = jax.vmap(self._image)(batch["pixels"].astype(jnp.float32), keys)
        if self.mixes:
            # No example's key: those are folded with numbers from 0.
            rows = image_mixing.partners(image_policy.named(key, "partners"), ids)
            images, batch["labels"] = image_mixing.mix(
                images, jax.nn.one_hot(batch["labels"], classes), keys, rows,
                mixup_alpha=self.mixup_alpha, cutmix_alpha=self.cutmix_alpha,
            )  # fmt: skip
        return batch | {"pixels": (images - mean) / deviation}

    def in_step(self, batch: dict, seed: int, step, classes: int) -> dict:
        """Augments the batch of the step after `step` steps of the run with `seed`, as above."""
        import jax

        from llm_jax.data import image_policy

        # Apart from dropout's key, which is the step's own.
        key = jax.random.fold_in(image_policy.named(jax.random.key(seed), "images"), step)
        return self(batch, key, classes)

    def _image(self, image, key):
        from llm_jax.data import image_policy

        filled = [(name, *rest, 0.0)[:3] for name, *rest in self.operations]
        image = image_policy.apply(filled, image, key)
        if not self.rand_augment:
            return image
        return image_policy.rand_augment(
            image,
            image_policy.named(key, "rand_augment"),
            operations=self.rand_augment,
            magnitude=self.rand_augment_magnitude,
        )


def _check(where: str, name, probability, magnitude=None) -> None:
    from llm_jax.data import image_policy

    if name not in image_policy.OPERATIONS:
        hint = nearest(str(name), image_policy.OPERATIONS)
        raise ConfigError(f"{where} has {name!r}, which is none: {hint}")
    if not isinstance(probability, int | float) or not 0 <= probability <= 1:
        raise ConfigError(f"{where}: {name} has probability {probability!r}: give 0 to 1")
    least, most, meaning = image_policy.MAGNITUDES.get(name, (None, None, ""))
    if least is None:
        if magnitude is not None:
            raise ConfigError(f"{where}: {name} has magnitude {magnitude!r}: it takes none")
    elif not isinstance(magnitude, int | float) or not least <= magnitude <= most:
        raise ConfigError(
            f"{where}: {name} has magnitude {magnitude!r}: give {least} to {most} ({meaning})"
        )
