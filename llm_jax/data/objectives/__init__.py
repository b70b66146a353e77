"""What a model learns from an example: each objective makes the arrays of a batch.

An objective is a frozen dataclass whose fields are the user's configuration. `kind` says what it
learns from ("text", "pairs", "labelled" or "images"). Those of text have `symbols` (special pieces
of the tokenizer), `record_length` (tokens of a stored row), `overlap` (how many of them begin the
next row again), `lengths` (static sizes of the arrays) and `batch`. All chance about an example
comes from its own generator, so that its arrays do not depend on its batch.
"""

from collections.abc import Mapping

from llm_jax.configuration import ConfigError, parse
from llm_jax.data.objectives.answers import Answers
from llm_jax.data.objectives.classification import Classification
from llm_jax.data.objectives.denoising import Denoising
from llm_jax.data.objectives.fill_in_the_middle import FillInTheMiddle
from llm_jax.data.objectives.masked_lm import MaskedLM
from llm_jax.data.objectives.masked_patches import MaskedPatches
from llm_jax.data.objectives.next_sentence import NextSentence
from llm_jax.data.objectives.next_token import NextToken
from llm_jax.data.objectives.pairs import Pairs
from llm_jax.data.objectives.span_corruption import SpanCorruption
from llm_jax.data.objectives.text_classification import TextClassification
from llm_jax.data.objectives.token_classification import TokenClassification
from llm_jax.data.objectives.vocabulary import Vocabulary

# By name.
OBJECTIVES: dict[str, type] = {
    objective.name: objective
    for objective in (
        NextToken,
        FillInTheMiddle,
        MaskedLM,
        NextSentence,
        SpanCorruption,
        Denoising,
        Pairs,
        Answers,
        TextClassification,
        TokenClassification,
        Classification,
        MaskedPatches,
    )
}


def parse_objective(mapping: Mapping):
    """Returns the objective that `mapping` describes; its key `name` is "next_token" by default.

    Raises:
      ConfigError: an unknown name or key, a wrong type, or a value that the objective refuses.
    """
    name = mapping.get("name", NextToken.name)
    if name not in OBJECTIVES:
        raise ConfigError(f"objective.name is {name!r}: choose one of {', '.join(OBJECTIVES)}")
    return parse(OBJECTIVES[name], mapping, "objective")
