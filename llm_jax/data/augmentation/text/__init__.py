"""More texts of the same meaning, or of the same class: operations, and `augment` to apply them."""

from llm_jax.data.augmentation.text.augment import Augmented, Example, augment
from llm_jax.data.augmentation.text.back_translation import BackTranslation
from llm_jax.data.augmentation.text.characters import CharacterNoise
from llm_jax.data.augmentation.text.cilin import Cilin
from llm_jax.data.augmentation.text.edits import (
    RandomDeletion,
    RandomInsertion,
    RandomSwap,
    SynonymReplacement,
)
from llm_jax.data.augmentation.text.masked_model import MaskedReplacement
from llm_jax.data.augmentation.text.mixing import Concatenation, SentenceMixing
from llm_jax.data.augmentation.text.wordnet import WordNet
