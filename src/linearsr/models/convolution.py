"""Convolutions, and the one case in which the processor's own are wrong."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, ...],
    padding: tuple[int, ...] | str,
    dilation: tuple[int, ...] = (1, 1),
    groups: int = 1,
) -> Tensor:
    """`torch.nn.functional.conv2d`, right for results of one column too.

    With a stride in bfloat16, oneDNN's kernels for AMX read memory there that nobody wrote, which may hold NaN: such
    a result is computed in float32.
    """
    narrow = not isinstance(padding, str) and (x.shape[3] + 2 * padding[1] - weight.shape[3]) < stride[1]
    if narrow and stride[1] > 1 and x.dtype == torch.bfloat16:
        exact = F.conv2d(
            x.float(),
            weight.float(),
            None if bias is None else bias.float(),
            stride,
            padding,
            dilation,
            groups,
        )
        return exact.to(x.dtype)
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups)


class StridedConv2d(nn.Conv2d):
    """`torch.nn.Conv2d` by `convolve`; what is beyond the border counts as zero."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return convolve(input, weight, bias, self.stride, self.padding, self.dilation, self.groups)
