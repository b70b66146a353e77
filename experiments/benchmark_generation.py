r"""Measures reading a prompt and writing behind it, greedy, one text at a time.

  python -m experiments.benchmark_generation --init_from=model.gguf --peer=transformers

--init_from is a Hugging Face folder or a llama-type *.gguf. The prompt is --prompt_tokens random
tokens; what is decoded stands behind --context_tokens of them. With --peer=transformers the same
is asked of `transformers.generate` in float32, a turn of one side after a turn of the other in the
same process, and the ratios are those of the medians. Both sides must write the same tokens:
`agree` says how many of the decoded ones are equal before the first that differs.

The last line of stdout is one JSON object: prefill_seconds (until the first new token is there),
tokens_per_second (behind the second token), weight_bytes_per_second (what decoding reads of the
weights), and with a peer peer_prefill_seconds, peer_tokens_per_second, prefill_ratio, decode_ratio
(above 1: this project is faster) and agree.
"""

import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from absl import flags

from experiments import entry, peers
from llm_jax import interop, models
from llm_jax.configuration import ConfigError
from llm_jax.generation import Engine, SamplingOptions

flags.adopt_module_key_flags(entry)
INIT_FROM = flags.DEFINE_string("init_from", None, "A Hugging Face folder or a llama-type *.gguf.")
PEER = flags.DEFINE_enum("peer", "", ["", "transformers"], "What to compare with in the same run.")
PROMPT_TOKENS = flags.DEFINE_integer("prompt_tokens", 512, "Of the prompt that is read.")
CONTEXT_TOKENS = flags.DEFINE_integer("context_tokens", 64, "In front of what is decoded.")
NEW_TOKENS = flags.DEFINE_integer("new_tokens", 64, "Decoded in a turn.")
ROUNDS = flags.DEFINE_integer("rounds", 5, "Timed turns of each side.")


def ours(model, params) -> Callable[[list[int], int], tuple[float, float, list[int]]]:
    """Returns `write(prompt, count) -> (seconds, tokens_per_second, tokens)` of the Engine."""
    engine = Engine(model, params, end_ids=())

    def write(prompt, count):
        began = time.perf_counter()
        options = SamplingOptions(temperature=0, max_new_tokens=count)
        (result,) = engine.generate([prompt], options)
        return time.perf_counter() - began, engine.timing.tokens_per_second, list(result.tokens)

    return write


def main() -> dict:
    """Runs the experiment; returns the result that is printed in JSON."""
    path = entry.required(INIT_FROM)
    if min(ROUNDS.value, PROMPT_TOKENS.value, CONTEXT_TOKENS.value) < 1 or NEW_TOKENS.value < 3:
        raise ConfigError("--rounds, --prompt_tokens and --context_tokens are 1 or more, new 3")
    config, params = interop.load_pretrained(path)
    models.require_decoder(config)
    model = models.build(config)
    sides = {"": ours(model, params)}
    if PEER.value:
        sides["peer_"] = peers.transformers_writer(Path(path))
    rng = np.random.default_rng(0)
    prompt = rng.integers(config.vocab_size, size=PROMPT_TOKENS.value).tolist()
    context = rng.integers(config.vocab_size, size=CONTEXT_TOKENS.value).tolist()
    prefill, rates, texts = ({side: [] for side in sides} for _ in range(3))
    for turn in range(ROUNDS.value + 1):  # the first compiles and warms up
        for side, write in sides.items():
            seconds, _, _ = write(prompt, 1)
            _, rate, texts[side] = write(context, NEW_TOKENS.value)
            if turn:
                prefill[side].append(seconds)
                rates[side].append(rate)
    result = {}
    for side in sides:
        result[f"{side}prefill_seconds"] = float(np.median(prefill[side]))
        result[f"{side}tokens_per_second"] = float(np.median(rates[side]))
    read = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    if not getattr(config, "tied_embeddings", True):
        read -= params["embedding"]["table"].nbytes  # of which a token reads one row
    result["weight_bytes_per_second"] = read * result["tokens_per_second"]
    if PEER.value:
        same = [a == b for a, b in zip(texts[""], texts["peer_"])]
        result["prefill_ratio"] = result["peer_prefill_seconds"] / result["prefill_seconds"]
        result["decode_ratio"] = result["tokens_per_second"] / result["peer_tokens_per_second"]
        result["agree"] = [*same, False].index(False)
    return result


if __name__ == "__main__":
    entry.launch(main)
