"""From raw values to the columns the network reads, and back.

A :class:`FeatureTransform` is filled from the features of a schema and computes, for a raw value x,

=============  ==========================================================================================
``none``       x
``standard``   z = (x - mean) / std
``log``        z = (log(1 + x) - mean) / std
``uniform``    the standard normal quantile of u = (z + sqrt 3) / (2 sqrt 3), u cut to [1e-6, 1 - 1e-6]
``periodic``   two columns, cos x and sin x
=============  ==========================================================================================

Nothing of it is stored with the weights: ``schema.json`` is the one place where means and widths are kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from evenet_hep.schema import Feature

SQRT3 = math.sqrt(3.0)
CUT = 1e-6  # of the uniform transform: u stays this far from 0 and 1


class FeatureTransform(nn.Module):
    """Transforms of a list of features, column by column.

    Parameters
    ----------
    features : sequence of Feature
        In the order of the last axis of the raw values. May be empty.

    Attributes
    ----------
    width : int
        Number of columns after the transform.

    Examples
    --------
    >>> transform = FeatureTransform([Feature("pt", "GeV", "log", 3.0, 0.5), Feature("phi", "rad", "periodic")])
    >>> columns = transform(torch.tensor([[20.0, 3.0]]))
    >>> columns.shape, transform.columns("phi")
    (torch.Size([1, 3]), (1, 2))
    >>> transform.inverse(columns)
    tensor([[20.0000,  3.0000]])
    """

    is_log: Tensor
    is_uniform: Tensor
    is_cos: Tensor
    is_sin: Tensor
    source: Tensor
    first: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, features: Sequence[Feature]) -> None:
        super().__init__()
        parts = [(i, feature, part) for i, feature in enumerate(features) for part in range(feature.width)]
        self.names = tuple(feature.name for feature in features)
        self.width = len(parts)
        self.widths = tuple(feature.width for feature in features)
        self.has_uniform = any(feature.transform == "uniform" for feature in features)
        self.has_periodic = any(feature.transform == "periodic" for feature in features)
        scaled = ("standard", "log", "uniform")
        columns = {
            "source": [i for i, _, _ in parts],  # feature that a column comes from
            "is_log": [feature.transform == "log" for _, feature, _ in parts],
            "is_uniform": [feature.transform == "uniform" for _, feature, _ in parts],
            "is_cos": [feature.transform == "periodic" and part == 0 for _, feature, part in parts],
            "is_sin": [part == 1 for _, _, part in parts],
            "mean": [feature.mean if feature.transform in scaled else 0.0 for _, feature, _ in parts],
            "std": [feature.std if feature.transform in scaled else 1.0 for _, feature, _ in parts],
            "first": [k for k, (_, _, part) in enumerate(parts) if part == 0],  # column a feature starts at
        }
        kinds = {"source": torch.long, "first": torch.long, "mean": torch.float32, "std": torch.float32}
        for name, values in columns.items():
            buffer = torch.tensor(values, dtype=kinds.get(name, torch.bool))
            self.register_buffer(name, buffer, persistent=False)

    def columns(self, name: str) -> tuple[int, ...]:
        """Columns of one feature after the transform.

        Raises
        ------
        KeyError
            If there is no such feature.
        """
        if name not in self.names:
            msg = f"no feature {name!r}; there are {', '.join(self.names)}"
            raise KeyError(msg)
        at = self.names.index(name)
        start = sum(self.widths[:at])
        return tuple(range(start, start + self.widths[at]))

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """Columns for the network.

        Parameters
        ----------
        values : Tensor, shape (..., F)
            Raw values in GeV and radians.
        mask : bool Tensor, shape (...), optional
            True for a real object. Where it is False the columns are zero, whatever the values are.

        Returns
        -------
        Tensor, shape (..., width)
            In the dtype of the buffers.
        """
        x = values.to(self.mean.dtype)
        if self.has_periodic:
            x = x.index_select(-1, self.source)
        # The inner where keeps the gradient of the logarithm finite in the columns that do not take it.
        logarithm = torch.log1p(torch.where(self.is_log, x, 0.0))
        z = (torch.where(self.is_log, logarithm, x) - self.mean) / self.std
        if self.has_uniform:
            z = torch.where(self.is_uniform, _normal_from_uniform(z), z)
        if self.has_periodic:
            z = torch.where(self.is_cos, torch.cos(x), torch.where(self.is_sin, torch.sin(x), z))
        return z if mask is None else torch.where(mask[..., None], z, 0.0)

    def inverse(self, columns: Tensor, mask: Tensor | None = None) -> Tensor:
        """Raw values of columns that the network read or produced.

        Parameters
        ----------
        columns : Tensor, shape (..., width)
            As given by :meth:`forward`.
        mask : bool Tensor, shape (...), optional
            Where it is False the values are zero.

        Returns
        -------
        Tensor, shape (..., F)
            Raw values in GeV and radians. A ``periodic`` angle comes back in (-pi, pi], from any pair of cosine
            and sine, normalised or not; a ``uniform`` one comes back unless it was outside the cut.
        """
        z = (
            torch.where(self.is_uniform, _uniform_from_normal(columns), columns)
            if self.has_uniform
            else columns
        )
        x = z * self.std + self.mean
        x = torch.where(self.is_log, torch.expm1(torch.where(self.is_log, x, 0.0)), x)
        if self.has_periodic:
            angle = torch.atan2(columns.roll(-1, dims=-1), columns)  # the sine follows its cosine
            x = torch.where(self.is_cos, angle, x).index_select(-1, self.first)
        return x if mask is None else torch.where(mask[..., None], x, 0.0)


def _normal_from_uniform(z: Tensor) -> Tensor:
    u = torch.clamp((z + SQRT3) / (2 * SQRT3), CUT, 1 - CUT)
    # In float32 this form, not ndtri, gives the published values in the outermost bins.
    return math.sqrt(2.0) * torch.erfinv(2 * u - 1)


def _uniform_from_normal(y: Tensor) -> Tensor:
    return SQRT3 * torch.erf(y / math.sqrt(2.0))
