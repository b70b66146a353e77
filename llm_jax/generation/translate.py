"""A trained encoder-decoder as a function from texts to texts."""

from collections.abc import Callable

from llm_jax.configuration import ConfigError
from llm_jax.generation.beam import BeamOptions
from llm_jax.generation.search import search
from llm_jax.models import TEXT_TO_TEXT


def translator(
    model,
    params,
    tokenizer,
    options: BeamOptions = BeamOptions(),
    *,
    prefix: str = "",
    batch_size: int = 16,
) -> Callable[[list[str]], list[str]]:
    """Returns a function that gives for each text the best hypothesis of a beam search.

    Args:
      model: a `llm_jax.models.Model` of T5, BART, Marian or our own encoder-decoder.
      params: its parameters.
      tokenizer: with `encode`, `decode`, `vocab_size` and `eos_id`.
      options: of the search.
      prefix: before every text, e.g. T5's "translate English to German: ".
      batch_size: texts that are searched together.

    Raises:
      ConfigError: the family maps no texts to texts, or no batch.
    """
    family = model.config.family
    if family not in TEXT_TO_TEXT:
        raise ConfigError(
            f"model.family {family!r} translates nothing: give one of {', '.join(TEXT_TO_TEXT)}"
        )
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}: give 1 or more")

    def translate(texts: list[str]) -> list[str]:
        prompts = [tokenizer.encode(prefix + text) for text in texts]
        # Rows of like lengths have little padding.
        order = sorted(range(len(texts)), key=lambda place: len(prompts[place]))
        results = [""] * len(texts)
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            batch = [prompts[place] for place in places]
            found = search(model, params, batch, options, tokenizer=tokenizer)
            for place, row in zip(places, found):
                results[place] = row[0].text
        return results

    return translate
