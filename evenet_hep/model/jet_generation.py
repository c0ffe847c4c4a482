"""Constituents of jets out of noise, for jets whose features and multiplicity are given."""

from __future__ import annotations

import torch
from torch import Tensor

from evenet_hep.model.diffusion import Method, sample
from evenet_hep.model.jets import JetNetwork


@torch.no_grad()
def sample_constituents(
    model: JetNetwork,
    jet_features: Tensor,
    mask: Tensor,
    *,
    label: Tensor | None = None,
    steps: int = 20,
    method: Method = "midpoint",
    noise: Tensor | None = None,
) -> Tensor:
    """Draw the generated features of constituents.

    Parameters
    ----------
    model : JetNetwork
        With a generator, in evaluation mode.
    jet_features : Tensor, shape (B, G)
        Raw features of the jets.
    mask : bool Tensor, shape (B, N)
        True for a constituent to draw.
    label : int Tensor, shape (B,), optional
        Class of each jet; -1, or None, for no class in particular.
    steps, method
        As in :func:`~evenet_hep.model.diffusion.sample`.
    noise : Tensor, shape (B, N, generated), optional
        Where to start; drawn from PyTorch's generator by default.

    Returns
    -------
    Tensor, shape (B, N, F)
        Raw features in the order of the schema; those that are not generated, and padded slots, are zero.

    Examples
    --------
    >>> from evenet_hep.events.jets import jet_schema
    >>> from evenet_hep.model.jets import JetConfig
    >>> network = JetNetwork(JetConfig(width=16, layers=1, heads=2), jet_schema(classes=("q", "g"))).eval()
    >>> mask = torch.tensor([[True, True, False]])
    >>> sample_constituents(network, torch.ones(1, 4), mask, steps=2).shape
    torch.Size([1, 3, 13])
    """
    if noise is None:
        shape = (*mask.shape, len(model.generated))
        noise = torch.randn(shape, device=mask.device, dtype=model.object_transform.mean.dtype)
    jet = model.jet_transform(jet_features)

    def velocity(x: Tensor, time: Tensor) -> Tensor:
        points = model.body(model.place(x, mask), mask, time=time)
        return model.velocity(points, mask, jet, time, label)

    drawn = sample(velocity, noise, steps=steps, method=method)
    raw = model.object_transform.inverse(model.place(drawn, mask), mask)
    names = model.schema.object_names
    is_generated = torch.tensor([name in model.config.generated for name in names], device=mask.device)
    return torch.where(is_generated, raw, 0.0)
