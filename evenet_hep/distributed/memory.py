"""How a process keeps the memory that it has freed.

Dask's nannies start workers with ``MALLOC_TRIM_THRESHOLD_=65536``: a C library that obeys it gives every large block
back to the system at once, and asks for it again, page by page, in the next layer of a network. That doubles the time
of a small one. A worker that scores events keeps 256 MiB instead, and gives them back when it stops.
"""

from __future__ import annotations

import ctypes
import sys

KEPT = 256 * 2**20  # bytes of free memory that a process keeps
_LARGEST_IN_HEAP = 32 * 2**20  # bytes of a block; glibc takes no more
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # names of options in malloc.h


def keep_freed_memory() -> bool:
    """Let this process use the memory of one layer for the next; False where the C library is not glibc.

    Examples
    --------
    >>> import sys
    >>> keep_freed_memory() or not sys.platform.startswith("linux")
    True
    """
    mallopt = _function("mallopt")
    if mallopt is None:
        return False
    mallopt(_M_ARENA_MAX, 1)  # another thread's own heap ends at 64 MiB and is always given back
    is_set = mallopt(_M_MMAP_THRESHOLD, _LARGEST_IN_HEAP) and mallopt(_M_TRIM_THRESHOLD, KEPT)
    return bool(is_set)


def give_back_memory() -> None:
    """Give the free memory of this process back to the system."""
    if (malloc_trim := _function("malloc_trim")) is not None:
        malloc_trim(0)


def _function(name: str) -> ctypes._NamedFuncPointer | None:
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), name, None)  # musl has neither
