"""Memory that is taken and freed again in large pieces, batch after batch."""

from __future__ import annotations

_LARGEST = 31 << 20  # bytes; larger ones change nothing


def keep_freed_memory() -> None:
    """Let each thread of this process keep up to 62 MiB that it freed, for what it takes next.

    Otherwise all pages of a batch go back to the system and are cleared and mapped anew for the next one, which takes
    longer than reading a patch. glibc keeps twice the largest block that was freed so far (`man 3 mallopt`, under
    M_MMAP_THRESHOLD), so one is taken and freed, untouched. Elsewhere that does nothing.
    """
    bytes(_LARGEST)
