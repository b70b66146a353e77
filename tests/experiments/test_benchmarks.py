"""The benchmarks that others than pretraining have, at sizes that take seconds."""

import jax
import pytest

from llm_jax import interop, models
from tests.experiments.conftest import result, run

LLAMA = {
    "family": "llama", "num_layers": 2, "num_heads": 2, "hidden_size": 32, "mlp_size": 64,
    "vocab_size": 128, "max_positions": 64,
}  # fmt: skip


@pytest.mark.slow
def test_generation_is_compared_with_the_same_tokens(tmp_path):
    pytest.importorskip("transformers")
    config = models.parse_config(LLAMA)
    params = jax.jit(models.build(config).init)(jax.random.key(0))
    interop.save_pretrained(tmp_path / "model", config, params)
    outcome = result(
        run(
            "benchmark_generation", f"--init_from={tmp_path / 'model'}", "--peer=transformers",
            "--prompt_tokens=16", "--context_tokens=8", "--new_tokens=8", "--rounds=2",
        )
    )  # fmt: skip
    assert outcome["agree"] == 8
    rates = outcome["tokens_per_second"] / outcome["peer_tokens_per_second"]
    assert outcome["decode_ratio"] == pytest.approx(rates)
    assert outcome["prefill_ratio"] > 0


@pytest.mark.slow
def test_attention_is_measured_and_what_is_too_large_is_left_out(tmp_path):
    outcome = result(
        run(
            "benchmark_attention", "--lengths=64,128", "--heads=2", "--window=32",
            "--memory_gib=0.0005", f"--picture={tmp_path / 'picture.png'}",
        )
    )  # fmt: skip
    rows = {(row["attention"], row["length"], row["backward"]): row for row in outcome["rows"]}
    assert "left_out" in rows["plain", 128, True]
    assert rows["linear", 64, False]["seconds"] > 0
    assert (tmp_path / "picture.png").stat().st_size > 1000
