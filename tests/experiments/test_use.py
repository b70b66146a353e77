"""What a trained work directory is used for: evaluate, generate, benchmark."""

import pytest

from tests.experiments.conftest import result, run


def test_evaluate_gives_the_loss_that_training_ended_with(trained):
    workdir, outcome, _ = trained
    scores = result(run("evaluate", f"--workdir={workdir}", "--split=validation", "--batch_size=8"))
    assert abs(scores["loss"] - outcome["loss"]) < 1e-6 * outcome["loss"]
    assert {"loss", "perplexity", "bits_per_byte", "tokens", "bytes"} <= set(scores)
    assert scores["tokens"] == outcome["tokens"]
    assert scores["bytes"] == outcome["bytes"]


@pytest.mark.slow
def test_generate_gives_the_best_beams_and_writes_ahead(trained):
    workdir, _, _ = trained
    flags = (f"--workdir={workdir}", "--prompt=def ", "--max_new_tokens=12")
    found = result(run("generate", *flags, "--num_beams=3", "--num_samples=2"))["samples"]
    assert [sample["prompt"] for sample in found] == ["def "] * 2
    assert found[0]["score"] > found[1]["score"]
    greedy = ("--temperature=0", "--nostream")
    plain = result(run("generate", *flags, *greedy))
    ahead = result(run("generate", *flags, *greedy, "--draft=lookup", "--draft_tokens=2"))
    assert ahead["samples"] == plain["samples"]
    assert ahead["timing"]["drafted_tokens"] > 0


def letters(text):
    return "".join(character for character in text if character.isalnum() and character.isascii())


def test_generate_streams_text_and_ends_with_json(trained):
    workdir, _, _ = trained
    flags = (f"--workdir={workdir}", "--prompt=def ", "--num_samples=2", "--seed=1",
             "--temperature=0.8", "--top_p=0.95", "--max_new_tokens=12")  # fmt: skip
    done = run("generate", *flags)
    samples = result(done)["samples"]
    assert len(samples) == 2
    assert all(sample["prompt"] == "def " for sample in samples)
    shown = letters("".join(done.stdout.splitlines()[:-1]))
    assert all(letters(sample["text"]) in shown for sample in samples)
    alone = result(run("generate", *flags, "--batch_size=1", "--nostream"))["samples"]
    assert [sample["text"] for sample in alone] == [sample["text"] for sample in samples]


@pytest.mark.parametrize(
    ("name", "flags", "words"),
    [
        ("generate", ("--temperature=-1",), "temperature is -1.0"),
        ("generate", ("--step=7",), "no checkpoint of step 7"),
        ("generate", ("--chat", "--prompt=Hi"), "was trained without a chat template"),
        ("generate", ("--num_beams=2", "--top_k=5"), "--top_k and --num_beams do not go"),
        ("generate", ("--length_penalty=2",), "--length_penalty is for beam search"),
        ("generate", ("--draft_tokens=2",), "give --draft=lookup or a path"),
        ("generate", ("--draft=lookup",), "set temperature=0"),
        ("evaluate", ("--split=test",), "split is 'test'"),
        ("evaluate", ("--workdir=/nowhere",), "/nowhere holds no checkpoint"),
    ],
)
def test_bad_input_is_one_line(trained, name, flags, words):
    workdir, _, _ = trained
    done = run(name, f"--workdir={workdir}", *flags, check=False)
    assert done.returncode == 2
    assert words in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_benchmark_with_a_peer_reports_every_key():
    pytest.importorskip("transformers")
    figures = result(
        run(
            "benchmark", "--config=configs/gpt_quickstart.py:tiny", "--peer=transformers",
            "--rounds=4",
        )
    )  # fmt: skip
    assert {
        "tokens_per_second", "step_seconds", "mfu", "matmul_peak_flops", "compile_seconds",
        "peak_bytes", "loop_overhead", "peer_tokens_per_second", "ratio",
    } <= set(figures)  # fmt: skip
    assert figures["tokens_per_second"] == pytest.approx(8 * 64 / figures["step_seconds"])
    assert figures["ratio"] == pytest.approx(
        figures["tokens_per_second"] / figures["peer_tokens_per_second"]
    )
    assert 0 < figures["mfu"] < 1
