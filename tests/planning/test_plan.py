"""Whole plans: what a device holds, recorded programs, the experiment's own words."""

import dataclasses
import functools
import importlib.util
import json
import math
import re
import runpy
import subprocess
from importlib.metadata import version

import jax
import pytest

from llm_jax.configuration import ConfigError
from llm_jax.data.objectives import OBJECTIVES
from llm_jax.losses.registry import work
from llm_jax.parallel.mesh import MeshConfig, resolve
from llm_jax.parallel.sharding import batch_sharding
from llm_jax.planning import roofline, search, step, topology, write
from llm_jax.planning.hlo import Collective
from llm_jax.training.run import default_config, parse_run
from llm_jax.training.trainer import make_trainer
from tests.experiments.conftest import ROOT, result, run
from tests.planning import record

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is missing: extra tpu-plan"
)


def of(name, variant="", **changes):
    config = runpy.run_path(ROOT / "configs" / f"{name}.py")["get_config"](variant)
    config.update_from_flattened_dict(changes)
    return parse_run(step.without_data(config))


def held(configuration, devices):
    target = make_trainer(configuration, devices).target
    return step.bytes_on_device(target.params), step.bytes_on_device(target.opt_state)


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_what_a_device_holds_falls_as_one_over_n(count):
    """8B parameters, fp32, and AdamW's two moments of each."""
    configuration = of("llama_8b")
    assert held(configuration, jax.devices()[:count]) == (
        4 * 8_030_261_248 // count,
        2 * 4 * 8_030_261_248 // count + 8,  # and two counts of steps
    )


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_the_compiler_counts_the_same_arguments(count):
    configuration = dataclasses.replace(of("llama_8b", "tiny"), batch_size=8)
    trainer = make_trainer(configuration, jax.devices()[:count])
    batch = step.abstract_batch(configuration, batch_sharding(trainer.mesh))
    with jax.set_mesh(trainer.mesh):
        compiled = trainer.train_step.lower(trainer.target, batch).compile()
    got = compiled.memory_analysis().argument_size_in_bytes
    want = step.bytes_on_device(trainer.target) + step.bytes_on_device(batch)
    assert abs(got - want) < 1024  # what a step does not read, and alignment
    assert sum(held(configuration, jax.devices()[:count])) * count < 1.001 * sum(
        held(configuration, jax.devices()[:1])
    )


def test_activations_are_what_remat_leaves():
    def bytes_of(remat, layers=2, accumulation=1):
        changes = {"batch_size": 16, "accumulation": accumulation, "execution.remat": remat}
        configuration = of("llama_8b", "tiny", **changes, **{"model.num_layers": layers})
        trainer = make_trainer(configuration)
        batch = step.abstract_batch(configuration)
        with jax.sharding.use_abstract_mesh(trainer.mesh.abstract_mesh):
            return step.memory(configuration, trainer, batch)["activations"]

    configuration = of("llama_8b", "tiny")
    tokens = 16 * configuration.data.sequence_length
    one_layer = tokens * configuration.model.hidden_size * 2 // 8  # bfloat16, over 8 devices
    assert bytes_of("full", layers=5) - bytes_of("full") == 3 * one_layer
    shape = configuration.model
    heads = (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim
    products = tokens * (heads + shape.hidden_size) * 2 // 8
    assert bytes_of("attention") - bytes_of("full") == 2 * products
    gates = tokens * shape.mlp_size * 2 // 8
    assert bytes_of("attention_gate") - bytes_of("attention") == 2 * gates
    assert bytes_of("none") > 1.5 * bytes_of("dots") > 3 * bytes_of("full")
    halved = bytes_of("none", accumulation=2) / bytes_of("none")
    assert 0.5 <= halved < 0.51


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "count"), [("v6e:4x4", 16), ("v6e:16x16", 256), ("v5p:8x8x16", 1024)]
)
def test_what_a_device_of_a_pod_holds_falls_as_one_over_n(place, count):
    configuration = dataclasses.replace(of("llama_8b"), batch_size=1024)
    devices = topology.describe(place).devices
    assert len(devices) == count
    assert held(configuration, devices)[0] == 4 * 8_030_261_248 // count


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_plan_knows_the_batch_of_every_objective(name):
    """The arrays that each objective's loss takes, of one length for all rows."""
    tags = name == "token_classification"
    source = "tagged" if tags else OBJECTIVES[name].kind  # else each kind has one of its name
    family = {"masked_lm": "bert", "classification": "vit", "masked_patches": "vit"}.get(name)
    if family is None:
        family = "gpt2" if name in ("next_token", "fill_in_the_middle") else "t5"
    config = default_config(family, name)
    config.data.source, config.data.path, config.data.sequence_length = source, "x", 64
    config.batch_size = 6
    shapes = step.abstract_batch(parse_run(config))
    assert {leaf.shape[0] for leaf in shapes.values()} == {6}
    assert shapes["example_ids"].shape == (6,)
    assert {"weights"} <= shapes.keys()
    if tags:
        assert shapes["labels"].shape == shapes["weights"].shape == (6, 64)


