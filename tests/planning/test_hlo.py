"""The reader of compiled programs, on programs whose collectives are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from llm_jax.planning.flops import executed
from llm_jax.planning.hlo import Program, replica_groups

AXES, SIZES = ("a", "b"), (4, 2)


def compiled(function, *inputs, **specs):
    """The program of `function` over a mesh of 4 by 2, with inputs [shape, spec]."""
    mesh = jax.make_mesh(SIZES, AXES, axis_types=(AxisType.Auto,) * 2)
    shaped = [
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, PartitionSpec(*spec)))
        for shape, spec in inputs
    ]
    with jax.set_mesh(mesh):
        return Program(jax.jit(function, **specs).lower(*shaped).compile().as_text())


def manual(function, spec, out):
    return jax.shard_map(
        function, in_specs=PartitionSpec(*spec), out_specs=PartitionSpec(*out), check_vma=False
    )


@pytest.mark.parametrize(
    ("kind", "function", "out", "size", "sent"),
    [
        # 8 x 16 floats over 4 devices of axis a: what a ring sends by Thakur et al.
        ("all-gather", lambda x: jax.lax.all_gather(x, "a", tiled=True), (), 512, 512 * 3 / 4),
        ("all-reduce", lambda x: jax.lax.psum(x, "a"), (), 128, 2 * 128 * 3 / 4),
        (
            "reduce-scatter",
            lambda x: jax.lax.psum_scatter(x, "a", scatter_dimension=1, tiled=True),
            (None, "a"), 128, 128 * 3 / 4,
        ),
        (
            "all-to-all",
            lambda x: jax.lax.all_to_all(x, "a", split_axis=1, concat_axis=0, tiled=True),
            ("a",), 128, 128 * 3 / 4,
        ),
        (
            "collective-permute",
            lambda x: jax.lax.ppermute(x, "a", [(i, (i + 1) % 4) for i in range(4)]),
            ("a",), 128, 128,
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_each_collective_has_its_axis_size_and_bytes(kind, function, out, size, sent):
    program = compiled(manual(function, ("a",), out), ((8, 16), ("a",)))
    (found,) = program.collectives(AXES, SIZES)
    assert (found.kind, found.axes, found.size, found.times) == (kind, ("a",), size, 1)
    assert found.sent == sent


def test_a_collective_in_loops_counts_as_often_as_they_run():
    def function(x):
        def inner(y, _):
            return jax.lax.psum(y, "b") / 2, None

        def outer(y, _):
            return jax.lax.scan(inner, jax.lax.psum(y, ("a", "b")), None, length=7)[0], None

        return jax.lax.scan(outer, x, None, length=5)[0]

    program = compiled(manual(function, (), ()), ((8, 16), ()))
    found = {each.axes: each.times for each in program.collectives(AXES, SIZES)}
    assert found == {("a", "b"): 5, ("b",): 35}
    assert sorted(program.loops().values()) == [5, 7]
    assert program.count("all-reduce") == 40


def test_what_the_partitioner_puts_in_is_read_as_well():
    """A product whose contracted axis is divided: partial sums are added over it."""
    program = compiled(lambda x, w: x @ w, ((8, 16), ("a", "b")), ((16, 32), ("b", None)))
    (found,) = program.collectives(AXES, SIZES)
    assert (found.kind, found.axes, found.size) == ("all-reduce", ("b",), 8 // 4 * 32 * 4)


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("replica_groups={{0,1},{2,3}}, x", [[0, 1], [2, 3]]),
        ("replica_groups=[2,4]<=[8]", [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", [[0, 4], [1, 5], [2, 6], [3, 7]]),
        ("replica_groups=mesh['x'=8] {'x'}, y", [list(range(8))]),
        ("replica_groups=mesh['x'=4,'y'=2] {'y'}", [[0, 1], [2, 3], [4, 5], [6, 7]]),
        ("replica_groups=mesh['x'=4,'y'=2] {'x'}", [[0, 2, 4, 6], [1, 3, 5, 7]]),
        ("replica_groups=mesh['x'=8] {'x':(2)2}", [[0, 2], [1, 3], [4, 6], [5, 7]]),
        ("source_target_pairs={{0,2},{2,0}}", [[0, 2], [2, 0]]),
        ("use_global_device_ids=true", [list(range(8))]),
    ],
)
def test_every_form_of_groups_is_read(text, groups):
    assert replica_groups(text, 8).tolist() == groups


def test_groups_of_a_transposed_box_are_numpys():
    want = np.arange(24).reshape(2, 3, 4).transpose(2, 0, 1).reshape(4, 6)
    assert (replica_groups("replica_groups=[4,6]<=[2,3,4]T(2,0,1)", 24) == want).all()


CALL = "use_global_device_ids=true, frontend_attributes={}"
ALL = "replica_groups=mesh['axis_0'=8] {'axis_0'}, dimensions={0}"
START = "(bf16[8,64]{1,0:T(8,128)}, bf16[64,64]{1,0:T(8,128)}) all-gather-start(%w), channel_id"
DONE = "bf16[64,64]{1,0:T(8,128)} all-gather-done"
TPU = f"""
HloModule jit_step, is_scheduled=true

