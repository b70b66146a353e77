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

Beam search: --num_beams=4 looks for the likeliest whole text and gives the --num_samples best;
1 beam is greedy. --length_penalty, --early_stopping (no, yes, never), and --num_beam_groups with
--diversity_penalty go with it. An encoder-decoder (T5, BART, Marian) is always searched: its
prompt is the source.

Speculative decoding: --draft=lookup guesses --draft_tokens from the text so far, --draft=PATH with
a smaller model of the same vocabulary. It needs --temperature=0, and changes nothing but the time.

Models of others: --init_from=PATH takes a Hugging Face folder or a llama-type *.gguf in place of
--workdir, and --chat puts each prompt into the model's chat template.

The last line of stdout is one JSON object: samples (prompt, text, tokens, finish_reason; score of
a search), tokens_per_second (behind the second token, so without compilation), seconds, step.
"""

import dataclasses
import sys
import time

from absl import flags

from experiments import entry
from llm_jax import interop, models
from llm_jax.configuration import ConfigError
from llm_jax.data import PretrainedTokenizer, load_tokenizer
from llm_jax.generation import Draft, Engine, SamplingOptions
from llm_jax.generation.beam import BeamOptions
from llm_jax.generation.display import Display
from llm_jax.generation.search import search
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
NUM_BEAMS = flags.DEFINE_integer("num_beams", 0, "Beam search; 0 draws tokens instead.")
LENGTH_PENALTY = flags.DEFINE_float("length_penalty", 1.0, "Score: log-probability / length ** it.")
EARLY_STOPPING = flags.DEFINE_enum("early_stopping", "no", ["no", "yes", "never"], "Of the search.")
NUM_BEAM_GROUPS = flags.DEFINE_integer("num_beam_groups", 1, "Parts of the beams that differ.")
DIVERSITY_PENALTY = flags.DEFINE_float("diversity_penalty", 0.0, "For a token of another group.")
DRAFT = flags.DEFINE_string("draft", "", "Where guesses come from: lookup, or as --init_from.")
DRAFT_TOKENS = flags.DEFINE_integer("draft_tokens", 4, "Guesses in a step.")
# What goes with drawing tokens one by one, and what with beams.
DRAWING = (TEMPERATURE, TOP_K, TOP_P, MIN_P, REPETITION_PENALTY)
NO_BEAMS = (*DRAWING, STOP, SEED, BATCH_SIZE, STREAM, DRAFT, DRAFT_TOKENS)
SEARCHING = (LENGTH_PENALTY, EARLY_STOPPING, NUM_BEAM_GROUPS, DIVERSITY_PENALTY)


def main() -> dict:
    """Runs the experiment; returns the result that is printed in JSON."""
    if NUM_SAMPLES.value < 1:
        raise ConfigError(f"num_samples is {NUM_SAMPLES.value}: give 1 or more")
    beams = NUM_BEAMS.value > 0
    if beams and NUM_SAMPLES.value > NUM_BEAMS.value:
        raise ConfigError(f"--num_samples={NUM_SAMPLES.value}: give at most --num_beams")
    wrong = [f"--{flag.name}" for flag in (NO_BEAMS if beams else SEARCHING) if flag.present]
    if wrong and beams:
        raise ConfigError(f"{', '.join(wrong)} and --num_beams do not go together: leave one out")
    if wrong:
        raise ConfigError(f"{', '.join(wrong)} is for beam search: give --num_beams, 1 or more")
    if DRAFT_TOKENS.present and not DRAFT.value:
        raise ConfigError("--draft_tokens is of a draft: give --draft=lookup or a path, too")
    drawn = {flag.name: flag.value for flag in (*DRAWING, MAX_NEW_TOKENS)}
    options = beam_options() if beams else SamplingOptions(**drawn)
    step = int(STEP.value) if STEP.value.isdigit() else STEP.value
    if INIT_FROM.value:
        config, params = interop.load_pretrained(INIT_FROM.value)
        model, tokenizer = models.build(config), interop.load_tokenizer(INIT_FROM.value)
        step, source = 0, INIT_FROM.value
    else:
        restored = load_model(entry.required(WORKDIR), step)
        model, params, step = restored.model, restored.params, restored.step
        tokenizer, source = load_tokenizer(restored.tokenizer_path), WORKDIR.value
    is_source = model.config.family in models.TEXT_TO_TEXT
    if is_source and not beams:
        raise ConfigError("an encoder-decoder is searched: give --num_beams (1 is greedy)")
    print(f"step {step} of {source}, {options}", file=sys.stderr)

    prompts = [p for p in PROMPT.value for _ in range(1 if beams else NUM_SAMPLES.value)]
    if CHAT.value:
        if not isinstance(tokenizer, PretrainedTokenizer):
            raise ConfigError(f"--chat: {source} was trained without a chat template; leave it out")
        chats = [tokenizer.render_chat([{"role": "user", "content": text}]) for text in prompts]
        tokens = [tokenizer.encode(chat, add_special_tokens=False) for chat in chats]
    else:
        encode = tokenizer.encode if is_source else tokenizer.encode_prompt
        tokens = [encode(prompt) for prompt in prompts]
    began, timing = time.perf_counter(), {}
    if beams:
        found = search(model, params, tokens, options, tokenizer=tokenizer)
        results = [one for row in found for one in row]
        prompts = [p for p, row in zip(prompts, found) for _ in row]
    else:
        draft = load_draft() if DRAFT.value else None
        engine = Engine(model, params, tokenizer, batch_size=BATCH_SIZE.value, draft=draft)
        display = Display(prompts) if STREAM.value else None
        shown = {"on_token": display.on_token, "on_end": display.on_end} if display else {}
        results = engine.generate(tokens, options, seed=SEED.value, stop=STOP.value, **shown)
        timing = {
            "tokens_per_second": engine.timing.tokens_per_second,
            "timing": dataclasses.asdict(engine.timing),
        }
    samples = [
        {"prompt": prompt, **dataclasses.asdict(one), "tokens": len(one.tokens)}
        for prompt, one in zip(prompts, results)
    ]
    return {"samples": samples, **timing, "seconds": time.perf_counter() - began, "step": step}


def beam_options() -> BeamOptions:
    """Returns the flags of beam search."""
    return BeamOptions(
        num_beams=NUM_BEAMS.value,
        num_results=NUM_SAMPLES.value,
        max_new_tokens=MAX_NEW_TOKENS.value,
        length_penalty=LENGTH_PENALTY.value,
        early_stopping={"no": False, "yes": True}.get(EARLY_STOPPING.value, "never"),
        num_groups=NUM_BEAM_GROUPS.value,
        diversity_penalty=DIVERSITY_PENALTY.value,
    )


def load_draft() -> Draft:
    """Returns what --draft names."""
    if DRAFT.value == "lookup":
        return Draft(DRAFT_TOKENS.value)
    config, params = interop.load_pretrained(DRAFT.value)
    return Draft(DRAFT_TOKENS.value, models.build(config), params)


if __name__ == "__main__":
    entry.launch(main)
