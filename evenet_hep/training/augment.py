"""Events turned around the beam axis and mirrored along it: physics does not know the difference."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from evenet_hep.schema import EventSchema, Feature
from evenet_hep.training.batches import TensorBatch


def augment(batch: TensorBatch, schema: EventSchema, *, rotate: bool, mirror: bool) -> TensorBatch:
    """Each event turned by an angle of its own, and half of them mirrored.

    Parameters
    ----------
    batch : TensorBatch
        Left as it is.
    schema : EventSchema
        Features in radians are turned, features called ``eta`` or ending in ``_eta`` change their sign.
    rotate, mirror : bool
        What to do.

    Examples
    --------
    >>> schema = EventSchema.standard(classes=("a",))
    >>> schema.object_names.index("phi"), schema.event_names.index("met_phi")
    (3, 1)
    """
    if not (rotate or mirror):
        return batch
    device, n = batch.mask.device, len(batch.label)
    angle = (torch.rand(n, device=device) * 2 - 1) * math.pi if rotate else torch.zeros(n, device=device)
    sign = (
        torch.where(torch.rand(n, device=device) < 0.5, -1.0, 1.0) if mirror else torch.ones(n, device=device)
    )
    return batch._replace(
        objects=_moved(batch.objects, schema.objects, angle, sign),
        event_features=_moved(batch.event_features, schema.event_features, angle, sign),
        invisible=_moved(batch.invisible, schema.invisible, angle, sign),
    )


def _moved(values: Tensor, features: Sequence[Feature], angle: Tensor, sign: Tensor) -> Tensor:
    if values.shape[-1] == 0 or values.numel() == 0:
        return values
    shape = (-1, *[1] * (values.ndim - 2))
    columns = list(values.unbind(dim=-1))
    for i, feature in enumerate(features):
        if feature.unit == "rad":
            turned = columns[i] + angle.view(shape)
            columns[i] = torch.remainder(turned + math.pi, 2 * math.pi) - math.pi
        elif feature.name == "eta" or feature.name.endswith("_eta"):
            columns[i] = columns[i] * sign.view(shape)
    return torch.stack(columns, dim=-1)
