"""The networks of a model as OpenVINO IR, beside the model's own weights.

Names and shapes of what goes in and out, with (h, w) an LR image that is a multiple of what its latent grid needs:

- `lr_stem`: `lr` (1, 3, h, w) in [-1, 1] -> `features`, `prediction`, `deviation`, as in `LRCondition`.
- each expert: `hidden_states` (1, C, h', w'), `timestep` (1,) in 0..1000, `lr_features` -> `prediction`.
- `codec`: `latent`, `prediction`, `deviation` -> `image` (1, 3, H, W) in about [-1, 1].

All are float32; sides may be any. Weights are written in float16.
"""

import copy
import shutil
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linearsr.backends.openvino import IR_NAME, load_openvino
from linearsr.backends.openvino_blocks import (
    FoldedCrossAttention,
    ImageFFN,
    SplitTimeEmbedding,
    WideLinearAttention,
)
from linearsr.checkpoints import CheckpointError, write_json
from linearsr.model_folder import MODEL_INDEX, read_index
from linearsr.models.blocks import TransformerBlock
from linearsr.models.codec import ResidualCodec
from linearsr.models.int8 import SILU_LEAST, Range, ranged_blocks, weight_steps, widest
from linearsr.models.lr_stem import LRCondition
from linearsr.models.transformer import LinearSRTransformer
from linearsr.pipeline import LinearSRPipeline

_Network = TypeVar("_Network", bound=nn.Module)
_MARGIN = 1.25
"""Ranges are made this much wider: what leaves them is clipped."""
_SIDE = 2
"""Latent pixels on a side of what a network is traced with."""


def check_exportable(pipeline: LinearSRPipeline) -> None:
    """Raises CheckpointError for a model that needs more than the networks that are exported."""
    if not isinstance(pipeline.codec, ResidualCodec):
        raise CheckpointError(
            "only models with a ResidualCodec can be converted to OpenVINO: this one has DC-AE"
        )
    if pipeline.guidance is not None:
        raise CheckpointError(
            "a model with guidance cannot be converted to OpenVINO: its tokens come from torch"
        )
    if not pipeline.transformer.config.num_null_tokens:
        raise CheckpointError(
            "a network without null tokens cannot be converted to OpenVINO: it needs guidance"
        )


def export(
    source: Path,
    folder: Path,
    pipeline: LinearSRPipeline,
    ranges: Mapping[str, Range] | None = None,
    float16: bool = True,
) -> None:
    """Write the model of `source` into `folder`, which may be the same, with its networks as IR.

    Args:
        pipeline: the model of `source` in float32, on the CPU, each expert loaded.
        ranges: as `PipelineConfig.int8_ranges`: residual blocks that compute in 8 bits.
        float16: whether weights are written so, else in float32.

    Raises:
        CheckpointError: see `check_exportable`.
        ImportError: OpenVINO is not installed.
    """
    check_exportable(pipeline)
    load_openvino()
    if folder.resolve() != source.resolve():
        shutil.copytree(source, folder, dirs_exist_ok=True)
    export_stem(folder, pipeline, ranges, float16)
    codec = cast(ResidualCodec, pipeline.codec)
    condition: LRCondition = pipeline.lr_stem(_lr_example(pipeline))
    latent = torch.zeros(1, codec.latent_channels, _SIDE, _SIDE)
    inputs: dict[str, Any] = {
        "hidden_states": latent,
        "timestep": torch.full((1,), 1000.0),
        "lr_features": condition.features,
    }
    for index, expert in enumerate(cast(Iterable[LinearSRTransformer], pipeline.transformer.experts)):
        network = _rearranged(_with_int8(expert, ranges, "transformer."))
        _write(network, folder / "transformer" / f"expert_{index}", inputs, ["prediction"], float16)
    inputs = {"latent": latent, "prediction": condition.prediction, "deviation": condition.deviation}
    _write(_Decoder(codec), folder / "codec", inputs, ["image"], float16)
    write_json(folder / MODEL_INDEX, {**read_index(source), "backend": "openvino"})