%all-reduce-scatter.1 (p: bf16[4096,64]) -> bf16[512,64] {{
  %all-reduce.9 = bf16[4096,64]{{1,0:T(8,128)(2,1)}} all-reduce(%p), replica_groups={{{{0,1,2,3,4,5,6,7}}}}, {CALL}
  ROOT %slice.1 = bf16[512,64]{{1,0:T(8,128)(2,1)}} dynamic-slice(%all-reduce.9, %c)
}}

%condition.3 (q: (s32[], bf16[8])) -> pred[] {{
  %constant.8 = s32[]{{:T(128)}} constant(80)
  ROOT %less.1 = pred[]{{:T(512)}} compare(%i, %constant.8), direction=LT
}}

%body.3 (q: (s32[], bf16[8])) -> (s32[], bf16[8]) {{
  %all-gather-start.1 = {START}=2, {ALL}, metadata={{op_name="jit(step)/gather"}}
  %fusion.2 = bf16[8]{{0:T(8,128)}} fusion(%x), calls=%f, backend_config={{"estimated_cycles":"100"}}
  %all-gather-done.1 = {DONE}(%all-gather-start.1)
  %all-gather-start.2 = {START}=3, {ALL}
  %all-gather-done.2 = {DONE}(%all-gather-start.2)
  %fusion.3 = bf16[512,64]{{1,0}} fusion(%g), calls=%all-reduce-scatter.1, metadata={{op_name="jit(step)/scatter"}}, backend_config={{"estimated_cycles":"18446744073709551615"}}
  ROOT %tuple.1 = (s32[]{{:T(128)}}, bf16[8]{{0:T(8,128)}}) tuple(%i, %fusion.2)
}}

ENTRY %main.1 (a: bf16[8]) -> bf16[8] {{
  %while.1 = (s32[]{{:T(128)}}, /*index=1*/bf16[8]{{0}}) while(%t), condition=%condition.3, body=%body.3
}}
"""  # noqa: E501


def test_a_program_for_tpu_is_read():
    """Lines as libtpu 0.0.52 writes them: layouts, fused reduce-scatters, trips in conditions."""
    program = Program(TPU)
    found = program.collectives(("data", "fsdp"), (1, 8))
    kinds = [(each.kind, each.size, each.overlapped, each.source) for each in found]
    assert sorted(kinds) == [
        ("all-gather", 64 * 64 * 2, False, ""),
        ("all-gather", 64 * 64 * 2, True, "jit(step)/gather"),
        ("reduce-scatter", 4096 * 64 * 2, False, "jit(step)/scatter"),
    ]
    assert all((each.times, each.axes, each.group) == (80, ("fsdp",), 8) for each in found)
    assert program.cycles() == 80 * 100


WINDOWED = """
%condition.1 (p: (bf16[8], u32[])) -> pred[] {
  %constant.1 = u32[]{:T(128)} constant(15)
  %get-tuple-element.1 = u32[]{:T(128)} get-tuple-element(%p), index=1
  ROOT %compare.1 = pred[]{:T(512)} compare(%get-tuple-element.1, %constant.1), direction=LT
}

%body.1 (p: (bf16[8], u32[])) -> (bf16[8], u32[]) {
  %constant.2 = u32[]{:T(128)} constant(2)
  %get-tuple-element.2 = u32[]{:T(128)} get-tuple-element(%p), index=1
  %add.1 = u32[]{:T(128)} add(%get-tuple-element.2, %constant.2), metadata={op_name="add"}
  ROOT %tuple.2 = (bf16[8]{0}, u32[]{:T(128)}) tuple(%x, %add.1)
}

ENTRY %main.1 (a: bf16[8]) -> bf16[8] {
  %while.1 = (bf16[8]{0}, u32[]{:T(128)}) while(%t), condition=%condition.1, body=%body.1
}
"""


def test_a_loop_that_counts_in_twos_runs_half_as_often():
    assert Program(WINDOWED).loops() == {"while.1": 8}


MEETING = (
    '_xla_host_transfer_handler_name="xla_megascale_runtime",_xla_host_transfer_rendezvous="sum_0",'
    '_xla_megascale_reduce_operation="SUM",_xla_megascale_target="{1,2}x{0:3}",'
    '_xla_megascale_transfer_type="ALL_REDUCE"'
)
SLICES = """
ENTRY %main.1 (a: bf16[8]) -> bf16[8] {
  %send.1 = (bf16[8,128]{1,0:T(8,128)(2,1)}, u32[]{:S(2)}, token[]) send(%a, %t), MEETING
  %recv.1 = (bf16[8,128]{1,0:T(8,128)(2,1)}, u32[]{:S(2)}, token[]) recv(%t), MEETING
  WORK
  %recv-done.1 = (bf16[8,128]{1,0:T(8,128)(2,1)}, token[]) recv-done(%recv.1), MEETING
  %fusion.2 = bf16[8]{0:T(8,128)} fusion(%recv-done.1), calls=%f
}
""".replace("MEETING", f"is_host_transfer=true, frontend_attributes={{{MEETING}}}")


@pytest.mark.parametrize("work", ["", "%fusion.1 = bf16[8]{0:T(8,128)} fusion(%x), calls=%f"])
def test_what_crosses_slices_goes_by_the_hosts(work):
    (found,) = Program(SLICES.replace("WORK", work)).collectives(("data", "fsdp"), (2, 4), "data")
    assert (found.kind, found.axes, found.group) == ("all-reduce", ("data",), 2)
    assert found.sent == found.size == 8 * 128 * 2
    assert found.overlapped == bool(work)


IN_BACKGROUND = f"""
%called_computation.7 (p.1: bf16[1,8,16]) -> bf16[1,64,16] {{
  ROOT %all-gather.28 = bf16[1,64,16]{{2,1,0:T(8,128)(2,1)}} all-gather(%p.1), channel_id=9, {ALL}, metadata={{op_name="jit(step)/up"}}
}}, execution_thread="sparsecore"

