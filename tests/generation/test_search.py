"""From prompts to texts by beams, for a decoder and an encoder-decoder, against transformers."""

import numpy as np
import pytest

from llm_jax import interop, models
from llm_jax.configuration import ConfigError
from llm_jax.generation.beam import BeamOptions
from llm_jax.generation.search import search

OPTIONS = BeamOptions(num_beams=3, num_results=2, max_new_tokens=8)


class Letters:
    """A token is a letter; the vocabulary is smaller than the model's."""

    vocab_size, eos_id = 26, 1

    @staticmethod
    def decode(tokens):
        return "".join(chr(97 + token) for token in tokens)


def network(kind, folder):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    if kind == "t5":
        config = transformers.T5Config(
            vocab_size=29, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4,
            decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
        )  # fmt: skip
        made = transformers.T5ForConditionalGeneration(config)
    else:
        config = transformers.GPT2Config(
            vocab_size=29, n_embd=32, n_layer=2, n_head=4, n_positions=32, bos_token_id=2,
            eos_token_id=1, pad_token_id=0,
        )  # fmt: skip
        made = transformers.GPT2LMHeadModel(config)
    made = made.float().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    made.save_pretrained(folder / "model")
    return made, *interop.load_pretrained(folder / "model")


@pytest.mark.parametrize("kind", ["t5", "gpt2"])
def test_texts_are_those_of_transformers(kind, tmp_path):
    torch = pytest.importorskip("torch")
    peer, config, params = network(kind, tmp_path)
    rng = np.random.default_rng(0)
    prompts = [rng.integers(2, 26, size).tolist() for size in (7, 4)]
    found = search(models.build(config), params, prompts, OPTIONS, tokenizer=Letters())
    forbidden = [[token] for token in range(26, 29)]
    for prompt, row in zip(prompts, found):
        out = peer.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            num_beams=3, num_return_sequences=2, max_new_tokens=8, do_sample=False,
            bad_words_ids=forbidden, renormalize_logits=True, pad_token_id=0,
            return_dict_in_generate=True, output_scores=True,
        )  # fmt: skip
        sequences = out.sequences[:, 1 if kind == "t5" else len(prompt) :].tolist()
        for one, expected, score in zip(row, sequences, out.sequences_scores, strict=True):
            ended = 1 in expected
            expected = expected[: expected.index(1)] if ended else expected
            assert list(one.tokens) == expected
            assert one.text == Letters.decode(expected)
            assert one.finish_reason == ("eos" if ended else "length")
            assert one.score == pytest.approx(float(score), abs=1e-4)


def test_what_cannot_be_searched_is_refused():
    def refused(config, prompts, words):
        model = models.build(models.parse_config(config))
        with pytest.raises(ConfigError, match=words):
            search(model, None, prompts, OPTIONS, tokenizer=Letters())

    refused({"family": "vit"}, [[1]], "model.family 'vit' writes no text")
    refused({"family": "t5"}, [[]], "needs a source text")
    refused({"family": "bart", "max_positions": 8}, [[1]], "give at most 7")
