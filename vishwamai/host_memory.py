"""How the C library of a Linux machine keeps the memory of programs on its processor."""

import ctypes

# Of glibc's <malloc.h>: one heap for all threads, no mapping of their own for large blocks, nothing given back.
_M_ARENA_MAX, _M_MMAP_MAX, _M_TRIM_THRESHOLD = -8, -4, -1
_KEEPING = ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1))


def keep_freed_memory() -> bool:
    """Has this process keep the memory that it frees, and returns whether it does: glibc alone can.

    A program on a CPU takes its temporary memory from the system at each call and gives it back, page by page; for a
    step of training that is a tenth of its time and more. Call it before JAX's first operation, whose threads take
    heaps of their own.
    """
    try:
        libc = ctypes.CDLL(None)
    except (OSError, TypeError):  # another system
        return False
    is_glibc = hasattr(libc, "gnu_get_libc_version")
    return is_glibc and all(libc.mallopt(name, value) for name, value in _KEEPING)
