import json

import jax
import numpy as np
import pytest

from llm_jax import models
from llm_jax.configuration import to_dict
from llm_jax.training.checkpoint import CheckpointError, Checkpoints
from llm_jax.training.restore import load_model
from tests.training.test_trainer import run_of


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Two checkpoints, filled with 1 and 2, of which the first is the best."""
    run, directory = run_of(), tmp_path_factory.mktemp("run")
    shapes = models.build(run.model).abstract_params
    files = {"config.json": json.dumps(to_dict(run)).encode()}
    checkpoints = Checkpoints(directory, files=files)
    for step, loss in ((1, 2.0), (2, 3.0)):
        params = jax.tree.map(lambda x, step=step: np.full(x.shape, step, x.dtype), shapes)
        checkpoints.save(step, {"params": params})
        checkpoints.wait()
        checkpoints.mark_best(step, loss)
    checkpoints.close()
    return directory


@pytest.mark.parametrize(("step", "got"), [(None, 2), ("last", 2), ("best", 1), (1, 1), (2, 2)])
def test_a_model_is_that_of_the_step_asked_for(workdir, step, got):
    restored = load_model(str(workdir), step)
    assert restored.step == got
    assert {float(x) for leaf in jax.tree.leaves(restored.params) for x in leaf.ravel()} == {got}
    assert restored.run == run_of()


def test_a_step_that_is_not_there_is_refused(workdir):
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 3: it has \[1, 2\]"):
        load_model(str(workdir), 3)


def test_a_damaged_checkpoint_is_not_read(workdir):
    config = next(workdir.rglob("00000002/config.json"))
    content = config.read_bytes()
    config.write_bytes(content.replace(b'"seed": 5', b'"seed": 6'))
    with pytest.raises(CheckpointError, match="config.json is not what was saved"):
        load_model(str(workdir))
    config.write_bytes(content)
