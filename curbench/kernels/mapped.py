"""Arrays in files: reading a memory-mapped one that is larger than memory, part by part.

What was read of a mapping stays in the process until the system needs the memory. Giving it back in time leaves the
decision to the page cache, and other processes alone. Only mappings that are shared with their file are given back: a
private one may hold changes of its own, and the system takes what it can of those by itself.
"""

import ctypes
import mmap
import os
from typing import NamedTuple

from curbench.kernels.contract import require, whole_number


class Span(NamedTuple):
    """Bytes in memory."""

    address: int
    size: int

    def give_back(self) -> None:
        """Drops the pages of a shared mapping from this process; reading brings them again."""
        page = mmap.PAGESIZE
        start = self.address // page * page
        size = self.address + self.size - start
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), mmap.MADV_DONTNEED)

    def shared_with_file(self) -> bool:
        """Whether all of it lies in one such mapping. False where /proc does not tell, as outside of Linux."""
        try:
            with open("/proc/self/maps") as maps:
                regions = [line.split(maxsplit=2)[:2] for line in maps]
        except FileNotFoundError:
            return False
        for bounds, permissions in regions:
            low, high = (int(bound, 16) for bound in bounds.split("-"))
            if low <= self.address < high:
                return permissions.endswith("s") and self.address + self.size <= high
        return False


def resident_limit(resident_bytes: int | None) -> int:
    """A quarter of the machine's memory unless given."""
    if resident_bytes is None:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4
    whole_number("resident_bytes", resident_bytes)
    require(resident_bytes >= 1, f"resident_bytes must be at least 1; got {resident_bytes!r}")
    return int(resident_bytes)
