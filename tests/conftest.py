"""Every test sees eight emulated CPU devices and a persistent compilation cache.

XLA compiles as fast as it can, not for speed: a third of the whole suite's time.
"""

import os
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), "llm_jax_test_cache")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

from tests.processes import environment

os.environ.update(environment())

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture(autouse=True)
def default_matmul_precision():
    """No test computes under the precision policy that a run in an earlier one activated."""
    jax.config.update("jax_default_matmul_precision", None)


@pytest.fixture(autouse=True, scope="module")
def memory_stays_bounded():
    """Compiled programs of one file are of no use to the next; together they took 9 GB."""
    yield
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    if resident > 3 * 2**30:
        jax.clear_caches()


@pytest.fixture(scope="session")
def asset():
    """A function: a path below .cache/assets, which `make assets` fills; skips where it is not."""

    def find(name):
        path = Path(__file__).parents[1] / ".cache" / "assets" / name
        if not path.exists():
            pytest.skip(f"{name} is missing: make assets")
        return path

    return find
