from types import SimpleNamespace

import pytest

from llm_jax.evaluation import samples
from llm_jax.evaluation.samples import draw_samples, first_function
from llm_jax.testing import tiny_config
from llm_jax.training.run import parse_run

WRITTEN = [
    " f(x):\n    return x\n\nprint(1",
    " f(x:\n",
    " f():\n    pass\n# a comment\n    1\n@cached\n",
]


class Engine:
    """Writes what `WRITTEN` says, and notes what it was asked."""

    asked = []

    def __init__(self, model, params, tokenizer):
        pass

    def generate(self, prompts, options, *, seed):
        Engine.asked.append((prompts, options.top_p, seed))
        return [SimpleNamespace(text=WRITTEN[index % 3]) for index in range(len(prompts))]


@pytest.fixture
def draw(monkeypatch):
    Engine.asked.clear()
    monkeypatch.setattr(samples, "Engine", Engine)
    tokenizer = SimpleNamespace(encode_prompt=lambda text: [1, *map(ord, text)])
    monkeypatch.setattr(samples, "load_tokenizer", lambda directory: tokenizer)

    def draw(**sampling):
        run = parse_run(
            {
                "model": tiny_config(),
                "seed": 7,
                "sampling": sampling,
                "data": {"sequence_length": 16},
            }
        )
        return draw_samples(SimpleNamespace(), {}, run, "data", None)

    return draw


def test_functions_end_at_the_margin_and_those_that_parse_are_counted(draw):
    pairs, figures = draw(prompts=("def", "async def"), num_samples=3, top_p=0.5, python=True)
    assert [prompt for prompt, _ in pairs] == ["def"] * 3 + ["async def"] * 3
    ends = [" f(x):\n    return x\n", " f(x:\n", " f():\n    pass\n# a comment\n    1"]
    assert [text for _, text in pairs] == 2 * ends
    assert figures == {"parsed_share": 4 / 6}
    ((prompts, top_p, seed),) = Engine.asked
    assert (top_p, seed) == (0.5, 7)
    assert prompts[0] == [1, *map(ord, "def")]
    assert prompts[5] == [1, *map(ord, "async def")]


def test_other_texts_stay_whole(draw):
    assert draw(prompts=("def",), num_samples=2) == ([("def", text) for text in WRITTEN[:2]], {})
    assert draw(prompts=()) == ([], {})


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("def f():\n    1\n)\nx", "def f():\n    1\n)"),  # a bracket closes at the margin
        ("def f():\n\n    1\n\n", "def f():\n\n    1\n\n"),
        ("@a\ndef f(): 1", "@a"),
    ],
)
def test_what_is_at_the_margin_ends_a_function(text, rest):
    assert first_function(text) == rest
