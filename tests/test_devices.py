"""How much memory there is, in a container too, and which errors say that it is gone."""

from pathlib import Path

import pytest
import torch

from linearsr.runtime import devices
from linearsr.runtime.devices import available_memory, is_out_of_memory, physical_memory

GIB = 2**30
CPU = torch.device("cpu")


@pytest.fixture
def container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One that may use 1 GiB and uses 700 MiB, 200 of them for files that it can do without."""
    contents = {"max": GIB, "current": 700 * 2**20, "stat": f"anon 1\ninactive_file {200 * 2**20}\nfile 3\n"}
    for name, value in contents.items():
        (tmp_path / f"memory.{name}").write_text(f"{value}\n")
    (_, *names), _ = devices._CONTAINERS
    monkeypatch.setattr(devices, "_CONTAINERS", [(tmp_path, *names)])
    return tmp_path


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="only Linux says how much is free")
def test_of_a_container_only_what_it_does_not_use_is_available(container: Path) -> None:
    assert physical_memory(CPU) == GIB
    assert available_memory(CPU) == GIB - 500 * 2**20
    (container / "memory.max").write_text("max\n")
    free, whole = available_memory(CPU), physical_memory(CPU)
    assert free is not None
    assert whole is not None
    assert GIB < free <= whole


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 4 GB)"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_errors_that_say_that_memory_is_gone(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) == expected
