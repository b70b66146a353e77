"""Where a batch comes from: sources, documents, tokenizer, packed rows, loader.

`prepare` once, then `open_split` and `batches`. TFDS and grain are imported when first needed.
"""

from llm_jax.data.config import DataConfig, TokenizerConfig
from llm_jax.data.loader import Rows, batches, eval_batches
from llm_jax.data.manifest import Manifest, load_manifest
from llm_jax.data.prepare import prepare
from llm_jax.data.rows import PairRows, TokenRows, open_split
from llm_jax.data.tokenizers import (
    PretrainedTokenizer,
    StreamDecoder,
    Tokenizer,
    load_tokenizer,
)
