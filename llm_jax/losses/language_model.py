"""The objective of pretraining: the next token."""

import dataclasses
import math

from llm_jax.configuration import ConfigError
from llm_jax.losses.cross_entropy import cross_entropy_from_hidden

BALANCED = "balanced"


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """How training differs from the plain cross-entropy; what is held out is measured by that.

    Attributes:
      label_smoothing: part of a target's mass spread over the vocabulary or the classes, in [0, 1);
        of several classes at once half of it goes to "there" and half to "not there".
      z_loss: coefficient of the squared log-normalizer, at least 0.
      focal_gamma: of classes: what already has the probability p counts (1 - p)^gamma times as much
        (Lin et al. 2017, arXiv:1708.02002), at least 0; 0: off.
      class_weights: of classes: numbers with commas between, in the order of the manifest's
        `labels.names`, by which the examples of each class count; "balanced": examples / (classes *
        those of the class) in training; empty: all alike.
    """

    label_smoothing: float = 0.0
    z_loss: float = 0.0
    focal_gamma: float = 0.0
    class_weights: str = ""

    def __post_init__(self):
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ConfigError(f"loss.label_smoothing is {self.label_smoothing}: give 0 <= x < 1")
        if self.z_loss < 0.0:
            raise ConfigError(f"loss.z_loss is {self.z_loss}: give at least 0")
        if not 0.0 <= self.focal_gamma < math.inf:
            raise ConfigError(f"loss.focal_gamma is {self.focal_gamma}: give at least 0, such as 2")
        if self.class_weights not in ("", BALANCED):
            self.by_class()

    def by_class(self) -> tuple[float, ...]:
        """Returns the numbers of `class_weights`, of one class or more.

        Raises:
          ConfigError: they are no numbers, one is below 0, or all are 0.
        """
        try:
            found = tuple(float(number) for number in self.class_weights.split(","))
        except ValueError:
            found = (math.nan,)
        if not all(0.0 <= number < math.inf for number in found) or not any(found):
            raise ConfigError(
                f"loss.class_weights is {self.class_weights!r}: give balanced, or a number of at "
                "least 0 for each class with commas between, such as 1,2.5"
            )
        return found


def next_token_loss(model, params, batch, *, dropout_key=None, config: LossConfig = LossConfig()):
    """Weighted next-token loss of a batch.

    Args:
      model: a `llm_jax.models.Model`.
      params: its parameters.
      batch: tokens, targets int32 [B, T], weights float32 [B, T]; optionally segment_ids,
        positions int32 [B, T] and example_ids int32 [B].
      dropout_key: turns dropout on.
      config: the objective.

    Returns:
      `((loss_sum, weight_sum), metrics)`, float32 scalars; the loss has a mixture of experts'
      balance in it, and `metrics["nll"]` is the sum of the plain negative log-likelihood in nats.
    """
    inputs = {name: batch.get(name) for name in ("positions", "segment_ids", "example_ids")}
    balanced = getattr(model.family, "hidden_and_balance", None)
    if balanced is None:
        hidden, _ = model.hidden(params, batch["tokens"], dropout_key=dropout_key, **inputs)
    else:
        hidden, balance = balanced(
            model, params, batch["tokens"], batch["weights"], dropout_key=dropout_key, **inputs
        )
    loss, weight, nll = cross_entropy_from_hidden(
        hidden,
        model.output_embedding(params),
        batch["targets"],
        batch["weights"],
        vocab_size=model.config.vocab_size,
        label_smoothing=config.label_smoothing,
        z_loss=config.z_loss,
        logit_cap=model.logit_cap,
        chunk=model.execution.loss_chunk,
    )
    if balanced is not None:
        loss = loss + balance
    return (loss, weight), {"nll": nll}
