"""The quickstart's GPT on a mixture: Python's standard library, and more and more of your own text.

Command:   python -m experiments.pretrain --config=configs/gpt_mixture.py --workdir=runs/mixture \\
               --config.data.mixture.mine.path=DIR
Hardware:  two CPU cores; time and result as of the quickstart, and by your text

The report tells the held-out loss of each part. Other parts: copy this file.

Variant `tiny` trains in seconds: --config=configs/gpt_mixture.py:tiny
"""

from configs import gpt_quickstart


def get_config(variant: str = ""):
    """Returns the configuration; `variant` is "" or "tiny"."""
    config = gpt_quickstart.get_config(variant)
    config.data.source = "mixture"
    config.data.mixture = {
        "python": {"source": "stdlib"},
        # A fifth of the rows at first, half of them from the middle of the run on.
        "mine": {
            "source": "text",
            "path": "",
            "schedule": ((0, 0.25), (config.steps // 2, 1.0)),
        },
    }
    return config