%async_computation.2 (p.2: bf16[1,8,16]) -> bf16[1,64,16] {{
  ROOT %custom-call.3 = bf16[1,64,16]{{2,1,0:T(8,128)(2,1)}} custom-call(%p.2), custom_call_target="TODO", called_computations={{%called_computation.7}}
}}, execution_thread="sparsecore"

ENTRY %main.1 (a: bf16[8]) -> bf16[8] {{
  %gather.call-start = ((), (), (s32[8]{{0}}, /*index=5*/s32[8]{{0:T(1)S(15)}})) async-start(), async_execution_thread="sparsecore", calls=%async_computation.2
  BEFORE
  %gather.call-update = ((bf16[1,8,16]{{2,1,0}}), bf16[1,64,16]{{2,1,0}}) async-update(%gather.call-start, %w)
  WORK
  %gather.call-done = bf16[1,64,16]{{2,1,0:T(8,128)(2,1)}} async-done(%gather.call-update)
  %fusion.9 = bf16[8]{{0:T(8,128)}} fusion(%gather.call-done), calls=%f
}}
"""  # noqa: E501
FUSION = "%fusion.1 = bf16[8]{0:T(8,128)} fusion(%x), calls=%f"


@pytest.mark.parametrize(
    ("before", "work", "overlapped"), [("", "", False), (FUSION, "", False), ("", FUSION, True)]
)
def test_what_a_sparse_core_carries_is_beside_the_work_from_its_update_on(before, work, overlapped):
    text = IN_BACKGROUND.replace("BEFORE", before).replace("WORK", work)
    (found,) = Program(text).collectives(("fsdp",), (8,))
    assert (found.kind, found.size, found.times) == ("all-gather", 64 * 16 * 2, 1)
    assert (found.overlapped, found.source) == (overlapped, "jit(step)/up")


@pytest.mark.parametrize(("given", "got"), [(16, 64), (64, 16)])
def test_a_ragged_exchange_counts_what_is_sent_not_the_room_for_it(given, got):
    program = Program(f"""
ENTRY %main.1 (a: bf16[8]) -> bf16[8] {{
  %copy.1 = bf16[{given},256]{{1,0}} copy(%a)
  ROOT %ragged.1 = bf16[{got},256]{{1,0}} ragged-all-to-all(%copy.1, %r, %i, %s, %o, /*index=5*/%g), channel_id=1, replica_groups={{{{0,1}},{{2,3}},{{4,5}},{{6,7}}}}
}}
""")  # noqa: E501
    (found,) = program.collectives(("fsdp", "expert"), (4, 2))
    assert (found.axes, found.size, found.sent) == (("expert",), 16 * 256 * 2, 16 * 256)


def test_executed_products_count_loops_recomputation_and_groups():
    x, w = jnp.zeros((8, 16)), jnp.zeros((3, 16, 16))

    def layers(x, w, policy):
        body = jax.checkpoint(lambda y, w: (jnp.sin(y @ w), None), policy=policy)
        return jax.lax.scan(body, x, w)[0].sum()

    policies = jax.checkpoint_policies
    one = 3 * 2 * 8 * 16 * 16
    for policy, times in ((policies.everything_saveable, 3), (policies.nothing_saveable, 4)):
        traced = jax.jit(jax.grad(layers, argnums=(0, 1)), static_argnums=2).trace(x, w, policy)
        assert executed(traced.jaxpr) == times * one

    mesh = jax.make_mesh(SIZES, AXES, axis_types=(AxisType.Auto,) * 2)
    with jax.set_mesh(mesh):  # on each of the devices that share the rows, and on no others
        spread = jax.shard_map(
            lambda x, w: x @ w, in_specs=(PartitionSpec("a"), PartitionSpec()),
            out_specs=PartitionSpec("a"), axis_names={"a"},
        )  # fmt: skip
        assert executed(jax.jit(spread).trace(x, w[0]).jaxpr) == one / 3

    def ragged(x, w, sizes):
        return jax.lax.ragged_dot(x, w, sizes).sum()

    traced = jax.jit(jax.value_and_grad(ragged, argnums=(0, 1))).trace(x, w, jnp.array([2, 5, 1]))
    assert executed(traced.jaxpr) == 3 * 2 * 8 * 16 * 16
