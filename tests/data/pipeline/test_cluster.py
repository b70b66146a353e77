"""A Ray cluster, a local one of two processors, leaves the bytes that this machine does."""

import sys

import pytest

from llm_jax.configuration import ConfigError
from llm_jax.data.pipeline import cluster as pipeline_cluster
from llm_jax.data.pipeline import parts, run
from llm_jax.data.pipeline.cluster import Cluster
from llm_jax.data.pipeline.config import Filtering
from llm_jax.data.readers import files_of
from tests.data.pipeline.test_run import clean, config_of, files_in, raw  # noqa: F401


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"needs Ray: pip install -e '.\[cluster\]'"):
        Cluster()


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield Cluster()
    ray.shutdown()


@pytest.mark.parametrize("blocks", [3, 4096])
def test_a_cluster_leaves_the_same_bytes(
    raw, tmp_path, cluster, monkeypatch, blocks  # noqa: F811
):  # fmt: skip
    monkeypatch.setattr(parts, "PART_BYTES", 1)
    assert len(parts.divide(files_of(raw))) == 70
    monkeypatch.setattr(pipeline_cluster, "_BLOCKS", blocks)
    clean(raw, tmp_path / "local")
    lines = []
    run.clean(config_of(raw), tmp_path / "ray", lines.append, cluster)
    assert files_in(tmp_path / "ray") == files_in(tmp_path / "local")
    assert lines[-1] == "60 documents without near-duplicates"


def test_what_a_task_refuses_reaches_the_user(raw, tmp_path, cluster):  # noqa: F811
    words = tmp_path / "words.txt"
    config = config_of(raw, filter=Filtering(words=(str(words),)))
    with pytest.raises(ConfigError, match="words.txt") as caught:
        run.clean(config, tmp_path / "run", print, cluster)
    assert "\n" not in str(caught.value)
