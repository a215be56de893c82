"""From `--model`, `--device` and `--dtype` to a pipeline, or one line that says why not."""

from enum import Enum
from typing import TYPE_CHECKING

from linearsr.cli.console import debugging, one_line, stop

if TYPE_CHECKING:
    import torch

    from linearsr.pipeline import LinearSRPipeline


class DType(str, Enum):
    """Types of the weights; `auto` is bfloat16 where the device computes in it, else float32."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def choose_device(name: str) -> "torch.device":
    """The device of that name, tried out. Ends the command if there is none."""
    import torch

    from linearsr.devices import best_device

    if name == "auto":
        return best_device()
    try:
        device = torch.device(name)
        torch.zeros(1, device=device) + 1
    except Exception as error:
        if debugging():
            raise
        reason = one_line(error).split(". ")[0]
        stop(f"--device {name} cannot be used ({reason}): choose auto, cpu, cuda or mps")
    return device


def load_pipeline(model: str | None, device: str, dtype: DType) -> "LinearSRPipeline":
    """The model, ready to work. Ends the command if it cannot be loaded."""
    import torch

    from linearsr.pipeline import LinearSRPipeline

    place = choose_device(device)
    torch_dtype = None if dtype is DType.auto else getattr(torch, dtype.value)
    try:
        return LinearSRPipeline.from_pretrained(model, torch_dtype=torch_dtype, device=place)
    except Exception as error:
        if debugging():
            raise
        text = one_line(error)
        stop(text if isinstance(error, (ValueError, ImportError)) else f"{type(error).__name__}: {text}")
