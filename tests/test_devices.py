"""How much memory there is, in a container too, which errors say that it is gone, and the type to compute in."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from linearsr.runtime import devices
from linearsr.runtime.devices import (
    available_memory,
    is_out_of_memory,
    named_device,
    physical_memory,
)

GIB = 2**30
CPU = torch.device("cpu")
HELD_BACK = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")


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


def test_an_unknown_device_is_one_short_line() -> None:
    for name in ("gpu", "toaster", "cuda:99", "", "meta"):
        with pytest.raises(ValueError, match="cannot be used") as refused:
            named_device(name)
        assert len(str(refused.value)) < 200
        assert "privateuseone" not in str(refused.value)
    assert named_device("cpu") == named_device("cpu:7") == CPU


@pytest.mark.skipif(not torch.cpu._is_avx512_bf16_supported(), reason="a processor without bfloat16")
@pytest.mark.parametrize(
    ("variable", "most", "expected"),
    [
        ("ONEDNN_MAX_CPU_ISA", "AVX2", "float32"),
        ("ONEDNN_MAX_CPU_ISA", "AVX512_CORE", "float32"),
        ("ONEDNN_MAX_CPU_ISA", "avx512_core_vnni", "float32"),
        ("DNNL_MAX_CPU_ISA", "AVX512_CORE", "float32"),
        ("ATEN_CPU_CAPABILITY", "avx2", "float32"),
        ("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16", "bfloat16"),
        ("ONEDNN_MAX_CPU_ISA", "DEFAULT", "bfloat16"),
    ],
)
def test_bfloat16_is_chosen_by_what_the_kernels_may_use(variable: str, most: str, expected: str) -> None:
    """The variables are read once in a process, and the processor's flags do not know of them."""
    code = "import torch; from linearsr.runtime.devices import best_dtype; print(best_dtype(torch.device('cpu')))"
    others = {name: value for name, value in os.environ.items() if name not in HELD_BACK}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**others, variable: most},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"torch.{expected}\n"
