"""A run's configuration becomes the step that its parts would make by hand."""

import jax
import numpy as np
import pytest

from llm_jax.configuration import ConfigError
from llm_jax.losses.language_model import next_token_loss
from llm_jax.parallel.sharding import batch_sharding
from llm_jax.testing import random_batch, tiny_config
from llm_jax.training.run import parse_run
from llm_jax.training.trainer import make_trainer


def run_of(**changes):
    return parse_run({
        "model": tiny_config(num_layers=1, dropout_rate=0.2), "seed": 5, "steps": 8,
        "batch_size": 8, "data": {"sequence_length": 16}, "mesh": {"data": 1},
        "loss": {"label_smoothing": 0.1, "z_loss": 0.01},
    } | changes)  # fmt: skip


def test_seed_loss_and_dropout_reach_the_step():
    run = run_of()
    trainer = make_trainer(run)
    key = jax.random.key(run.seed)

    @jax.jit
    def by_hand(params, batch, step):
        (loss, weight), _ = next_token_loss(
            trainer.model, params, batch, config=run.loss, dropout_key=jax.random.fold_in(key, step)
        )
        return loss / weight

    with jax.set_mesh(trainer.mesh):
        now = trainer.new_state()
        for got, want in zip(
            jax.tree.leaves(now.params), jax.tree.leaves(jax.jit(trainer.model.init)(key))
        ):
            np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7)
        for step in range(2):
            batch = jax.device_put(random_batch(step), batch_sharding(trainer.mesh))
            want = by_hand(now.params, batch, step)
            now, metrics = trainer.train_step(now, batch)
            np.testing.assert_allclose(metrics["loss"], want, rtol=1e-6)


def test_accumulation_sees_a_part_of_the_batch_at_a_time():
    for parts in (1, 4):
        trainer = make_trainer(run_of(accumulation=parts))
        with jax.set_mesh(trainer.mesh):
            jaxpr = jax.make_jaxpr(trainer.train_step)(trainer.target, random_batch())
        # The model's hidden states: rows of a microbatch, tokens, width.
        assert (f"f32[{8 // parts},16,32]" in str(jaxpr), parts) == (True, parts)
        assert ("f32[8,16,32]" in str(jaxpr)) == (parts == 1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mesh": {"data": 8}, "batch_size": 4}, "batch_size 4 does not divide over 8"),
        ({"objective": {"name": "masked_lm"}}, "'masked_lm' trains bert, not"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        make_trainer(run_of(**changes))
