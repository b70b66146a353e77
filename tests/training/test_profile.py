"""Profiles of real steps, and of planes as TPUs and GPUs write them."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.profiler import ProfileData
from jax.sharding import NamedSharding, PartitionSpec

from llm_jax.configuration import ConfigError
from llm_jax.parallel.mesh import MeshConfig, make_mesh
from llm_jax.training.loop import fit
from llm_jax.training.profile import collective_share, operations, profile_hooks


@pytest.mark.parametrize("span", ["5", "a:b", "9:3", "0:4"])
def test_a_profile_span_that_is_none_is_refused(span, tmp_path):
    with pytest.raises(ConfigError, match="give FROM:TO"):
        profile_hooks(span, str(tmp_path), 20)


def test_a_profile_that_the_run_would_not_finish_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="the run ends after step 5"):
        profile_hooks("2:6", str(tmp_path), 5)


def traced(mesh, workdir):
    """Profiles steps 3 to 6 of a run whose work is a product: rows over `data`."""
    place = functools.partial(NamedSharding, mesh)
    rows = jax.device_put(jnp.ones((512, 384)), place(PartitionSpec("data")))
    weights = jax.device_put(jnp.ones((384, 384)), place(PartitionSpec()))

    @jax.jit
    def train_step(weights, batch):
        loss, gradient = jax.value_and_grad(lambda w: jnp.mean(jnp.square(batch @ w)))(weights)
        return weights - 1e-3 * gradient, {"loss": loss}

    fit(
        train_step, weights, (rows for _ in range(20)), first=0, steps=9,
        on_metrics=lambda *_: None, hooks=profile_hooks("3:6", str(workdir), 9),
    )  # fmt: skip
    return operations(workdir)


def test_products_are_on_top_and_nothing_is_sent_on_one_device(tmp_path):
    found = traced(make_mesh(MeshConfig(data=1)), tmp_path)
    # XLA on a CPU puts a product and what follows it into one "ynn_fusion".
    assert found[0].name.startswith(("dot", "ynn_fusion"))
    assert found[0].count == 3
    assert sum(each.share for each in found) == pytest.approx(1.0)
    assert [each.share for each in found] == sorted((e.share for e in found), reverse=True)
    assert collective_share(found) == 0


def test_a_meshs_collectives_are_seen(tmp_path):
    found = traced(make_mesh(MeshConfig(data=8)), tmp_path)
    sums = [each for each in found if each.name.startswith("all-reduce")]
    assert sum(each.count for each in sums) % (3 * 8) == 0
    assert 0.0 < collective_share(found) < 1.0
    assert collective_share(found) == pytest.approx(sum(each.share for each in sums))


TPU = """
planes { name: "/device:TPU:0"
  lines { name: "XLA Modules" events { metadata_id: 9 duration_ps: 90000 } }
  lines { name: "XLA Ops"
    events { metadata_id: 1 duration_ps: 60000 } events { metadata_id: 2 duration_ps: 30000 }
    events { metadata_id: 3 duration_ps: 10000 } events { metadata_id: 3 duration_ps: 10000 } }
  lines { name: "Async XLA Ops" events { metadata_id: 3 duration_ps: 80000 } }
  event_metadata { key: 1 value { id: 1 name: "%while.4 = (s32[]) while(%tuple.1)" } }
  event_metadata { key: 2 value { id: 2 name: "%fusion.7 = f32[8,8]{1,0} fusion(%p)" } }
  event_metadata { key: 3 value { id: 3 name: "%all-gather-done.2 = f32[8] all-gather-done(%s)" } }
  event_metadata { key: 9 value { id: 9 name: "jit_train_step(1)" } } }
planes { name: "/host:CPU" lines { name: "python" events { metadata_id: 1 duration_ps: 70000 } }
  event_metadata { key: 1 value { id: 1 name: "PjitFunction(train_step)" } } }
"""

GPU = """
planes { name: "/device:GPU:0"
  lines { name: "Stream #13(Compute)"
    events { metadata_id: 1 duration_ps: 75000 stats { metadata_id: 5 ref_value: 6 } }
    events { metadata_id: 3 duration_ps: 99000 } }
  lines { name: "Stream #20(MemcpyD2D)"
    events { metadata_id: 2 duration_ps: 25000 stats { metadata_id: 5 ref_value: 7 } } }
  event_metadata { key: 1 value { id: 1 name: "sm90_xmma_gemm_bf16" } }
  event_metadata { key: 2 value { id: 2 name: "ncclDevKernel_AllReduce_Sum" } }
  event_metadata { key: 3 value { id: 3 name: "a kernel of no instruction" } }
  stat_metadata { key: 5 value { id: 5 name: "hlo_op" } }
  stat_metadata { key: 6 value { id: 6 name: "gemm_fusion_dot.3" } }
  stat_metadata { key: 7 value { id: 7 name: "all-reduce.1" } } }
planes { name: "/host:CPU" lines { name: "launches"
    events { metadata_id: 1 duration_ps: 5000 stats { metadata_id: 5 ref_value: 6 } } }
  event_metadata { key: 1 value { id: 1 name: "Thunk" } }
  stat_metadata { key: 5 value { id: 5 name: "hlo_op" } }
  stat_metadata { key: 6 value { id: 6 name: "gemm_fusion_dot.3" } } }
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (TPU, [("fusion.7", 0.6, 1), ("all-gather-done.2", 0.4, 2)]),
        (GPU, [("gemm_fusion_dot.3", 0.75, 1), ("all-reduce.1", 0.25, 1)]),
    ],
)
def test_an_accelerators_planes_are_read_by_their_known_layout(text, expected, tmp_path):
    folder = tmp_path / "profile" / "plugins" / "profile" / "2026_01_02"
    folder.mkdir(parents=True)
    (folder / "host.xplane.pb").write_bytes(ProfileData.text_proto_to_serialized_xspace(text))
    older = folder.with_name("2025_12_31")
    older.mkdir()
    (older / "host.xplane.pb").write_bytes(b"not read")
    found = [(each.name, pytest.approx(each.share), each.count) for each in operations(tmp_path)]
    assert found == expected
    assert collective_share(operations(tmp_path)) == pytest.approx(expected[1][1])


def test_no_trace_gives_no_operations(tmp_path):
    assert operations(tmp_path) == []