def recorded():
    if not record.FILE.exists():
        pytest.skip("plans.json is missing: python -m tests.planning.record")
    return json.loads(record.FILE.read_text())


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize("name", record.PLANS)
def test_a_plan_is_as_it_was_recorded(name):
    kept = recorded()
    if kept["libtpu"] != version("libtpu") or kept["jax"] != jax.__version__:
        pytest.skip(f"recorded with libtpu {kept['libtpu']}, jax {kept['jax']}")
    assert record.record(*record.PLANS[name]) == kept["plans"][name]


def test_recorded_plans_gather_nothing_once_per_chunk_of_the_loss():
    for plan in recorded()["plans"].values():
        chunks = 8 * 512 // 128
        assert all(count % chunks for count in plan["collectives"].values())


def test_recorded_plans_gather_their_weights_beside_compute():
    for plan in recorded()["plans"].values():
        sent, alone = plan["bytes_sent"], plan["bytes_alone"]
        gathers = [key for key in sent if key.startswith("all-gather")]
        assert gathers
        for key in gathers:
            assert alone.get(key, 0) < 0.05 * sent[key]


@functools.cache
def made_up():
    """A step on 2 x 2 v6e of made-up work: two seconds at v6e's share of its peak."""
    chips = topology.Topology("v6e:2x2", topology.CHIPS["v6e"], (2, 2), 1, tuple(jax.devices()[:4]))
    configuration = of("llama_8b", batch_size=8)
    trainer = make_trainer(configuration, chips.devices)
    flops = 2 * 4 * 918e12 * 0.55
    return step.Step(configuration, trainer, True, "", {}, flops, None, 0.0), chips


def test_the_roofline_is_its_formula():
    made, chips = made_up()
    found = roofline.predict(made, chips, [])
    example = work(made.run.objective, made.trainer.model, 8192)
    assert found.step_seconds == pytest.approx(2.0)
    assert found.tokens_per_second == pytest.approx(8 * 8192 / 2)
    assert found.mfu == pytest.approx(8 * 8192 * example.flops.total / (2 * 4 * 918e12))
    assert (found.mfu_low, found.mfu_high) == (found.mfu * 0.75, found.mfu * 1.25)


def test_what_overlaps_costs_nothing_until_it_is_more_than_compute(monkeypatch):
    monkeypatch.setattr(roofline, "rate", lambda *_: (1e9, 4))
    each = Collective("all-gather", ("fsdp",), 4, int(4e8), 1, False, "")  # 0.3 s
    hidden = dataclasses.replace(each, overlapped=True)
    for collectives, seconds in (([each], 2.3), ([hidden], 2.0), ([hidden] * 10, 3.0)):
        found = roofline.predict(*made_up(), collectives)
        assert found.step_seconds == pytest.approx(seconds)


