import random

import pytest

from llm_jax.data import DataConfig, prepare

WORDS = [
    "alpha",
    "beta",
    "gamma",
    "delta",
    "return",
    "yield",
    "import",
    "lambda",
    "café",
    "日本",
    "😀",
]


def write_texts(directory, *, files=40, seed=0, lines=30):
    draw = random.Random(seed)
    for index in range(files):
        path = directory / f"part{index % 3}" / f"text{index:02}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(
            " " * (4 * draw.randrange(3)) + " ".join(draw.choices(WORDS, k=6)) + "\n"
            for _ in range(draw.randrange(1, lines))
        )
        path.write_bytes(text.encode())
    return directory


@pytest.fixture(scope="session")
def texts(tmp_path_factory):
    return write_texts(tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="session")
def config(texts):
    return DataConfig(source="text", path=str(texts), sequence_length=32)


@pytest.fixture(scope="session")
def prepared(config, tmp_path_factory):
    directory = tmp_path_factory.mktemp("work") / "data"
    prepare(config, vocab_size=400, directory=directory)
    return directory
