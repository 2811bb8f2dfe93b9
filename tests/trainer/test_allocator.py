"""What a training does with memory that it has freed."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

MEGABYTES = 200
PROGRAM = f"""
from pathlib import Path
from trainer.loop.allocator import keep_freed_memory

def resident_mb():
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) / 1024

if {{keeps}}:
    assert keep_freed_memory()
before = resident_mb()
blocks = [bytearray(b"x") * (1 << 20) for _ in range({MEGABYTES})]
del blocks
print(resident_mb() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the switches")
@pytest.mark.parametrize("keeps", [True, False])
def test_freed_memory_stays_with_the_process_where_it_was_told_so(keeps: bool) -> None:
    program = [sys.executable, "-c", PROGRAM.format(keeps=keeps)]
    kept_mb = float(subprocess.run(program, capture_output=True, text=True, check=True).stdout)
    assert (kept_mb > MEGABYTES / 2) is keeps
