"""Rotary positions in a config.json: `rope_parameters`, or `rope_theta` and `rope_scaling`."""

from collections.abc import Mapping

from llm_jax.configuration import ConfigError
from llm_jax.interop.options import demand
from llm_jax.layers.rope import RopeScaling
from llm_jax.models.llama import FULL, SLIDING

# Keys of each kind in the file, by ours.
KEYS = {
    "linear": {"factor": "factor"},
    "dynamic": {"factor": "factor"},
    "yarn": {
        "factor": "factor", "original_positions": "original_max_position_embeddings",
        "beta_fast": "beta_fast", "beta_slow": "beta_slow", "truncate": "truncate",
        "attention_factor": "attention_factor", "mscale": "mscale",
        "mscale_all_dim": "mscale_all_dim",
    },
    "llama3": {
        "factor": "factor", "original_positions": "original_max_position_embeddings",
        "low_frequency_factor": "low_freq_factor", "high_frequency_factor": "high_freq_factor",
    },
}  # fmt: skip
COMMON = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
LOCAL_BASE, GLOBAL_BASE = 10_000.0, 1_000_000.0


def read_rope(
    hf: Mapping, *, by_layer_type: bool = False, base: float = 10_000.0
) -> tuple[float, RopeScaling | None, float | None]:
    """Returns the base, its scaling, and the sliding layers' own base or None.

    Args:
      hf: a config.json.
      by_layer_type: the file has a set for full and one for sliding layers, as Gemma 3's.
      base: where the file names none.

    Raises:
      ConfigError: a kind or an option that is not computed here.
    """
    demand(hf, {"partial_rotary_factor": 1.0})
    older, parameters = hf.get("rope_scaling") or {}, hf.get("rope_parameters") or {}
    base = hf.get("rope_theta") or (GLOBAL_BASE if by_layer_type else base)
    if not by_layer_type:
        return *_one(hf, older or parameters, base), None
    demand(parameters, dict.fromkeys(parameters.keys() - {FULL, SLIDING}))
    local = {"rope_theta": hf.get("rope_local_base_freq", LOCAL_BASE)}
    local |= parameters.get(SLIDING) or {}
    parameters = (parameters.get(FULL) or {}) | older
    local_base, scaling = _one(hf, local, LOCAL_BASE)
    if scaling is not None:
        raise ConfigError(
            f"config.json: sliding layers have rotary scaling {scaling.kind!r}; only the full "
            "layers can have one here"
        )
    return *_one(hf, parameters, base), local_base


def _one(hf: Mapping, parameters: Mapping, base: float) -> tuple[float, RopeScaling | None]:
    """Returns the base and the scaling of one set of parameters."""
    demand(parameters, {"partial_rotary_factor": 1.0})
    base = float(parameters.get("rope_theta") or base)
    kind = parameters.get("rope_type") or parameters.get("type") or "default"
    if kind != "default" and kind not in KEYS:
        raise ConfigError(
            f"config.json: rotary scaling {kind!r} is unknown: known are {', '.join(KEYS)}"
        )
    keys = KEYS.get(kind, {})
    given = {name: value for name, value in parameters.items() if value is not None}
    demand(given, dict.fromkeys(given.keys() - COMMON - set(keys.values())))
    if kind == "default":
        return base, None
    trained = hf["max_position_embeddings"]
    values = {ours: given[theirs] for ours, theirs in keys.items() if theirs in given}
    if kind != "linear":
        values.setdefault("original_positions", trained)
        if kind != "dynamic" and hf.get("original_max_position_embeddings"):
            values["original_positions"] = hf["original_max_position_embeddings"]
    if kind == "yarn":
        values.setdefault("factor", trained / values["original_positions"])
        for name in ("beta_fast", "beta_slow"):
            if not values.get(name):
                values.pop(name, None)
    if missing := [keys[name] for name in _needed(kind) if name not in values]:
        raise ConfigError(f"config.json: rotary scaling {kind!r} lacks {', '.join(missing)}")
    return base, RopeScaling(kind, **values)


def _needed(kind: str) -> tuple[str, ...]:
    llama3 = ("low_frequency_factor", "high_frequency_factor")
    return ("factor", *(llama3 if kind == "llama3" else ()))


def write_rope(
    base: float, scaling: RopeScaling | None, local_base: float | None, *, by_layer_type: bool
) -> dict:
    """Returns the keys of a config.json that `read_rope` reads."""
    parameters = {"rope_type": "default", "rope_theta": base}
    if scaling is not None:
        parameters["rope_type"] = scaling.kind
        for ours, theirs in KEYS[scaling.kind].items():
            if getattr(scaling, ours) is not None:
                parameters[theirs] = getattr(scaling, ours)
    if by_layer_type:
        local = {"rope_type": "default", "rope_theta": local_base or base}
        parameters = {FULL: parameters, SLIDING: local}
    return {"rope_parameters": parameters}
