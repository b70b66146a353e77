"""Optimizer room, its configuration: what a user may set under `optim.*`."""

import dataclasses
import math

from llm_jax.configuration import ConfigError, nearest

OPTIMIZERS = ("adamw", "lamb", "lion", "adafactor", "sgd", "muon")
SCHEDULES = (
    "constant",
    "linear",
    "cosine",
    "polynomial",
    "inverse_sqrt",
    "piecewise",
    "wsd",
    "triangular",
    "cosine_restarts",
    "one_cycle",
)
DECAY_SHAPES = ("linear", "cosine", "sqrt")
MUON_SCALES = ("match_rms_adamw", "original")
NEWTON_SCHULZ = ("auto", "direct", "gram")

# The papers' own values, taken where a key is None: (beta1, beta2, epsilon). AdamW and Muon's
# AdamW use 0.95 for beta2, as language models do since GPT-3.
_USUAL = {
    "adamw": (0.9, 0.95, 1e-8),
    "lamb": (0.9, 0.999, 1e-6),
    "lion": (0.9, 0.99, 0.0),
    "adafactor": (0.0, 0.8, 1e-3),
    "sgd": (0.0, 0.0, 0.0),
    "muon": (0.9, 0.95, 1e-8),
}


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """An optimizer with its schedule.

    The rate:
      learning_rate: the peak of the schedule.
      schedule: one of `SCHEDULES`; every one is fitted to the run's length.
      warmup_steps: a linear rise before the schedule's own shape; the rise itself of one_cycle.
      final_fraction: where the rate ends at the last step, as a fraction of the peak (cosine,
        linear, polynomial, wsd, one_cycle), and the floor of triangular and cosine_restarts.
      start_fraction: one_cycle: the rate at step 0, as a fraction of the peak.
      power: polynomial: its exponent.
      timescale: inverse_sqrt: steps after which the fall sets in; None: warmup_steps.
      piecewise: pairs (share of the run, fraction of the peak from there on).
      decay_fraction, decay_shape: wsd: the share of the run that decays, and how.
      cycles, cycle_growth, cycle_decay: triangular and cosine_restarts: how many cycles fill the
        run, how much longer each is than the one before, and what part of the height it keeps.

    The update:
      name: one of `OPTIMIZERS`.
      beta1, beta2, epsilon: as in the optimizer's paper; None: its usual value. Adafactor's beta2
        is the exponent of its decay, its epsilon the least scale of a parameter.
      momentum, nesterov: sgd and muon; None: 0.9 and False for sgd, 0.95 and True for muon.
      muon_scale: "match_rms_adamw" gives an update the size of AdamW's, so that both share a
        learning rate; "original" is sqrt(max(1, outputs/inputs)).
      newton_schulz, newton_schulz_steps: how muon orthogonalizes, see `muon.orthogonalize`.
      weight_decay: decoupled (p shrinks by rate * weight_decay), for sgd added to the gradient.
      clip_value, clip_norm: limits of each gradient entry, then of their global norm; 0: off.

    What the run ends with (see `averages.newest_share`), one of:
      ema_decay: a moving average of the parameters, which keeps this part of itself at an update;
        0: off.
      swa_start: the mean of the parameters from this share of the run on; 0: off.

    Which parameter gets how much (`tables.match`: full-match regexes over "a/b/c" paths, the
    first that matches wins, every parameter must match, every pattern must be of use):
      weight_decay_table: pairs (pattern, multiplier of weight_decay); None: 1 for matrices and
        embeddings, 0 for vectors such as biases and norms.
      learning_rate_table: pairs (pattern, multiplier of the rate); None: 1 for all.
      layer_decay: a layer's rate is this times that of the layer above it; 1: off.
      layer_decay_bottom: parameters below the first layer, by pattern.

    Raises:
      ConfigError: an unknown name, or a value out of its range.
    """

    name: str = "adamw"
    learning_rate: float = 3e-4
    schedule: str = "cosine"
    warmup_steps: int = 0
    final_fraction: float = 0.1
    start_fraction: float = 0.04
    power: float = 2.0
    timescale: int | None = None
    piecewise: tuple = ((0.6, 0.3), (0.85, 0.1))
    decay_fraction: float = 0.2
    decay_shape: str = "linear"
    cycles: int = 4
    cycle_growth: float = 1.0
    cycle_decay: float = 1.0
    beta1: float | None = None
    beta2: float | None = None
    epsilon: float | None = None
    momentum: float | None = None
    nesterov: bool | None = None
    muon_scale: str = "match_rms_adamw"
    newton_schulz: str = "auto"
    newton_schulz_steps: int = 5
    weight_decay: float = 0.1
    clip_value: float = 0.0
    clip_norm: float = 1.0
    ema_decay: float = 0.0
    swa_start: float = 0.0
    weight_decay_table: tuple | None = None
    learning_rate_table: tuple | None = None
    layer_decay: float = 1.0
    layer_decay_bottom: str = r"(.*/)?(embeddings?|positions)/.*"

    def __post_init__(self):
        for key, known in (
            ("name", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("decay_shape", DECAY_SHAPES),
            ("muon_scale", MUON_SCALES),
            ("newton_schulz", NEWTON_SCHULZ),
        ):
            given = getattr(self, key)
            if given not in known:
                raise ConfigError(f"optim.{key} is {given!r}: {nearest(str(given), known)}")
        for key, low, high in _RANGES:
            given = getattr(self, key)
            if given is not None and not (math.isfinite(given) and low <= given <= high):
                span = f"between {low:g} and {high:g}" if high < math.inf else f"of at least {low}"
                raise ConfigError(f"optim.{key} is {given!r}: give a value {span}")
        if self.nesterov and self.name == "sgd" and self.momentum == 0:
            raise ConfigError(
                "optim.nesterov is True with optim.momentum 0: give a momentum, such as 0.9"
            )
        if self.ema_decay and self.swa_start:
            raise ConfigError(
                f"optim.ema_decay is {self.ema_decay} and optim.swa_start {self.swa_start}: one "
                "average is kept, set one of them to 0"
            )
        _check_piecewise(self.piecewise)

    @property
    def averages(self) -> bool:
        """Whether an average of the parameters is kept."""
        return bool(self.ema_decay or self.swa_start)

    @property
    def moments(self) -> tuple[float, float, float]:
        """(beta1, beta2, epsilon) with the optimizer's usual values where none are given."""
        given = (self.beta1, self.beta2, self.epsilon)
        return tuple(u if g is None else g for g, u in zip(given, _USUAL[self.name], strict=True))

    @property
    def velocity(self) -> tuple[float, bool]:
        """(momentum, nesterov) with the usual values of muon or sgd where none are given."""
        momentum, nesterov = (0.95, True) if self.name == "muon" else (0.9, False)
        return (
            momentum if self.momentum is None else self.momentum,
            nesterov if self.nesterov is None else self.nesterov,
        )


_UP = math.inf
_BELOW_ONE = math.nextafter(1.0, 0.0)
_RANGES = (
    ("learning_rate", 0.0, _UP),
    ("warmup_steps", 0, _UP),
    ("final_fraction", 0.0, 1.0),
    ("start_fraction", 0.0, 1.0),
    ("power", 0.0, _UP),
    ("timescale", 1, _UP),
    ("decay_fraction", 0.0, 1.0),
    ("cycles", 1, _UP),
    ("cycle_growth", 1.0, _UP),
    ("cycle_decay", 0.0, 1.0),
    ("beta1", 0.0, _BELOW_ONE),
    ("beta2", 0.0, _BELOW_ONE),
    ("epsilon", 0.0, _UP),
    ("momentum", 0.0, _BELOW_ONE),
    ("newton_schulz_steps", 1, 20),
    ("weight_decay", 0.0, _UP),
    ("clip_value", 0.0, _UP),
    ("clip_norm", 0.0, _UP),
    ("ema_decay", 0.0, _BELOW_ONE),
    ("swa_start", 0.0, _BELOW_ONE),
    ("layer_decay", 0.0, 1.0),
)


def _check_piecewise(pairs: tuple) -> None:
    mend = "give pairs (share of the run, fraction of the peak), shares rising between 0 and 1"
    before = 0.0
    for pair in pairs:
        numbers = isinstance(pair, tuple | list) and len(pair) == 2
        numbers = numbers and all(
            isinstance(x, int | float) and not isinstance(x, bool) for x in pair
        )
        if not numbers or not before < pair[0] < 1 or not (0 <= pair[1] < math.inf):
            raise ConfigError(f"optim.piecewise is {pairs!r}: {mend}")
        before = pair[0]
