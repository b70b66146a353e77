"""Writing array_record files: a full disk is an error of the system here as for any other file."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def record_writer(path: Path, options: str = "group_size:1,uncompressed") -> Iterator:
    """Gives array_record's writer of the file at `path`, and closes it.

    Raises:
      OSError: there is no room. array_record raises RuntimeError, and may do so only when it is
        closed.
    """
    from array_record.python import array_record_module

    # More chunks in flight than one take memory and, records being small, no less time.
    writer = array_record_module.ArrayRecordWriter(str(path), f"{options},max_parallelism:1")
    try:
        yield writer
        writer.close()
    except RuntimeError as error:
        if os.strerror(errno.ENOSPC) not in str(error):
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
