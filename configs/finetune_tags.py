r"""Adapts someone's weights to tagged sentences of one's own: names, places, parts of speech.

Command:   python -m experiments.finetune --config=configs/finetune_tags.py:path/to/model \
               --config.data.path=train.conll --workdir=runs/tags
Hardware:  as the model asks for

The files have a word and its tag a line and an empty line behind each sentence (CoNLL), or are
`*.jsonl` with lists under `data.text` and `data.label`. All else is as in configs/finetune.py.
"""

from configs import finetune


def get_config(variant: str = ""):
    """Returns the configuration; `variant` is the path of the model."""
    config = finetune.get_config(variant, "token_classification")
    config.data.source = "tagged"
    config.data.text, config.data.label = "tokens", "tags"
    return config
