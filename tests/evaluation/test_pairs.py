import jax
import numpy as np
import pytest

from llm_jax import models
from llm_jax.data import DataConfig, load_tokenizer, open_split, prepare
from llm_jax.data.objectives import Pairs
from llm_jax.evaluation.pairs import word_f1, write_targets


@pytest.mark.parametrize(
    ("target", "text", "want"),
    [
        ("read_line", "readLine", 1.0),
        ("read_line", "read_file", 0.5),
        ("a a b", "a b b", 2 / 3),
        ("parse_HTTPHeader2", "header_2_http_parse", 1.0),
        ("get", "", 0.0),
        ("über_alles", "Über", 2 / 3),
    ],
)
def test_word_f1_by_hand(target, text, want):
    assert word_f1(target, text) == pytest.approx(want)


@pytest.mark.slow
def test_written_targets_are_the_models_own_and_are_counted(tmp_path):
    lines = [f"the number {n} is\tz{n % 3}" for n in range(300)]
    (tmp_path / "pairs.tsv").write_text("\n".join(lines))
    objective = Pairs(target_length=6)
    config = DataConfig(source="pairs", path=str(tmp_path / "pairs.tsv"), sequence_length=16)
    prepare(config, vocab_size=290, directory=tmp_path / "data", objective=objective)
    rows = open_split(tmp_path / "data", "validation", objective)
    tokenizer = load_tokenizer(tmp_path / "data")
    config = models.parse_config({
        "family": "seq2seq", "num_encoder_layers": 1, "num_decoder_layers": 1, "num_heads": 2,
        "hidden_size": 16, "mlp_size": 32, "vocab_size": 290, "eos_token_id": 2,
    })  # fmt: skip
    model = models.build(config)
    params = jax.jit(model.init)(jax.random.key(0))
    written, figures = write_targets(model, params, rows, tokenizer, batch_size=4)
    assert len(written) == len(rows)
    sources = {line.split("\t")[0]: line.split("\t")[1] for line in lines}
    assert all(sources[source] == target for source, target, _ in written)
    assert figures["exact_match"] == np.mean([a == b for _, a, b in written])

    # By hand, one token at a time from the whole of `forward`.
    batch, tokens = rows.take([0]), [0]
    for _ in range(objective.target_length):
        logits = models.forward(
            config, params, input_ids=batch["source"], attention_mask=batch["source_mask"],
            decoder_input_ids=np.array([tokens]),
        )["logits"]  # fmt: skip
        tokens.append(int(np.argmax(logits[0, -1])))
        if tokens[-1] == tokenizer.eos_id:
            break
    assert written[0][2] == tokenizer.decode(tokens[1:])
