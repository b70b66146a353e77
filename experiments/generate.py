r"""Continues prompts with a trained model; the text appears as it is made.

  python -m experiments.generate --workdir=runs/a --prompt="def " --num_samples=3 \
      --temperature=0.8 --top_p=0.95 --seed=1

How a token is chosen: --temperature divides the logits (0 is greedy: always the likeliest token),
then --top_k, --top_p and --min_p rule out unlikely tokens, each on what the one before it left.
--repetition_penalty above 1 weakens what the prompt and the text so far have used.

When a text ends: at the model's end-of-document token ("eos"), where a --stop string would begin
("stop"), or after --max_new_tokens, at the latest at the model's last position ("length").

More than one text: --prompt and --stop may be given several times; each prompt is continued
--num_samples times. All are computed together and shown one after the other. In a shell,
--stop=$'\n\n' is an empty line, and --prompt="$(cat FILE)" a file.

Repeatable: a text depends on --seed, its number and the settings, not on what else is in the
batch (in float32). --step takes the newest checkpoint ("last"), the one with the lowest validation
loss ("best"), or a number.

Models of others: --init_from=PATH takes a Hugging Face folder or a llama-type *.gguf in place of
--workdir, and --chat puts each prompt into the model's chat template.

The last line of stdout is one JSON object: samples (prompt, text, tokens, finish_reason),
tokens_per_second (behind the second token, so without compilation), seconds and step.
"""

import dataclasses
import sys
import time

from absl import flags

from experiments import entry
from llm_jax import interop, models
from llm_jax.configuration import ConfigError
from llm_jax.data import PretrainedTokenizer, load_tokenizer
from llm_jax.generation import Engine, SamplingOptions
from llm_jax.training.restore import load_model

flags.adopt_module_key_flags(entry)
WORKDIR = flags.DEFINE_string("workdir", None, "Work directory of the training run.")
INIT_FROM = flags.DEFINE_string(
    "init_from", "", "In place of a work directory: a Hugging Face folder or a llama-type *.gguf."
)
CHAT = flags.DEFINE_bool("chat", False, "Take each prompt as a user's turn, by the chat template.")
STEP = flags.DEFINE_string("step", "last", "Which checkpoint: last, best, or its step.")
PROMPT = flags.DEFINE_multi_string("prompt", [""], "Text to continue; give it again for more.")
NUM_SAMPLES = flags.DEFINE_integer("num_samples", 1, "Continuations of each prompt.")
TEMPERATURE = flags.DEFINE_float("temperature", 1.0, "Divides the logits; 0 is greedy.")
TOP_K = flags.DEFINE_integer("top_k", 0, "Keep the k likeliest tokens; 0 keeps all.")
TOP_P = flags.DEFINE_float("top_p", 1.0, "Keep the likeliest tokens that together reach this.")
MIN_P = flags.DEFINE_float("min_p", 0.0, "Keep tokens this fraction as likely as the likeliest.")
REPETITION_PENALTY = flags.DEFINE_float("repetition_penalty", 1.0, "1 is off.")
MAX_NEW_TOKENS = flags.DEFINE_integer("max_new_tokens", 128, "The most tokens of one text.")
STOP = flags.DEFINE_multi_string("stop", [], "Text to end before; give it again for more.")
SEED = flags.DEFINE_integer("seed", 0, "Of the draws.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Texts computed together.")
STREAM = flags.DEFINE_bool("stream", True, "Show the text while it is made.")


# What a model makes up may hold control characters; a terminal is shown their symbols instead.
_SYMBOLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"}
_SYMBOLS |= {0x7F: 0x2421} | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)


class Display:
    """Shows texts one after the other, the first unfinished one as it grows."""

    def __init__(self, prompts: list[str]):
        self._prompts = prompts
        self._waiting = [""] * len(prompts)
        self._ended = [False] * len(prompts)
        self._row = -1
        self._next()

    def on_token(self, row: int, text: str) -> None:
        """Takes a piece of a row's text."""
        if row == self._row:
            self._write(text)
        else:
            self._waiting[row] += text

    def on_end(self, row: int) -> None:
        """Ends a row; what is ready behind it follows."""
        self._ended[row] = True
        while self._row < len(self._ended) and self._ended[self._row]:
            self._write("\n")
            self._next()

    def _next(self) -> None:
        self._row += 1
        if self._row < len(self._prompts):
            if len(self._prompts) > 1:
                self._write(f"--- {self._row + 1} of {len(self._prompts)} ---\n")
            self._write(self._prompts[self._row] + self._waiting[self._row])

    def _write(self, text: str) -> None:
        sys.stdout.write(text.translate(_SYMBOLS))
        sys.stdout.flush()


def main() -> dict:
    """Runs the experiment; returns the result that is printed in JSON."""
    options = SamplingOptions(
        temperature=TEMPERATURE.value,
        top_k=TOP_K.value,
        top_p=TOP_P.value,
        min_p=MIN_P.value,
        repetition_penalty=REPETITION_PENALTY.value,
        max_new_tokens=MAX_NEW_TOKENS.value,
    )
    if NUM_SAMPLES.value < 1:
        raise ConfigError(f"num_samples is {NUM_SAMPLES.value}: give 1 or more")
    step = int(STEP.value) if STEP.value.isdigit() else STEP.value
    if INIT_FROM.value:
        config, params = interop.load_pretrained(INIT_FROM.value)
        model, tokenizer = models.build(config), interop.load_tokenizer(INIT_FROM.value)
        step, source = 0, INIT_FROM.value
    else:
        restored = load_model(entry.required(WORKDIR), step)
        model, params, step = restored.model, restored.params, restored.step
        tokenizer, source = load_tokenizer(restored.tokenizer_path), WORKDIR.value
    print(f"step {step} of {source}, {options}", file=sys.stderr)

    prompts = [prompt for prompt in PROMPT.value for _ in range(NUM_SAMPLES.value)]
    if CHAT.value:
        if not isinstance(tokenizer, PretrainedTokenizer):
            raise ConfigError(f"--chat: {source} was trained without a chat template; leave it out")
        chats = [tokenizer.render_chat([{"role": "user", "content": text}]) for text in prompts]
        tokens = [tokenizer.encode(chat, add_special_tokens=False) for chat in chats]
    else:
        tokens = [tokenizer.encode_prompt(prompt) for prompt in prompts]
    engine = Engine(model, params, tokenizer, batch_size=BATCH_SIZE.value)
    display = Display(prompts) if STREAM.value else None
    began = time.perf_counter()
    results = engine.generate(
        tokens,
        options,
        seed=SEED.value,
        stop=STOP.value,
        on_token=display and display.on_token,
        on_end=display and display.on_end,
    )
    seconds = time.perf_counter() - began
    return {
        "samples": [
            {
                "prompt": prompt,
                "text": result.text,
                "tokens": len(result.tokens),
                "finish_reason": result.finish_reason,
            }
            for prompt, result in zip(prompts, results)
        ],
        "tokens_per_second": engine.timing.tokens_per_second,
        "seconds": seconds,
        "timing": dataclasses.asdict(engine.timing),
        "step": step,
    }


if __name__ == "__main__":
    entry.launch(main)
