"""A run that was killed anywhere, or had no room, goes on to the bytes of one that was not."""

import errno
import os
import subprocess
import sys

import pytest

from llm_jax.data.pipeline import parts, report, run
from tests.data.pipeline.test_run import clean, files_in, raw, small_parts  # noqa: F401


def test_killed_anywhere_it_goes_on(raw, tmp_path, small_parts):  # noqa: F811
    clean(raw, tmp_path / "whole")
    whole = files_in(tmp_path / "whole")
    done = subprocess.run(
        [sys.executable, "-m", "tests.data.pipeline.killed", raw, tmp_path / "killed"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    places = done.stdout.split()
    assert len(places) == 12, done.stderr
    for place in places:
        assert files_in(tmp_path / "killed" / place) != whole
        clean(raw, tmp_path / "killed" / place)
        assert files_in(tmp_path / "killed" / place) == whole, place


@pytest.mark.parametrize(
    ("owner", "name"), [(parts.np, "save"), (run, "sha256_of"), (report, "_draw")]
)
def test_a_full_disk_leaves_what_the_next_run_goes_on_with(
    raw, tmp_path, small_parts, monkeypatch, owner, name  # noqa: F811
):  # fmt: skip
    clean(raw, tmp_path / "whole")

    def full(*arguments, **keywords):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a file")

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, full)
        with pytest.raises(OSError, match="No space left"):
            clean(raw, tmp_path / "run")
    assert not (tmp_path / "run" / "cleaned").exists()
    clean(raw, tmp_path / "run")
    assert files_in(tmp_path / "run") == files_in(tmp_path / "whole")
