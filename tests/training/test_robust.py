"""Robust training in the step: off it is not there, and no split of a batch changes it."""

import jax
import numpy as np
import pytest

from llm_jax.models import FAMILIES
from llm_jax.training.trainer import make_trainer
from tests.training.test_tuning import MODELS, batch, run_of, trained

ROBUST = {"adversarial": "freelb", "steps": 2, "r_drop": 0.5}
WHOLE = {
    "bert": MODELS["bert"] | {"num_layers": 1},
    "gpt2": {"family": "gpt2", "max_positions": 32, "num_layers": 1},
    "llama": MODELS["llama"] | {"num_layers": 1},
    "mixtral": {"family": "mixtral", "max_positions": 32, "num_layers": 1, "num_kv_heads": 2,
                "mlp_size": 48},
    "t5": {"family": "t5", "num_encoder_layers": 1, "num_decoder_layers": 1, "mlp_size": 48},
    "bart": {"family": "bart", "num_encoder_layers": 1, "num_decoder_layers": 1},
    "seq2seq": {"family": "seq2seq", "num_encoder_layers": 1, "num_decoder_layers": 1},
}  # fmt: skip
SIZES = {"num_heads": 4, "hidden_size": 32, "vocab_size": 97}


def quick(name):
    return name if name in ("bert", "llama") else pytest.param(name, marks=pytest.mark.slow)


@pytest.mark.parametrize("name", map(quick, WHOLE))
def test_a_perturbation_is_as_if_the_table_had_other_vectors(name):
    model = WHOLE[name] | SIZES
    assert model["family"] in FAMILIES
    run = run_of(model=model, method="prompt" if name == "bert" else "full")
    own = make_trainer(run).model
    params, given = own.init(jax.random.key(0)), batch()
    # Each place has a token of its own, so that its row of the table can move instead.
    tokens = np.arange(10, 18, dtype=np.int32)[None]
    mask = np.ones((1, 8), np.int32)
    moved = np.random.default_rng(0).normal(size=(1, 8, 32)).astype(np.float32)
    read = jax.jit(own.read)
    table = params["embedding"]["table"]
    other = params | {"embedding": {"table": table.at[tokens[0]].add(moved[0])}}
    got = read(params, tokens, mask, perturbation=moved)
    np.testing.assert_allclose(got, read(other, tokens, mask), rtol=1e-5, atol=1e-6)
    assert np.max(np.abs(got - read(params, tokens, mask))) > 1e-3
    np.testing.assert_array_equal(own.word_vectors(params, given["tokens"])[0, 0],
                                  table[given["tokens"][0, 0]])  # fmt: skip


def losses(steps=2, **changes):
    return trained(run_of(model=WHOLE["bert"] | SIZES, **changes), steps)[3]


def test_off_it_is_the_same_program():
    def program(**changes):
        trainer = make_trainer(run_of(model=WHOLE["bert"] | SIZES, **changes))
        with jax.set_mesh(trainer.mesh):
            return trainer.train_step.lower(trainer.target, batch()).as_text()

    plain = program()
    assert program(robust={"epsilon": 0.7, "steps": 9}) == plain
    assert program(robust={"adversarial": "fgm"}) != plain


@pytest.mark.parametrize(
    "section",
    [{}, {"mixing": 0.4}, {"r_drop": 0.5}, {"adversarial": "fgm"}, ROBUST],
    ids=["off", "mixing", "r_drop", "fgm", "freelb and r_drop"],
)
def test_a_step_reports_the_parts_that_the_section_names(section):
    run = run_of(model=WHOLE["bert"] | SIZES, robust=section)
    trainer = make_trainer(run)
    with jax.set_mesh(trainer.mesh):
        metrics = jax.eval_shape(trainer.train_step, trainer.target, batch())[1]
    usual = {"loss", "weight", "nll", "accuracy", "learning_rate", "gradient_norm", "skipped",
             "skipped_in_a_row"}  # fmt: skip
    assert metrics.keys() - usual == set(run.robust.sums)


@pytest.mark.parametrize(
    "own",
    [
        {"adversarial": "freelb", "steps": 2},
        *(
            pytest.param(one, marks=pytest.mark.slow)
            for one in (
                {"adversarial": "fgm"},
                {"adversarial": "pgd", "steps": 2},
                {"adversarial": "vat", "steps": 2},
                {"r_drop": 0.5},
            )
        ),
    ],
    ids=lambda own: own.get("adversarial", "r_drop"),
)
def test_accumulation_changes_nothing(own):
    whole = losses(1, robust=own)
    np.testing.assert_allclose(losses(1, robust=own, accumulation=2), whole, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("robust", [ROBUST, {"mixing": 0.4}, {"adversarial": "vat", "steps": 1}])
def test_any_mesh_gives_the_same_losses(robust):
    mesh = {"data": 2, "fsdp": 2, "tensor": 2}
    np.testing.assert_allclose(losses(robust=robust, mesh=mesh), losses(robust=robust), rtol=1e-5)
