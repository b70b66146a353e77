"""The matrix products of a traced program, recomputed ones and all: what the hardware will do."""

import math

from jax.extend import core


def executed(program: core.ClosedJaxpr | core.Jaxpr) -> float:
    """Returns the floating-point operations of a program's matrix products, over all devices.

    Loops count as often as they run, of branches the longest; what runs under `shard_map` counts
    once on every device that it is divided over. A Pallas kernel counts what it declares as its
    cost, or its body once for each point of its grid.

    Args:
      program: of `jax.jit(f).trace(...).jaxpr`.
    """
    jaxpr = getattr(program, "jaxpr", program)
    return sum(_of(equation) for equation in jaxpr.eqns)


def _of(equation) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        return _dot(equation)
    if name == "ragged_dot_general":
        return _ragged(equation)
    if name == "conv_general_dilated":
        out, kernel = equation.outvars[0].aval, equation.invars[1].aval
        channels = kernel.shape[params["dimension_numbers"].rhs_spec[0]]
        return 2.0 * out.size * kernel.size / channels
    if name == "pallas_call":
        cost = params.get("cost_estimate")
        if cost is not None and cost.flops:
            return float(cost.flops)
        grid = params["grid_mapping"].grid
        return executed(params["jaxpr"]) * math.prod(n for n in grid if isinstance(n, int))
    inner = [executed(each) for each in _programs(params)]
    if name == "cond":
        return max(inner)
    times = params["length"] if name == "scan" else 1
    if name == "shard_map":
        times = math.prod(params["mesh"].shape[axis] for axis in params["newly_manual_axes"])
    return sum(inner) * times


def _programs(params: dict):
    for value in params.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            if isinstance(each, core.ClosedJaxpr | core.Jaxpr):
                yield each


def _dot(equation) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2.0 * equation.outvars[0].aval.size * math.prod(left[axis] for axis in contracted)


def _ragged(equation) -> float:
    """Each row meets the matrix of its own group, or adds to that one's gradient."""
    numbers = equation.params["ragged_dot_dimension_numbers"]
    (contracted, _), _ = numbers.dot_dimension_numbers
    left = equation.invars[0].aval.shape
    products = 2.0 * equation.outvars[0].aval.size * math.prod(left[axis] for axis in contracted)
    own = set(contracted) & set(numbers.lhs_ragged_dimensions)
    return products / equation.invars[2].aval.shape[-1] if own else products
