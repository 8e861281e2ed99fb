"""What glibc does with memory that is freed: batches want it kept for the next one, large arrays given back."""

from __future__ import annotations

import ctypes
from contextlib import suppress

_LARGEST = 31 << 20  # bytes; larger ones change nothing
_M_MMAP_THRESHOLD = -3  # from malloc.h


def keep_freed_memory() -> None:
    """Let each thread of this process keep up to 62 MiB that it freed, for what it takes next.

    Otherwise all pages of a batch go back to the system and are cleared and mapped anew for the next one, which takes
    longer than reading a patch. glibc keeps twice the largest block that was freed so far (`man 3 mallopt`, under
    M_MMAP_THRESHOLD), so one is taken and freed, untouched. Elsewhere, and after `return_freed_memory`, that does
    nothing.
    """
    bytes(_LARGEST)


def return_freed_memory() -> None:
    """Have large arrays go back to the system when they are freed, from now on.

    By itself glibc begins to keep them, and then holds twice as much as is in use: the same sizes come again and again,
    but never all at once.
    """
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 1 << 17)