def test_a_search_climbs_and_drops_what_does_not_fit():
    asked = []
    keeps = {"full": 0, "attention": 2, "attention_gate": 3, "dots": 6, "none": 9}

    def cost(candidate):
        """Tensor=4 is best; a microbatch costs 1 second, and 12 GiB hold what is kept."""
        run = candidate.run
        asked.append(candidate)
        kept = 4 * keeps[run.execution.remat] / run.accumulation
        if run.mesh.tensor == 1 or kept > 12:
            return None, None
        seconds = 100 + abs(run.mesh.tensor - 4) + run.accumulation + run.mesh.data
        seconds -= 3 * keeps[run.execution.remat]
        return seconds - (candidate.options == "default") / 2, str(candidate)

    ranked = search.search(of("llama_8b"), 64, cost)
    winner = ranked[0][1]
    assert winner.run.mesh == MeshConfig(data=1, fsdp=16, tensor=4)
    execution = winner.run.execution.remat
    assert (execution, winner.run.accumulation, winner.options) == ("none", 4, "default")
    assert [each[0] for each in ranked] == sorted(each[0] for each in ranked)
    meshes = {each.run.mesh for each in asked}
    assert all(math.prod(resolve(mesh, 64).values()) == 64 for mesh in meshes)
    assert len(set(map(str, asked))) == len(asked)


def test_a_search_over_slices_keeps_a_replica_in_each():
    asked = []

    def cost(candidate):
        asked.append(candidate.run.mesh)
        return 1 / candidate.run.mesh.data, None

    run = of("llama_8b")
    run = dataclasses.replace(run, mesh=dataclasses.replace(run.mesh, slices=2))
    best = search.search(run, 64, cost)[0][1].run.mesh
    assert all(mesh.data % 2 == 0 and mesh.data * mesh.fsdp * mesh.tensor == 64 for mesh in asked)
    assert (best.data, best.fsdp) == (16, 4)


def test_a_plan_is_written_as_its_parent_and_what_differs(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    path = tmp_path / "planned.py"
    asked = "configs/llama_pretrain.py:8b"
    write.check(str(path), asked)
    chosen = of("llama_pretrain", "8b", **{"mesh.fsdp": 32, "mesh.tensor": 2, "mesh.data": 1})
    options = search.options("overlap", "v6e")
    write.write(str(path), asked, chosen, options, "nothing")
    text = path.read_text()
    assert [line.strip() for line in text.splitlines() if line.startswith("    config.")] == [
        "config.mesh.data = 1", "config.mesh.fsdp = 32", "config.mesh.tensor = 2",
    ]  # fmt: skip
    assert max(map(len, text.splitlines())) <= 100
    export = re.search(r'export LIBTPU_INIT_ARGS="[^"]*"', runpy.run_path(path)["__doc__"])[0]
    told = subprocess.run(
        ["bash", "-c", f"{export}; echo $LIBTPU_INIT_ARGS"], capture_output=True, text=True
    )
    assert told.stdout.split() == [f"--{name}={value}" for name, value in options.items()]
    again = runpy.run_path(path)["get_config"]("")
    assert parse_run(step.without_data(again)) == chosen
    with pytest.raises(ConfigError, match="is there already"):
        write.check(str(path), asked)
    with pytest.raises(ConfigError, match="give a file NAME.py"):
        write.check(str(tmp_path / "planned.json"), asked)
    with pytest.raises(ConfigError, match="--write needs --config=configs/NAME.py"):
        write.check(str(tmp_path / "other.py"), "elsewhere/x.py")


@pytest.mark.slow
def test_a_topology_that_does_not_exist_ends_in_one_line():
    done = run("plan", "--config=configs/llama_8b.py:tiny", "--topology=v6e:3x3", check=False)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: --topology=v6e:3x3 does not")


@needs_libtpu
@pytest.mark.slow
def test_the_experiment_prints_a_plan(tmp_path):
    done = run(
        "plan", "--config=configs/llama_8b.py:tiny", "--topology=v6e:2x2", "--price=1",
        "--compiler_options=default",
    )  # fmt: skip
    found = result(done)
    assert found["fits"]
    assert found["mesh"] == {"fsdp": 4}
    assert set(found["bytes_per_device"]) >= {"parameters", "optimizer", "gradients"}
    assert 0 < found["predicted_mfu_low"] < found["predicted_mfu"] < found["predicted_mfu_high"]
    assert found["collective_bytes"]["fsdp"]
    cost = 4 * 1e9 / found["tokens_per_second"] / 3600
    assert found["cost_per_billion_tokens"] == pytest.approx(cost)
