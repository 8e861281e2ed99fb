"""Memory that is taken again and again is not mapped anew each time."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

_BATCHES = """
import resource
import numpy as np
from rsfed.heap import keep_freed_memory

def mapped():
    [np.ones(700_000, np.uint8) for _ in range(16)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

keep_freed_memory()
mapped()
before = mapped()
for _ in range(9):
    mapped()
print(mapped() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep what they like")
def test_the_pages_of_a_batch_are_those_of_the_one_before():
    told = subprocess.run([sys.executable, "-c", _BATCHES], capture_output=True, text=True, check=True)
    assert int(told.stdout) < 16 * 170  # pages of one batch of the ten
