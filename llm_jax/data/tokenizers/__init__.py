"""Tokenizers: text to token ids and back, exactly."""

from llm_jax.data.tokenizers.bpe import StreamDecoder, Tokenizer, load_tokenizer, train
