"""Which module judges what a model says: of whole texts, or of the words in them."""

from llm_jax.evaluation import labels, tags


def judge_of(target: str):
    """Returns the module whose `outputs`, `judged`, `report` and `predict` fit labels of a target.

    Raises:
      ConfigError: tags, and no seqeval to judge them.
    """
    if target != "tags":
        return labels
    tags.seqeval()
    return tags
