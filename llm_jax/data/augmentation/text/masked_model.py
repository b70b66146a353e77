"""Words replaced by what a masked language model would write there (Kobayashi 2018,
arXiv:1805.06201; by BERT: Wu et al. 2019, arXiv:1812.06705)."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.configuration import ConfigError
from llm_jax.data.augmentation.text.augment import Example
from llm_jax.data.augmentation.text.edits import at_least_one, check_share
from llm_jax.data.augmentation.text.words import is_han, join_words, split_words, with_case_of

_BATCH = 16


class MaskedReplacement:
    """Masks words and draws others from the model's likeliest, by their probabilities.

    All words of a text are masked together. Drawn are whole words of the vocabulary that are not
    the masked one, Chinese characters for Chinese ones. The model does not know the class: what
    it writes for "good" may be "bad", so keep `share` small where a word decides.
    """

    def __init__(self, model, params, tokenizer, *, share: float = 0.15, top_k: int = 10):
        """Prepares the vocabulary.

        Args:
          model: a `llm_jax.models.Model` of the BERT family with the masked-LM head.
          params: its parameters.
          tokenizer: the checkpoint's own, a `PretrainedTokenizer`.
          share: of a text's words that are replaced, at least one.
          top_k: how many words are drawn from; 1 takes the likeliest.

        Raises:
          ConfigError: a model without the head, a tokenizer without a mask, or numbers out of
            range.
        """
        config = model.config
        if getattr(config, "head", None) != "masked_lm":
            raise ConfigError(
                f"the {config.family} model has no masked-LM head: give a checkpoint of "
                "BertForMaskedLM, RobertaForMaskedLM or DistilBertForMaskedLM"
            )
        if "mask" not in tokenizer.special or "<mask>" not in tokenizer.symbols:
            raise ConfigError("the tokenizer has no mask token: give the one of the checkpoint")
        check_share(share)
        if top_k < 1:
            raise ConfigError(f"top_k is {top_k}: give 1 or more")
        self._params, self._tokenizer = params, tokenizer
        self._share, self._longest = share, config.longest
        self._words = _whole_words(tokenizer, config.vocab_size)
        whole = np.array([bool(word) for word in self._words])
        if whole.sum() <= top_k:
            raise ConfigError(f"top_k is {top_k}: give less than the {whole.sum()} whole words")
        self._top_k = top_k
        han = np.array([is_han(word) for word in self._words])
        allowed = jnp.array(np.stack([whole & ~han, whole & han]))
        self._likeliest = jax.jit(functools.partial(_likeliest, model, allowed, top_k + 1))

    def __call__(self, examples: Sequence[Example]) -> list[str]:
        """Returns the new texts.

        Raises:
          ConfigError: a text of more tokens than the model has positions.
        """
        masked = [self._mask(example) for example in examples]
        results = [example.text for example in examples]
        # Rows of like lengths together; a row's result does not depend on its neighbours.
        order = sorted(
            (i for i in range(len(masked)) if masked[i]), key=lambda i: len(masked[i][0])
        )
        for start in range(0, len(order), _BATCH):
            rows = order[start : start + _BATCH]
            logits, ids = self._read([masked[row] for row in rows])
            for row, own_logits, own_ids in zip(rows, logits, ids):
                results[row] = self._write(examples[row], masked[row], own_logits, own_ids)
        return results

    def _mask(self, example):
        """Returns token ids, the masked words' places, and the text's words and gaps."""
        words, gaps = split_words(example.text)
        if not words:
            return None
        count = at_least_one(self._share, words)
        places = np.sort(example.random.permutation(len(words))[:count]).tolist()
        parts = [""]
        for place, (gap, word) in enumerate(zip(gaps, words)):
            parts[-1] += gap
            if place in places:
                parts.append("")
            else:
                parts[-1] += word
        parts[-1] += gaps[-1]
        mark = self._tokenizer.special["mask"]
        # What reads like a mask in the text itself is none.
        text = mark.join(part.replace(mark, f"{mark[:1]} {mark[1:]}") for part in parts)
        ids = self._tokenizer.encode(text)
        if len(ids) > self._longest:
            raise ConfigError(
                f"a text has {len(ids)} tokens, the model {self._longest} positions: cut it "
                f"first; it begins {example.text[:40]!r}"
            )
        return ids, places, words, gaps

    def _read(self, masked):
        """Returns logits and ids of the likeliest words, each [rows, masks, top_k + 1]."""
        mask = self._tokenizer.symbols["<mask>"]
        length = min(_power_of_two(max(len(ids) for ids, *_ in masked)), self._longest)
        masks = _power_of_two(max(len(places) for _, places, *_ in masked))
        tokens = np.full((_BATCH, length), self._tokenizer.pad_id or 0, np.int32)
        real = np.zeros((_BATCH, length), np.int32)
        where = np.zeros((_BATCH, masks), np.int32)
        han = np.zeros((_BATCH, masks), np.int32)
        for row, (ids, places, words, _) in enumerate(masked):
            tokens[row, : len(ids)] = ids
            real[row, : len(ids)] = 1
            where[row, : len(places)] = np.flatnonzero(np.array(ids) == mask)
            han[row, : len(places)] = [is_han(words[place]) for place in places]
        return map(np.asarray, self._likeliest(self._params, tokens, real, where, han))

    def _write(self, example, masked, logits, ids) -> str:
        _, places, words, gaps = masked
        words = list(words)
        for place, own_logits, own_ids in zip(places, logits.astype(np.float64), ids.tolist()):
            others = [
                number
                for number, token in enumerate(own_ids)
                if self._words[token].lower() != words[place].lower()
                and np.isfinite(own_logits[number])
            ][: self._top_k]
            if not others:
                continue
            shares = np.exp(own_logits[others] - own_logits[others[0]])
            drawn = example.random.choice(len(others), p=shares / shares.sum())
            words[place] = with_case_of(self._words[own_ids[others[drawn]]], words[place])
        return join_words(words, gaps)


def _likeliest(model, allowed, count, params, tokens, real, where, han):
    outputs = model.apply(params, tokens, segment_ids=real)
    states = jnp.take_along_axis(outputs["transformed"], where[:, :, None], axis=1)
    logits = model.family.logits(model.config, params, states)
    return jax.lax.top_k(jnp.where(allowed[han], logits, -jnp.inf), count)


def _whole_words(tokenizer, vocab_size: int) -> list[str]:
    """Returns what each token stands for if it is one whole word, else an empty text."""
    found = [""] * vocab_size
    for number, piece in enumerate(tokenizer.pieces()[:vocab_size]):
        # A piece that begins a word has its space in front.
        text = piece.decode("utf-8", "replace")
        words, _ = split_words(text)
        if text.startswith(" ") and words == [text[1:]] and text[1:].isalpha():
            found[number] = text[1:]
    return found


def _power_of_two(size: int) -> int:
    return max(8, 1 << (size - 1).bit_length())