def export_stem(
    folder: Path, pipeline: LinearSRPipeline, ranges: Mapping[str, Range] | None = None, float16: bool = True
) -> None:
    """Write the stem alone, into the folder of a model that was exported; arguments as for `export`."""
    stem = _with_int8(pipeline.lr_stem, ranges, "lr_stem.")
    _write(stem, folder / "lr_stem", {"lr": _lr_example(pipeline)}, LRCondition._fields, float16)


def _lr_example(pipeline: LinearSRPipeline) -> Tensor:
    side = _SIDE * pipeline.codec.compression // pipeline.scale
    return torch.zeros(1, 3, side, side)


def _write(
    network: nn.Module, folder: Path, inputs: dict[str, Any], outputs: Sequence[str], float16: bool
) -> None:
    """Trace a network with `inputs` by name, whose sides (all axes behind the second) are left open, and write it."""
    openvino = load_openvino()
    from openvino._offline_transformations import apply_moc_transformations
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    with warnings.catch_warnings(), torch.no_grad():
        # sizes are compared with each other while tracing; those comparisons are not part of the network
        warnings.simplefilter("ignore")
        traced = TorchScriptPythonDecoder(
            network.eval(), example_input=inputs, trace_kwargs={"check_trace": False}
        )
    # what `openvino.convert_model` does, without its reports
    frontend = FrontEndManager().load_by_framework("pytorch")
    model = frontend.convert(frontend.load(traced))
    model.reshape({name: [*value.shape[:2], *[-1] * (value.ndim - 2)] for name, value in inputs.items()})
    apply_moc_transformations(model, cf=False)
    for output, name in zip(model.outputs, outputs, strict=True):
        output.get_tensor().set_names({name})
    openvino.save_model(model, folder / IR_NAME, compress_to_fp16=float16)


class _Decoder(nn.Module):
    """`ResidualCodec.decode` as a network."""

    def __init__(self, codec: ResidualCodec) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, latent: Tensor, prediction: Tensor, deviation: Tensor) -> Tensor:
        """(1, C, h', w') and the stem's estimate -> (1, 3, H, W)."""
        return self.codec.decode(latent, LRCondition(latent, prediction, deviation))


def _rearranged(network: LinearSRTransformer) -> LinearSRTransformer:
    """A copy whose blocks are one graph for every number of tokens."""
    network = copy.deepcopy(network)
    context = network.conditions(torch.zeros(1), None, None).context
    changed: nn.Module = network
    changed.time_embed = SplitTimeEmbedding(network.time_embed)
    for block in cast(Iterable[TransformerBlock], network.transformer_blocks):
        parts: nn.Module = block
        parts.attn1, parts.ff = WideLinearAttention(block.attn1), ImageFFN(block.ff)
        if block.attn2.norm_q is None:
            parts.attn2 = FoldedCrossAttention(block.attn2, context)
    return network


class _QuantisedConvolution(nn.Module):
    """A convolution whose input and weights are rounded to 8 bits; OpenVINO computes it in integers."""

    def __init__(self, conv: nn.Conv2d, low: float, high: float) -> None:
        super().__init__()
        self.conv = conv
        self.step = (high - low) / 255
        self.zero = round(-low / self.step)
        steps = weight_steps(conv.weight.detach())
        self.register_buffer("weight_steps", steps)
        self.register_buffer("weight_zeros", torch.zeros(len(steps), dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        """As the convolution's."""
        x = torch.fake_quantize_per_tensor_affine(x, self.step, self.zero, 0, 255)
        weight = torch.fake_quantize_per_channel_affine(
            self.conv.weight,
            self.get_buffer("weight_steps"),
            self.get_buffer("weight_zeros"),
            0,
            -127,
            127,
        )
        return F.conv2d(x, weight, self.conv.bias, padding=1)


def _with_int8(network: _Network, ranges: Mapping[str, Range] | None, prefix: str) -> _Network:
    """A copy in which the residual blocks whose ranges are known, by their names behind `prefix`, are in 8 bits."""
    network = copy.deepcopy(network)
    for _, block, first, second in list(ranged_blocks(network, ranges or {}, prefix)):
        replaced = cast(nn.Module, block)
        largest = _MARGIN * widest(first)
        replaced.conv_1 = _QuantisedConvolution(block.conv_1, -largest, largest)
        replaced.conv_2 = _QuantisedConvolution(block.conv_2, SILU_LEAST, _MARGIN * widest(second))
    return network
