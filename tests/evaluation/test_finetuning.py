"""What a fine-tuning run leaves behind, and when it counts as finished."""

import json

from llm_jax.evaluation.finetuning import finished


def test_a_result_is_that_of_its_number_of_steps(tmp_path):
    assert finished(str(tmp_path), 30) is None
    result = {"finished": True, "steps": 30, "step": 20}  # it ended early
    (tmp_path / "result.json").write_text(json.dumps(result))
    assert finished(str(tmp_path), 30) == result
    # The run goes on with more steps: what lies there is of the shorter one.
    assert finished(str(tmp_path), 60) is None
