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


CHILD = f"""
import subprocess, sys
from linearsr.runtime.allocator import keep_freed_memory
keep_freed_memory()
sys.exit(subprocess.run([sys.executable, "-c", {FAULTS.format(call=None)!r}]).returncode)
"""


@pytest.mark.parametrize(
    ("code", "variables", "said", "kept"),
    [
        (FAULTS.format(call=None), {}, "None", False),
        (FAULTS.format(call="keep_freed_memory()"), {}, "True", True),
        (FAULTS.format(call="keep_freed_memory()"), {"MALLOC_MMAP_THRESHOLD_": "1000000"}, "False", False),
        (CHILD, {}, "None", True),
    ],
    ids=["the system's way", "kept", "the user's settings", "in processes that it starts"],
)
def test_the_memory_of_a_freed_tensor_is_used_again(code, variables, said, kept):
    environment = {name: value for name, value in os.environ.items() if "MALLOC" not in name} | variables
    words = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True).split()
    assert words[0] == said
    assert (int(words[1]) < 0.5 * PAGES) if kept else (int(words[1]) > 0.9 * PAGES)
