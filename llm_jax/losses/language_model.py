"""The objective of pretraining: the next token."""

import dataclasses

from llm_jax.configuration import ConfigError
from llm_jax.losses.cross_entropy import cross_entropy_from_hidden


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """What is added to the plain cross-entropy.

    Attributes:
      label_smoothing: part of a target's mass spread over the vocabulary, in [0, 1).
      z_loss: coefficient of the squared log-normalizer, at least 0.
    """

    label_smoothing: float = 0.0
    z_loss: float = 0.0

    def __post_init__(self):
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ConfigError(f"loss.label_smoothing is {self.label_smoothing}: give 0 <= x < 1")
        if self.z_loss < 0.0:
            raise ConfigError(f"loss.z_loss is {self.z_loss}: give at least 0")


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
