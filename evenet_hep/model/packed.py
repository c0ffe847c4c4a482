"""Weights in the order in which a kernel wants them, made when they are first needed and again when they have changed.

What is kept here is no part of the network: it is left out of copies, pickles and checkpoints. It belongs to one state
of the weights, which is recognised by their place in memory and by PyTorch's count of changes in place. Writing through
``weight.data`` goes past that count; ``load_state_dict``, optimisers and ``copy_`` do not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

HAS_AVX512 = (
    torch.backends.cpu.get_cpu_capability().startswith("AVX512") and torch.backends.mkldnn.is_available()
)
TYPICAL_ROWS = 1024  # oneDNN asks for how many rows; the order of the weights fits other numbers, too
FEW_ROWS = 128  # below, making a copy for one call is not worth it


class Packing(nn.Module):
    """A module that keeps things made from its weights.

    Examples
    --------
    >>> module = Packing()
    >>> weight = torch.ones(2)
    >>> module.packed("double", (weight,), lambda: 2 * weight)
    tensor([2., 2.])
    >>> _ = weight.add_(1)
    >>> module.packed("double", (weight,), lambda: 2 * weight)
    tensor([4., 4.])
    """

    def packed(self, name: str, sources: tuple[Tensor, ...], make: Callable[[], Any]) -> Any:
        """What ``make`` returns, as long as the sources stay what they are.

        Parameters
        ----------
        name : str
            Tells the things that one module keeps apart.
        sources : tuple of Tensor
            What it is made from.
        make : callable
            Makes it, without arguments.
        """
        kept: dict[str, Any] = self.__dict__.setdefault("_kept", {})
        if any(source.is_inference() for source in sources):  # their changes are not counted
            return make()
        state = tuple((source.data_ptr(), source._version) for source in sources)
        found = kept.get(name)
        if found is None or found[0] != state:
            with (
                torch.inference_mode(mode=False),
                torch.no_grad(),
            ):  # what is made may have things made from it
                found = kept[name] = (state, make())
        return found[1]

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_kept"}


def packed_for(weight: Tensor) -> Tensor:
    """Weights (D_out, D_in) of a linear layer in oneDNN's own order, where it is used; else as they are."""
    if not HAS_AVX512:
        return weight.detach()
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), TYPICAL_ROWS)
    return packed
