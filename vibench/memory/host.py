"""Memory of the host while a CPU trains."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
MOST_MMAP_THRESHOLD = 32 * 2**20  # the largest that glibc takes


def keep_freed_memory() -> bool:
    """Let the C library keep what a training step frees, for the next step; True where it can.

    A step frees all its activations at its end. By default glibc gives them back to the kernel, which hands out zeroed
    pages again in the next step: thousands of page faults, 5 % of a small step (``benchmarks/loop.py``). The peak of
    the process stays the same.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library, musl for one
        return False
    return bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1) and mallopt(M_MMAP_THRESHOLD, MOST_MMAP_THRESHOLD))
