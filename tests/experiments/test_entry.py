import errno

import pytest
from absl import flags

from experiments import entry


def test_a_full_disk_is_one_line(monkeypatch, capsys):
    def full():
        raise OSError(errno.ENOSPC, "No space left on device", "runs/a/metrics.csv")

    def broken():
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("sys.argv", ["pretrain"])
    monkeypatch.setattr(entry, "_parse_flags", lambda: flags.FLAGS(["pretrain"]))
    assert entry._run(full) == 2
    message = capsys.readouterr().err
    assert "no room to write runs/a/metrics.csv" in message
    assert message.count("\n") == 1
    with pytest.raises(OSError, match="Input/output"):
        entry._run(broken)
