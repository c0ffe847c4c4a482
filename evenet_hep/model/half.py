"""Transformer blocks in bfloat16 for inference on processors that multiply matrices of it.

bfloat16 has eight bits. Most of what it does to the probabilities of a network comes from rounding the weights, which
happens the same way in every event; so each weight is held as a sum of two numbers in bfloat16 here, and the products
with both are added, in single precision, before anything is rounded. Rows between the layers stay in single precision;
so do the norms, the softmax and the scales. What is rounded, once each, is what goes into and comes out of a product.

Networks of up to 128 numbers per object stay in single precision altogether: products are not what takes their time. So
does the rest of a wide network: the local branch, whose choice of neighbours is a decision that a small change can turn
over, and the gates and heads, which act few times and on everything at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from evenet_hep.model import kernels
from evenet_hep.model.packed import HAS_AVX512, packed_for
from evenet_hep.model.vectors16 import fits

if TYPE_CHECKING:
    from evenet_hep.model.layers import Attention, FeedForward
    from evenet_hep.model.packing import Rows
    from evenet_hep.model.pet import TransformerBlock

NARROW = 128  # networks up to this width gain a tenth at most, for which they need not be rounded
HAS_BFLOAT16 = HAS_AVX512 and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def is_narrow(width: int) -> bool:
    """Whether a network of this width stays in single precision on processors."""
    return width <= NARROW


def runs_half(x: Tensor, layout: Rows, heads: int) -> bool:
    """Whether blocks of so many heads are asked for, and can be had, in bfloat16.

    They are for inference under autocast, on processors that multiply matrices of it, in wide networks.
    """
    return (
        HAS_BFLOAT16
        and layout.starts is not None
        and not is_narrow(x.shape[-1])
        and fits(x.shape[-1], heads)
        and not torch.compiler.is_compiling()
        and x.dtype == torch.float32
        and not torch.is_grad_enabled()
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
    )


class _Weights(NamedTuple):
    # Of one block, packed. "stacked" stands above each other: the result comes in two halves, to be added.
    project_in: Tensor  # side by side
    project_out: Tensor  # stacked
    expand: Tensor  # side by side
    project: Tensor  # stacked


def run_half(block: TransformerBlock, x: Tensor, layout: Rows) -> None:
    """Do what a block does to rows (R, D), in place.

    Parameters
    ----------
    block : TransformerBlock
        In evaluation mode, or without dropout.
    x : Tensor, shape (R, D)
        Rows in single precision.
    layout : Rows
        Which event each row belongs to.
    """
    sources = tuple(block.attention.parameters()) + tuple(block.feed_forward.parameters())
    weights: _Weights = block.packed("half", sources, lambda: _pack(block.attention, block.feed_forward))
    expand, project = block.feed_forward.linears
    projected = _multiply(_normal(block.attention_norm, x), weights.project_in, None)
    update = torch.empty_like(x, dtype=torch.bfloat16)
    bias, starts = block.attention.bias_by_channel().numpy(), cast("npt.NDArray[np.int64]", layout.starts)
    kernels.attend_half(_bits(projected), bias, starts, block.attention.heads, _bits(update))
    update = _multiply(update, weights.project_out, None)
    _add(x, update, block.attention.project_out.bias, block.attention_scale)
    inner = _multiply(_normal(block.feed_forward_norm, x), weights.expand, expand.bias, "gelu")
    _add(x, _multiply(inner, weights.project, None), project.bias, block.feed_forward_scale)


def _pack(attention: Attention, feed_forward: FeedForward) -> _Weights:
    project_in, project_out = attention.weights_by_channel()
    expand, project = feed_forward.linears
    return _Weights(
        packed_for(torch.cat(in_two(project_in), dim=1)),
        packed_for(torch.cat(in_two(project_out), dim=0)),
        packed_for(torch.cat(in_two(expand.weight), dim=1)),
        packed_for(torch.cat(in_two(project.weight), dim=0)),
    )


def in_two(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Two tensors in bfloat16 whose sum is the weight to sixteen bits.

    Examples
    --------
    >>> weight = torch.tensor([0.1])
    >>> high, low = in_two(weight)
    >>> abs(float(high.float() - weight)) < 1e-4, abs(float(high.float() + low.float() - weight)) < 1e-6
    (True, True)
    """
    high = weight.detach().bfloat16()
    return high, (weight.detach() - high.float()).bfloat16()


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "none") -> Tensor:
    kind = "none" if activation == "gelu" else ""
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], kind)
    return result


def _normal(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    normal = x.new_empty(x.shape[0], 2 * x.shape[1], dtype=torch.bfloat16)
    weight, bias = norm.weight.detach().numpy(), norm.bias.detach().numpy()
    kernels.norm_to_half(x.numpy(), weight, bias, norm.eps, _bits(normal))
    return normal


def _add(x: Tensor, update: Tensor, bias: Tensor, scale: Tensor) -> None:
    kernels.add_halves(x.numpy(), _bits(update), bias.detach().numpy(), scale.detach().numpy())


def _bits(x: Tensor) -> npt.NDArray[np.int16]:
    bits: npt.NDArray[np.int16] = x.view(torch.int16).numpy()
    return bits
