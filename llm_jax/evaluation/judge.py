"""Which module judges what a model says: of whole texts, or of the words in them."""

from llm_jax.data import Manifest
from llm_jax.evaluation import labels, tags


def judge_of(manifest: Manifest):
    """Returns the module whose `outputs`, `judged`, `report` and `predict` fit labelled data."""
    return tags if manifest.inputs["target"] == "tags" else labels
