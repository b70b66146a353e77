"""Robust training of text classifiers: word vectors moved against the loss, and kin of that.

What is moved is what the token table gives (`Model.read(perturbation=...)`). A perturbation belongs
to one example: its norm is over that example's real tokens, its draws are of that example's key, so
that it is the same on any mesh and under accumulation; padding never moves. Mixing alone couples
examples: its group is the microbatch.
"""

import dataclasses

import jax
import jax.numpy as jnp

from llm_jax.configuration import ConfigError, nearest
from llm_jax.layers.dropout import site_key
from llm_jax.losses.labels import head_outputs, judged
from llm_jax.losses.language_model import LossConfig

ADVERSARIAL = ("none", "fgm", "pgd", "freelb", "vat")


@dataclasses.dataclass(frozen=True)
class RobustConfig:
    """What is added to the loss of `text_classification`; all of it is off.

    Attributes:
      adversarial: "fgm", one step along the gradient (Miyato et al. 2017, arXiv:1605.07725); "pgd",
        several, kept in the ball (Madry et al. 2018, arXiv:1706.06083); both add the loss there to
        the clean one. "freelb", the mean loss of `steps` points of the ascent from a random start,
        in place of the clean one (Zhu et al. 2020, arXiv:1909.11764). "vat", the KL divergence from
        the clean prediction, where it grows fastest by power iteration (Miyato et al. 2018,
        arXiv:1704.03976). Or "none".
      epsilon: radius of an example's ball (L2, over all its real tokens together), as a share of
        the norm of its own word vectors.
      step_size: of a step of pgd and freelb, as a share of that radius; of vat how far out its
        power iteration takes the gradient. fgm goes to the radius.
      steps: of the ascent or the power iteration; fgm has one.
      adversarial_weight: of what is added to the clean loss.
      r_drop: coefficient of the symmetric KL of two draws of dropout, whose mean loss takes the
        place of the clean one (Wu et al. 2021, arXiv:2106.14448); 0: off.
      mixing: alpha of Beta(alpha, alpha), by which word vectors and losses of two examples of the
        same microbatch are mixed (Guo et al. 2019, arXiv:1905.08941); 0: off.
    """

    adversarial: str = "none"
    epsilon: float = 0.1
    step_size: float = 0.5
    steps: int = 3
    adversarial_weight: float = 1.0
    r_drop: float = 0.0
    mixing: float = 0.0

    def __post_init__(self):
        if self.adversarial not in ADVERSARIAL:
            known = nearest(self.adversarial, ADVERSARIAL)
            raise ConfigError(f"robust.adversarial is {self.adversarial!r}: {known}")
        for name in ("epsilon", "step_size", "steps", "adversarial_weight"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"robust.{name} is {getattr(self, name)}: give more than 0")
        for name in ("r_drop", "mixing"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"robust.{name} is {getattr(self, name)}: give 0 or more")
        if self.mixing and (self.adversarial != "none" or self.r_drop):
            raise ConfigError(
                f"robust.mixing is {self.mixing} beside robust.adversarial or robust.r_drop, which "
                "need examples that are not mixed: set it to 0, or them off"
            )
        if self.adversarial == "freelb" and self.adversarial_weight != 1:
            raise ConfigError(
                f"robust.adversarial_weight is {self.adversarial_weight} and robust.adversarial "
                "'freelb', which has no clean part: leave it 1"
            )

    @property
    def active(self) -> bool:
        """Says whether anything is on."""
        return self.adversarial != "none" or self.r_drop > 0 or self.mixing > 0

    @property
    def sums(self) -> tuple[str, ...]:
        """Returns the names of the parts that `robust_loss` adds up, columns of `metrics.csv`."""
        parts = {"adversarial": self.adversarial != "none", "r_drop": self.r_drop > 0}
        found = tuple(name for name, on in parts.items() if on)
        return ("clean", *found) if found else ()


