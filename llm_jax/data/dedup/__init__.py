"""Deduplication: exact, near (MinHash-LSH), repeated substrings; overlap with evaluation sets."""

from llm_jax.data.dedup.contamination import EvaluationIndex
from llm_jax.data.dedup.exact import content_hash, first_occurrences
from llm_jax.data.dedup.lsh import NearDuplicates, near_duplicates
from llm_jax.data.dedup.substrings import cut, repeated_spans
