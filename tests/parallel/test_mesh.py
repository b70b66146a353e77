import jax
import pytest
from jax.sharding import PartitionSpec

from llm_jax.configuration import ConfigError
from llm_jax.parallel.mesh import MeshConfig, check_batch, make_mesh, resolve
from llm_jax.parallel.sharding import PARAMETER_RULES, constrain, partition_spec


def test_minus_one_takes_the_devices_that_are_left():
    assert resolve(MeshConfig(tensor=2), 8)["data"] == 4
    assert resolve(MeshConfig(data=2, fsdp=-1, tensor=2), 8)["fsdp"] == 2
    assert make_mesh(MeshConfig(data=2, tensor=2)).size == 4


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"data": 16}, "needs 16 devices but there are 8"),
        ({"tensor": 3}, "8 devices are no multiple"),
        ({"seq": 3}, "8 devices are no multiple"),
        ({"fsdp": 0}, "mesh.fsdp is 0: give 1 or more"),
        ({"fsdp": -1}, "only one may take the rest"),
    ],
)
def test_impossible_meshes_are_refused_in_one_line(config, words):
    with pytest.raises(ConfigError, match=words) as caught:
        make_mesh(MeshConfig(**config))
    assert "\n" not in str(caught.value)


def test_a_batch_that_the_mesh_does_not_divide():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    check_batch(mesh, 8, accumulation=2)
    with pytest.raises(ConfigError, match="batch_size 6 does not divide over 4 devices"):
        check_batch(mesh, 6)
    with pytest.raises(ConfigError, match="multiple of 8"):
        check_batch(mesh, 12, accumulation=2)


def test_names_become_mesh_axes():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    spec = partition_spec(
        ("layers", "embed", "heads", "head_dim"), (3, 8, 4, 5), mesh, PARAMETER_RULES
    )
    assert spec == PartitionSpec(None, "fsdp", "tensor", None)


@pytest.mark.parametrize(("heads", "axis"), [(2, None), (4, "tensor"), (8, "tensor")])
def test_key_value_heads_fewer_than_devices_are_whole_on_each(heads, axis):
    mesh = make_mesh(MeshConfig(data=2, tensor=4))
    spec = partition_spec(("embed", "kv_heads"), (8, heads), mesh, PARAMETER_RULES)
    assert spec == PartitionSpec(None, axis)


@pytest.mark.parametrize(
    ("names", "shape", "words"),
    [
        (("embed", "width"), (8, 8), "'width' is in no sharding rule"),
        (("heads", "mlp"), (8, 8), "both want mesh axis 'tensor'"),
        (("embed", "mlp"), (8, 7), "'mlp' of size 7 does not divide"),
        (("embed", "kv_heads"), (8, 3), "'kv_heads' of size 3 does not divide"),
        (("embed",), (8, 8), "do not fit shape"),
    ],
)
def test_a_rule_that_cannot_hold_is_refused(names, shape, words):
    mesh = make_mesh(MeshConfig(data=1, fsdp=4, tensor=2))
    with pytest.raises(ConfigError, match=words):
        partition_spec(names, shape, mesh, PARAMETER_RULES)


def test_constrain_is_live_on_cpu():
    mesh = make_mesh(MeshConfig(data=4, tensor=2))
    x = jax.numpy.ones((8, 6, 4))
    with jax.set_mesh(mesh):
        y = jax.jit(lambda x: constrain(x, ("batch", "length", "heads")))(x)
    assert y.sharding.shard_shape(y.shape) == (2, 6, 2)
    assert constrain(x, ("batch", "length", "heads")) is x