def check(run) -> None:
    """Raises `ConfigError` where `run`, a `RunConfig`, cannot be trained as `run.robust` says."""
    robust, objective = run.robust, run.objective
    if not robust.active:
        return
    if objective.name != "text_classification":
        raise ConfigError(
            f"objective.name is {objective.name!r} and robust is for text_classification: set "
            "robust.adversarial to none, robust.r_drop and robust.mixing to 0"
        )
    if run.data.window and (robust.mixing or robust.adversarial != "none"):
        raise ConfigError(
            f"data.window is {run.data.window}, and robust.adversarial and robust.mixing move the "
            "words of whole texts: set data.window to 0, or them off"
        )
    for name in ("vat", "r_drop"):
        wanted = robust.r_drop if name == "r_drop" else robust.adversarial == name
        if wanted and objective.target != "class":
            raise ConfigError(
                f"objective.target is {objective.target!r} and {name} compares probabilities of "
                "one class of several: set objective.target to class, or it off"
            )
    rates = {**vars(run.model), "head": run.tuning.head.dropout_rate}
    rates = [rate for key, rate in rates.items() if key == "head" or key.endswith("dropout_rate")]
    if robust.r_drop and not any(rates):
        raise ConfigError(
            f"robust.r_drop is {robust.r_drop} and there is no dropout to draw twice: set "
            "model.dropout_rate or tuning.head.dropout_rate"
        )
    if robust.mixing and run.batch_size < 2 * run.accumulation:
        raise ConfigError(
            f"robust.mixing is {robust.mixing} and a microbatch has one example: raise batch_size "
            f"{run.batch_size} or lower accumulation {run.accumulation}"
        )
    if run.precision == "fp8":
        raise ConfigError("precision is 'fp8' and robust reads a batch twice: give fp32 or bf16")


def robust_loss(
    model, params, batch, *, dropout_key, config: LossConfig, robust: RobustConfig
):  # fmt: skip
    """The loss of labels, made robust.

    Args:
      model, params, batch, config: as `llm_jax.losses.labels.label_loss` takes them.
      dropout_key: turns dropout on; random starts and mixing draw from it too. The clean and the
        moved reading have the same masks.
      robust: what is on.

    Returns:
      `((loss_sum, weight_sum), sums)` as there; beside them, where they are on, the sums `clean`,
      `adversarial`, `r_drop` (before their coefficients). Of mixed examples `nll` is the mixture's.
    """
    if robust.mixing:
        return _mixed_loss(model, params, batch, dropout_key, config, robust)

    def read(key, perturbation=None):
        return head_outputs(model, params, batch, key, perturbation)

    clean = read(dropout_key)
    (total, weight), sums = judged(clean, batch, config)
    sums, beside = sums | {"clean": total}, 0.0
    if robust.r_drop:
        other = read(site_key(dropout_key, "r_drop"))
        total = (total + judged(other, batch, config)[0][0]) / 2
        apart = (divergence(clean, other) + divergence(other, clean)) / 2
        sums["r_drop"] = jnp.sum(apart * batch["weights"])
        beside = robust.r_drop * sums["r_drop"]
    if robust.adversarial == "none":
        return (total + beside, weight), sums

    frozen = jax.lax.stop_gradient(params)
    goal = jax.lax.stop_gradient(clean)

    def harm(outputs):
        if robust.adversarial == "vat":
            return jnp.sum(divergence(goal, outputs) * batch["weights"])
        return judged(outputs, batch, config)[0][0]

    def slope(perturbation):
        return jax.grad(lambda r: harm(head_outputs(model, frozen, batch, dropout_key, r)))(
            perturbation
        )

    points = perturbations(model, frozen, batch, slope, dropout_key, robust)
    found = [harm(read(dropout_key, jax.lax.stop_gradient(point))) for point in points]
    sums["adversarial"] = sum(found) / len(found)
    if robust.adversarial == "freelb":
        total = 0.0  # the clean loss is only reported
    return (total + robust.adversarial_weight * sums["adversarial"] + beside, weight), sums


