import ctypes
import os
import subprocess
import sys

import pytest

FAULTS = """
import resource
import torch
from linearsr.runtime.allocator import keep_freed_memory

print({call})
torch.set_num_threads(1)
big = 64 * 2**20
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(40):
    torch.zeros(big, dtype=torch.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGES = 40 * 64 * 2**20 // 4096
"""That are cleared if none is kept."""

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="glibc alone has mallopt"
)


def faults(call, **environment):
    environment = {name: value for name, value in os.environ.items() if "MALLOC" not in name} | environment
    done = subprocess.run(
        [sys.executable, "-c", FAULTS.format(call=call)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    said, count = done.stdout.split()
    return said, int(count)


def test_the_memory_of_a_freed_tensor_is_used_again():
    assert faults("None")[1] > 0.9 * PAGES
    said, count = faults("keep_freed_memory()")
    assert said == "True"
    assert count < 0.5 * PAGES


def test_settings_of_the_user_stay():
    said, count = faults("keep_freed_memory()", MALLOC_MMAP_THRESHOLD_="1000000")
    assert said == "False"
    assert count > 0.9 * PAGES


def test_processes_that_it_starts_keep_it_too():
    code = f"""
import os, subprocess, sys
from linearsr.runtime.allocator import keep_freed_memory
keep_freed_memory()
sys.exit(subprocess.run([sys.executable, "-c", {FAULTS.format(call=None)!r}]).returncode)
"""
    environment = {name: value for name, value in os.environ.items() if "MALLOC" not in name}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert int(done.stdout.split()[-1]) < 0.5 * PAGES
