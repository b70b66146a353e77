"""What trains under each method, and that the rest stays as it is, to the last bit."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax import models
from llm_jax.configuration import ConfigError
from llm_jax.generation import Engine, SamplingOptions
from llm_jax.kernels.packed import unpacked
from llm_jax.parallel.sharding import batch_sharding
from llm_jax.testing import relative_error
from llm_jax.training import tuning
from llm_jax.training.run import parse_run
from llm_jax.training.trainer import make_trainer

MODELS = {
    "bert": {"family": "bert", "max_positions": 32, "dropout_rate": 0.1, "pooler": False},
    "llama": {"family": "llama", "max_positions": 32, "num_kv_heads": 2, "mlp_size": 48},
    "t5": {"family": "t5", "num_encoder_layers": 4, "num_decoder_layers": 2, "mlp_size": 48},
}
SIZES = {"num_layers": 4, "num_heads": 4, "hidden_size": 32, "vocab_size": 97}
METHODS = [*tuning.METHODS, "prompt,ptuning", "lora,ia3,adapter,prefix,bitfit"]


def run_of(name="bert", **changes):
    model = MODELS[name] | SIZES
    if name == "t5":
        del model["num_layers"]
    return parse_run({
        "model": model, "steps": 8, "batch_size": 8, "data": {
            "source": "labelled", "path": "x", "sequence_length": 8,
        }, "objective": {"name": "text_classification"}, "mesh": {"data": 1},
        "optim": {"learning_rate": 1e-2, "warmup_steps": 0, "name": "adamw"},
    } | changes | {"tuning": {
        "head": {"outputs": 3}, "prompt": {"tokens": 3}, "prefix": {"tokens": 2},
        "ptuning": {"tokens": 4, "encoder": "lstm"},
    } | changes.get("tuning", {})})  # fmt: skip


def batch(seed=0):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, 9, 8)
    return {
        "tokens": rng.integers(5, 97, (8, 8), dtype=np.int32),
        "mask": (np.arange(8) < sizes[:, None]).astype(np.int32),
        "labels": rng.integers(0, 3, 8, dtype=np.int32),
        "weights": np.ones(8, np.float32),
        "example_ids": np.arange(8, dtype=np.int32),
    }


def trained(run, steps=3, devices=None, batch=batch):
    """The trainer, the first state, the last one and the losses."""
    trainer = make_trainer(run, devices)
    with jax.set_mesh(trainer.mesh):
        first = trainer.new_state()
        now, losses = jax.tree.map(jnp.copy, first), []
        for step in range(steps):
            placed = jax.device_put(batch(step), batch_sharding(trainer.mesh))
            now, metrics = trainer.train_step(now, placed)
            losses.append(float(metrics["loss"]))
    return trainer, first, now, losses


def by_path(tree):
    return dict(tuning.leaves(tree)) if tree else {}


@pytest.mark.parametrize("method", METHODS)
def test_what_trains_moves_and_the_rest_stays_bit_by_bit(method):
    trainer, first, now, losses = trained(run_of(method=method))
    for path, leaf in by_path(first.frozen).items():
        np.testing.assert_array_equal(leaf, by_path(now.frozen)[path], err_msg=path)
    for path, leaf in by_path(first.params).items():
        assert not np.array_equal(leaf, by_path(now.params)[path]), path
    whole = by_path(trainer.params(now))
    assert whole.keys() == by_path(trainer.model.abstract_params).keys()
    assert jax.tree.structure(now.opt_state) == jax.tree.structure(first.opt_state)
    moments = sum(leaf.size for leaf in jax.tree.leaves(now.opt_state) if leaf.ndim)
    assert moments == 2 * trainer.trained
    own = {path for path in by_path(first.params) if not path.startswith(("adapters", "task_head"))}
    if method == "full":
        assert first.frozen is None
    elif "bitfit" in method:
        assert own == {path for path in whole if path.endswith("/bias") and path in own}
        assert "layers/attention/query/bias" in own
    else:
        assert not own
    assert np.all(np.isfinite(losses))


# Virtual tokens change what the model sees.
@pytest.mark.parametrize("method", [m for m in METHODS if "p" not in m.replace("adapter", "")])
def test_the_first_loss_is_the_model_s_own(method):
    run = run_of(method=method)
    expected = trained(run_of(), steps=1)[3][0]
    assert trained(run, steps=1)[3][0] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ["llama", "t5"])
@pytest.mark.parametrize("method", ["lora", "prefix", "ptuning", "prompt"])
def test_what_is_added_reaches_the_loss_of_other_families(name, method):
    _, first, now, losses = trained(run_of(name, method=method), steps=2)
    for path, leaf in by_path(first.params).items():
        if "/decoder/" not in path:  # which no head reads
            assert not np.array_equal(leaf, by_path(now.params)[path]), path
    assert np.all(np.isfinite(losses))


def test_padding_is_no_part_of_a_text():
    for name, poolings in (("bert", ("first", "mean", "attention")), ("llama", ("last",))):
        for pooling in poolings:
            run = run_of(name, method="prompt", tuning={"head": {"outputs": 3, "pooling": pooling}})
            trainer = make_trainer(run)
            params = trainer.model.init(jax.random.key(1))
            given = batch()
            read = jax.jit(trainer.model.read)
            short = read(params, given["tokens"][:1, :5], np.ones((1, 5), np.int32))
            mask = (np.arange(8) < 5).astype(np.int32)[None]
            long = read(params, given["tokens"][:1], mask)
            assert relative_error(long, np.asarray(short)) < 1e-5, (name, pooling)
            other = read(params, given["tokens"][:1, :4], np.ones((1, 4), np.int32))
            assert relative_error(other, np.asarray(short)) > 1e-4, (name, pooling)


def test_the_first_layers_and_what_is_below_stay():
    trainer, first, now, _ = trained(run_of(tuning={"freeze_layers": 3}))
    before, after = by_path(trainer.params(first)), by_path(trainer.params(now))
    for path, leaf in before.items():
        if path.startswith("layers/"):
            np.testing.assert_array_equal(leaf[:3], after[path][:3], err_msg=path)
            assert not np.array_equal(leaf[3:], after[path][3:]), path
        elif path.startswith(("embedding/", "positions/")):
            np.testing.assert_array_equal(leaf, after[path], err_msg=path)
    moments = sum(leaf.size for leaf in jax.tree.leaves(now.opt_state) if leaf.ndim)
    assert moments == 2 * trainer.trained < 2 * sum(map(np.size, before.values()))
    # The step is that of the full model, but for what it leaves out.
    _, _, moved, _ = trained(run_of(), steps=1)
    one = trained(run_of(tuning={"freeze_layers": 3}), steps=1)
    got, want = by_path(one[0].params(one[2])), by_path(moved.params)
    path = "layers/mlp/up/kernel"
    clipped = relative_error(got[path][3], np.asarray(want[path][3]))
    assert clipped < 1e-2  # the gradient's norm, by which both are clipped, is another


def test_layers_begin_to_train_one_after_another():
    trainer = make_trainer(run_of(steps=12, tuning={"unfreeze_every": 2}))
    moved = {}
    with jax.set_mesh(trainer.mesh):
        now = trainer.new_state()
        for step in range(11):
            before = jax.tree.map(np.asarray, now.params)
            now, _ = trainer.train_step(now, batch(step))
            for path, leaf in by_path(now.params).items():
                changed = np.asarray(leaf) != by_path(before)[path]
                groups = changed if path.startswith("layers/") else [changed]
                for layer, one in enumerate(groups):
                    name = f"layer {layer}" if path.startswith("layers/") else path.split("/")[0]
                    if np.any(one):
                        moved.setdefault(name, step)
    assert [moved[f"layer {layer}"] for layer in range(4)] == [8, 6, 4, 2]
    assert moved["embedding"] == moved["positions"] == 10
    assert moved["task_head"] == 0


def test_top_layers_begin_anew():
    run = run_of(tuning={"new_layers": 1})
    trainer = make_trainer(run)
    base = make_trainer(dataclasses.replace(run, seed=9)).new_state().params
    own = {key: value for key, value in base.items() if key != "task_head"}
    params = by_path(trainer.new_state(own).params)
    for path, leaf in by_path(own).items():
        if path.endswith("kernel") and path.startswith("layers/"):
            np.testing.assert_array_equal(leaf[:3], params[path][:3])
            assert not np.array_equal(leaf[3], params[path][3])
            assert 0.8 < np.std(params[path][3]) / np.std(leaf[3]) < 1.25


def test_lora_plus_gives_b_a_larger_rate():
    for method, ratio in (("lora", 1), ("lora_plus", 16)):
        run = run_of(method=method, optim={"name": "sgd", "learning_rate": 1e-3, "clip_norm": 0.0})
        _, first, now, _ = trained(run, steps=1)
        before, after = by_path(first.params), by_path(now.params)
        path = "adapters/layers/attention/query/lora_b"
        step = after[path] - before[path]
        if ratio == 1:
            plain = step
    assert relative_error(step, 16 * np.asarray(plain)) < 1e-5


@pytest.mark.parametrize(
    "method",
    [m if m in ("lora", "prefix") else pytest.param(m, marks=pytest.mark.slow) for m in METHODS],
)
def test_a_mesh_computes_the_same(method):
    losses = trained(run_of(method=method), steps=4)[3]
    mesh = {"data": 2, "fsdp": 2, "tensor": 2}
    found = trained(run_of(method=method, mesh=mesh), steps=4)[3]
    np.testing.assert_allclose(found, losses, rtol=1e-5)


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_a_base_in_few_bits_is_small_and_near(name):
    plain, first, _, expected = trained(run_of(name, method="lora"))
    for base, most, near in (("nf4", 0.25, 2e-2), ("int8", 0.4, 2e-2)):
        run = run_of(name, method="lora", tuning={"base": base})
        trainer, begun, now, losses = trained(run)
        held, full = (sum(x.nbytes for x in jax.tree.leaves(s.frozen)) for s in (begun, first))
        assert held < most * full
        assert losses != expected
        np.testing.assert_allclose(losses, expected, rtol=near)
        for one, other in zip(jax.tree.leaves(begun.frozen), jax.tree.leaves(now.frozen)):
            np.testing.assert_array_equal(one, other)
        # The same numbers as the model whose weights were rounded beforehand.
        rounded = unpacked(jax.tree.map(lambda x: x, begun.frozen))
        whole = trainer.params(begun._replace(frozen=rounded))
        given = batch()
        read = jax.jit(plain.model.read)(whole, given["tokens"], given["mask"])
        packed = jax.jit(trainer.model.read)(trainer.params(begun), given["tokens"], given["mask"])
        assert relative_error(packed, np.asarray(read)) < 1e-6


@pytest.mark.parametrize("base", ["fp32", "nf4"])
def test_adapters_become_part_of_the_weights(base):
    run = run_of("llama", method="lora,ia3", tuning={"base": base})
    trainer, _, now, _ = trained(run)
    params = trainer.params(now)
    plain = models.build(run.model)
    tokens = batch()["tokens"]
    want = jax.jit(lambda params: trainer.model.hidden(params, tokens)[0])(params)
    found = jax.jit(lambda params: plain.hidden(params, tokens)[0])(tuning.merged(params, run))
    assert relative_error(found, np.asarray(want)) < 1e-5
    with pytest.raises(ConfigError, match="Prefix is not linear"):
        tuning.merged(params, run_of("llama", method="lora,prefix"))


@pytest.mark.parametrize("base", ["nf4", "int8"])
def test_a_base_in_few_bits_generates(base):
    run = run_of("llama", method="lora", tuning={"base": base})
    trainer, _, now, _ = trained(run)
    params, options = trainer.params(now), SamplingOptions(temperature=0.0, max_new_tokens=8)
    found, want = (
        Engine(model, params).generate([[3, 1, 4], [1, 5]], options)
        for model, params in (
            (trainer.model, params),
            (models.build(run.model), tuning.merged(params, run)),
        )
    )
    assert [one.tokens for one in found] == [one.tokens for one in want]


def test_what_was_unpacked_is_not_kept_for_the_backward_pass():
    trainer = make_trainer(run_of("llama", method="lora", tuning={"base": "nf4"}))
    target, key = trainer.target, jax.random.key(0)

    def backward(params, frozen):
        return jax.vjp(
            lambda params: trainer.loss(params, batch(), key, frozen=frozen)[0][0], params
        )[1]

    kept = jax.tree.leaves(jax.eval_shape(backward, target.params, target.frozen))
    shapes = {leaf.shape for leaf in kept if leaf.dtype == jnp.float32}
    kernels = {
        leaf.shape
        for path, leaf in by_path(trainer.model.abstract_params).items()
        if path.startswith("layers/") and path.endswith("kernel")
    }
    flat = {(layers, inner, size) for layers, inner, *rest in kernels for size in (32, 48)}
    assert kernels
    assert not shapes & (kernels | flat)


def test_a_base_in_few_bits_on_a_mesh():
    run = run_of("llama", method="lora", tuning={"base": "nf4"})
    losses = trained(run)[3]
    mesh = {"data": 2, "fsdp": 2, "tensor": 2}
    found = trained(dataclasses.replace(run, mesh=run_of(mesh=mesh).mesh))[3]
    np.testing.assert_allclose(found, losses, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tuning": {"base": "fp4"}}, "tuning.base is 'fp4': choose one of fp32, nf4, int8"),
        ({"tuning": {"base": "nf4", "freeze_layers": 1}}, "stay fp32"),
        ({"tuning": {"head": {"outputs": 0}}}, "tuning.head.outputs is 0"),
        ({"tuning": {"head": {"outputs": 3, "pooling": "none"}}}, "which is for tags"),
        ({"method": "lra"}, "config.method has 'lra': did you mean 'lora'"),
        ({"method": "full,lora"}, "full trains everything, give it alone"),
        ({"tuning": {"freeze": (".*",)}}, "nothing trains: config.method is 'full'"),
        ({"tuning": {"freeze": ("embeding/.*",)}}, "which no parameter matches"),
        ({"tuning": {"freeze": ("(",)}}, "no pattern"),
        ({"tuning": {"freeze_layers": 5}}, "tuning.freeze_layers is 5, and 4 layers train"),
        ({"tuning": {"freeze_layers": -1}}, "tuning.freeze_layers is -1"),
        ({"tuning": {"head": {"pooling": "max"}}}, "head.pooling is 'max'"),
        ({"method": "prefix", "tuning": {"prefix": {"tokens": 30}}}, "behind 30 virtual tokens"),
        ({"method": "lora", "tuning": {"lora": {"targets": "qwery"}}}, "is no layer of a bert"),
        (
            {"method": "lora_plus", "optim": {"learning_rate_table": ((".*", 1.0),)}},
            "optim.learning_rate_table is set",
        ),
    ],
)
def test_what_cannot_be_is_refused(changes, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        make_trainer(run_of(**changes))


def test_packed_rows_take_no_virtual_tokens():
    run = run_of("llama", method="prompt")
    model = make_trainer(run).model
    tokens = jnp.zeros((1, 4), jnp.int32)
    with pytest.raises(ConfigError, match="3 virtual tokens stand in front of a row"):
        model.hidden(model.abstract_params, tokens, segment_ids=tokens)
