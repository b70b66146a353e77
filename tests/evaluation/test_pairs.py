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


class Known:
    """Pairs of which every second one asks for what is given, or for its first token alone."""

    def __init__(self, rows, tokens):
        self._rows, self._tokens = rows, tokens
        self.target_length = rows.target_length

    def __len__(self):
        return len(self._rows)

    def take(self, indices, randoms=()):
        batch = self._rows.take(indices)
        for place, index in enumerate(indices):
            if index >= 0 and index % 2 == 0:
                tokens = self._tokens[index][: None if index % 4 else 1]
                batch["targets"][place, : len(tokens)] = tokens
                batch["weights"][place] = np.arange(self.target_length) < len(tokens)
        return batch


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

    @jax.jit
    def init():
        noise = iter(jax.random.split(jax.random.key(2), 100))
        params = model.init(jax.random.key(0))
        return jax.tree.map(lambda x: x + 0.3 * jax.random.normal(next(noise), x.shape), params)

    # By hand, one token at a time from the whole of `forward`: what stands behind is not seen.
    forward = jax.jit(lambda p, inputs: models.forward(config, p, **inputs)["logits"])
    batch = rows.take(np.arange(len(rows)))

    def write(params):
        tokens = np.zeros((len(rows), 1 + objective.target_length), np.int32)
        for place in range(objective.target_length):
            logits = forward(params, {
                "input_ids": batch["source"], "attention_mask": batch["source_mask"],
                "decoder_input_ids": tokens,
            })  # fmt: skip
            tokens[:, place + 1] = np.argmax(logits[:, place], axis=-1)
        return tokens[:, 1:]

    # Chance never writes EOS: it takes the place of a token that is written often.
    params = init()
    often = np.bincount(write(params)[:, 2]).argmax()
    table, bias = params["embedding"]["table"], params["logits_bias"]
    params["embedding"]["table"] = table.at[tokenizer.eos_id].set(table[often])
    params["logits_bias"] = bias.at[tokenizer.eos_id].set(bias[often] + 0.1)
    by_hand = []
    for row in write(params).tolist():
        end = row.index(tokenizer.eos_id) + 1 if tokenizer.eos_id in row else len(row)
        by_hand.append(row[:end])
    texts = [tokenizer.decode(row) for row in by_hand]
    assert len(set(texts)) > 2
    assert 0 < sum(len(row) < objective.target_length for row in by_hand) < len(rows)

    known = Known(rows, by_hand)
    written, figures = write_targets(model, params, known, tokenizer, batch_size=4)
    assert len(rows) % 4  # the last batch is filled up
    sources = dict(line.split("\t") for line in lines)
    assert [source for source, _, _ in written] == [
        tokenizer.decode(row[mask > 0].tolist())
        for row, mask in zip(batch["source"], batch["source_mask"])
    ]
    for index, (source, target, text) in enumerate(written):
        assert text == texts[index]
        first = tokenizer.decode(by_hand[index][:1])
        assert target == (first, sources[source], text, sources[source])[index % 4]
    right = [target == text for _, target, text in written]
    assert figures["exact_match"] == np.mean(right)
    assert 0 < np.mean(right) < 1
    f1 = [word_f1(target, text) for _, target, text in written]
    assert figures["word_f1"] == pytest.approx(np.mean(f1))