def perturbations(model, params, batch, slope, key, robust: RobustConfig) -> list:
    """Returns where the adversarial loss is taken: float32 [B, T, D] each, freelb's `steps` many.

    Args:
      model, params, batch: as of `robust_loss`.
      slope: gives the gradient, by its perturbation, of what is to grow.
      key: random starts draw from it and the example's id.
      robust: the method.
    """
    radius, real = radii(model, params, batch, robust.epsilon), _real(batch)
    now = jnp.zeros((*batch["tokens"].shape, model.config.hidden_size), jnp.float32)
    if robust.adversarial == "fgm":
        return [radius * unit(slope(now) * real)]
    if robust.adversarial == "vat":
        now = unit(start(key, batch, now.shape, jax.random.normal) * real)
        for _ in range(robust.steps):
            now = unit(slope(robust.step_size * radius * now) * real)
        return [radius * now]
    if robust.adversarial == "freelb":
        sizes = jnp.sum(batch["mask"], axis=1)[:, None, None] * now.shape[-1]
        drawn = 2 * start(key, batch, now.shape, jax.random.uniform) - 1
        now = drawn * real * radius / jnp.sqrt(sizes)
    points = [now]
    for _ in range(robust.steps):
        points.append(ascend(points[-1], slope(points[-1]) * real, radius, robust.step_size))
    return points[:-1] if robust.adversarial == "freelb" else points[-1:]


def ascend(now, gradient, radius, step_size: float):
    """Returns `now [B, T, D]`, a step up the gradient and back in the ball, example by example."""
    now = now + step_size * radius * unit(gradient)
    return now * jnp.minimum(1.0, radius / jnp.maximum(norms(now), 1e-30))


def radii(model, params, batch, epsilon: float):
    """Returns float32 [B, 1, 1]: `epsilon` of the norm of each example's own word vectors."""
    own = model.word_vectors(params, batch["tokens"]).astype(jnp.float32) * _real(batch)
    return epsilon * norms(own)


def start(key, batch, shape, draw):
    """Returns `draw` of each example's own key: float32 of `shape` [B, T, D]."""
    ids = batch.get("example_ids")
    ids = jnp.arange(shape[0]) if ids is None else ids
    own = site_key(key, "robust_start")
    return jax.vmap(lambda one: draw(jax.random.fold_in(own, one), shape[1:]))(ids)


def norms(x):
    """Returns the L2 norm of each example of `x [B, T, D]`: [B, 1, 1]."""
    return jnp.sqrt(jnp.sum(jnp.square(x), axis=(1, 2), keepdims=True))


def unit(x):
    """Returns `x [B, T, D]` with each example's norm 1, or 0 where it is 0."""
    # Gradients may be too small to square: the largest entry is 1 first.
    x = x.astype(jnp.float32)
    x = x / jnp.maximum(jnp.max(jnp.abs(x), axis=(1, 2), keepdims=True), 1e-30)
    return x / jnp.maximum(norms(x), 1e-30)


def divergence(expected, given):
    """Returns KL(softmax(expected) || softmax(given)) in nats, [B] of logits [B, C]."""
    expected, given = jax.nn.log_softmax(expected), jax.nn.log_softmax(given)
    return jnp.sum(jnp.exp(expected) * (expected - given), axis=-1)


def _real(batch):
    return (batch["mask"] > 0)[..., None].astype(jnp.float32)


def partners(key, size: int):
    """Returns int32 [size]: the example that each is mixed with, all in one circle, none itself."""
    circle = jax.random.permutation(key, size)
    return jnp.zeros(size, jnp.int32).at[circle].set(jnp.roll(circle, -1))


def _mixed_loss(model, params, batch, dropout_key, config, robust):
    size = batch["tokens"].shape[0]
    key = site_key(dropout_key, "mixing")
    other = partners(key, size)
    share = start(
        key, batch, (size,), lambda k, _: jax.random.beta(k, robust.mixing, robust.mixing)
    )
    share = jnp.where(batch["weights"][other] > 0, share, 1.0)  # what fills a batch up has no class
    own = model.word_vectors(params, batch["tokens"]).astype(jnp.float32)
    real, wide = own * _real(batch), share[:, None, None]
    mixed = wide * real + (1 - wide) * real[other]
    # Where the text reaches that the longer of both has.
    both = batch | {"mask": jnp.maximum(batch["mask"], batch["mask"][other])}
    outputs = head_outputs(model, params, both, dropout_key, mixed - own)
    (first, _), sums = judged(outputs, batch | {"weights": batch["weights"] * share}, config)
    theirs = {"labels": batch["labels"][other], "weights": batch["weights"] * (1 - share)}
    (second, _), more = judged(outputs, batch | theirs, config)
    return (first + second, jnp.sum(batch["weights"])), jax.tree.map(jnp.add, sums, more)
