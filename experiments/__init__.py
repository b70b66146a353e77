"""Entry points: one absl main per task, each a short composition of library functions.

Importing this package, which `python -m experiments.NAME` does first, keeps the C heap: XLA's CPU
backend allocates every step's temporaries anew, and glibc would hand them back to the system and
fault them in again (measured: 189,000 page faults and 15% of a GPT step). It has to happen before
jax is imported. Set MALLOC_TRIM_THRESHOLD_ yourself and it is left alone.
"""

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # of glibc's malloc.h

if sys.platform == "linux" and "MALLOC_TRIM_THRESHOLD_" not in os.environ:
    _libc = ctypes.CDLL(None)
    if hasattr(_libc, "mallopt"):
        _libc.mallopt(_MMAP_MAX, 0)
        _libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        _libc.mallopt(_ARENA_MAX, 1)
