"""Networks that OpenVINO computes in the place of torch: those that `linearsr convert --to openvino` wrote."""

import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from linearsr.checkpoints import CheckpointError
from linearsr.devices import best_dtype
from linearsr.models.lr_stem import LRCondition

if TYPE_CHECKING:
    from linearsr.flow.experts import SNRExperts

IR_NAME = "openvino_model.xml"
"""Beside it lie its weights, `openvino_model.bin`."""
_PRECISIONS = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}


def use_openvino_(
    lr_stem: nn.Module, transformer: "SNRExperts", folder: Path, device: str, dtype: torch.dtype | None
) -> None:
    """Let OpenVINO compute a stem and its experts, each compiled when it is first needed.

    Their torch weights stay and compute what the IR is not made for: strips of rows, guidance tokens, batches, and
    all of it on another device.

    Args:
        folder: of the model.
        device: as OpenVINO calls it: CPU, GPU, GPU.1, ...
        dtype: to compute in; None: the best on a CPU, float32 elsewhere. What was rounded to 8 bits stays in 8 bits.

    Raises:
        CheckpointError: a network is missing.
        ImportError: OpenVINO is not installed.
        ValueError: OpenVINO has no such device.
    """
    core = load_openvino().Core()
    known = core.available_devices
    if device.partition(".")[0] not in {name.partition(".")[0] for name in known}:
        raise ValueError(f"OpenVINO finds no {device} here: choose from {', '.join(known)}")
    properties = _properties(device, dtype)
    stem_ir = _Compiled(core, folder / "lr_stem" / IR_NAME, device, properties)
    experts = [
        _Compiled(core, folder / "transformer" / f"expert_{index}" / IR_NAME, device, properties)
        for index in range(transformer.partition.num_experts)
    ]
    see_by_torch, evaluate_by_torch = lr_stem.forward, transformer.forward

    def see(lr: Tensor) -> Any:
        return LRCondition(*stem_ir.run(lr=lr)) if _is_one_on_cpu(lr) else see_by_torch(lr)

    def evaluate(hidden_states: Tensor, timestep: Tensor | float, **conditions: Any) -> Any:
        given = {name: value for name, value in conditions.items() if value is not None}
        if given.keys() != {"lr_features"} or not _is_one_on_cpu(hidden_states):
            return evaluate_by_torch(hidden_states, timestep, **conditions)
        time = torch.tensor([float(timestep)])
        expert = experts[transformer.route(float(time))]
        return expert.run(hidden_states=hidden_states, timestep=time, **given)[0]

    for module, forward in ((lr_stem, see), (transformer, evaluate)):
        module.forward = forward


def load_openvino() -> Any:
    """The package `openvino`. Raises ImportError, which says how to install it, where it is not there."""
    # or it would report to its makers, over the network, that it was imported
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError:
        raise ImportError("this needs OpenVINO: pip install 'linearsr[openvino]'") from None
    return openvino


def _properties(device: str, dtype: torch.dtype | None) -> dict[str, Any]:
    cpu = torch.device("cpu")
    dtype = dtype or (best_dtype(cpu) if device == "CPU" else torch.float32)
    properties: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": _PRECISIONS[dtype],
    }
    if device == "CPU":
        # two processes that pin their threads would pin them to the same cores
        properties |= {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "ENABLE_CPU_PINNING": False}
    return properties


def _is_one_on_cpu(images: Tensor) -> bool:
    return len(images) == 1 and images.device.type == "cpu"


class _Compiled:
    """An IR on a device; calls from several threads may overlap."""

    def __init__(self, core: Any, path: Path, device: str, properties: dict[str, Any]) -> None:
        for file in (path, path.with_suffix(".bin")):
            if not file.is_file():
                raise CheckpointError(f"{file}: this part of the model is missing; convert it again")
        self._core, self._path, self._device, self._properties = core, path, device, properties

    @cached_property
    def _model(self) -> Any:
        try:
            return self._core.compile_model(self._path, self._device, self._properties)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise CheckpointError(f"{self._path}: cannot run on {self._device} ({reason})") from error

    def run(self, **inputs: Tensor) -> Sequence[Tensor]:
        """Tensors by name, float32 or what becomes it -> the results in order, float32."""
        request = self._model.create_infer_request()
        arrays = {name: tensor.float().contiguous().numpy() for name, tensor in inputs.items()}
        # copies, for the request's own memory goes with it
        return [torch.tensor(found) for found in request.infer(arrays, share_inputs=True).values()]
