"""Means and widths of the published preprocessing, ``normalization.pt``, in a schema."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from evenet_hep.errors import FileError
from evenet_hep.schema import EventSchema, Feature


def with_published_statistics(schema: EventSchema, path: str | Path) -> EventSchema:
    """A schema with the means and widths of such a file.

    The file holds ``input_mean`` and ``input_std`` with ``Source`` (objects) and ``Conditions`` (event features), and
    perhaps ``invisible_mean`` and ``invisible_std``, ``input_num_mean`` and ``input_num_std``. Means and widths are
    those after the logarithm, as in a schema. They are taken for features whose transform uses them; the published
    ones of the others (flags and counts) were made with zeros counted as padding and are used nowhere.

    Parameters
    ----------
    schema : EventSchema
        With as many features as the file.
    path : str or Path
        Of ``normalization.pt``; only tensors and plain containers are read from it, never code.

    Raises
    ------
    FileError
        If the file cannot be read, lacks an entry, or has another number of features.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        msg = f"{path} cannot be read: {' '.join(str(error).split())[:200]}"
        raise FileError(msg) from error
    pairs = {
        "objects": _pairs(path, content, "input", "Source", schema.objects),
        "event_features": _pairs(path, content, "input", "Conditions", schema.event_features),
    }
    if "invisible_mean" in content:
        pairs["invisible"] = _pairs(path, content, "invisible", "Source", schema.invisible)
    number = None
    if "input_num_mean" in content:
        found = _pairs(path, content, "input_num", "Source", [schema.n_objects])
        number = found.get(schema.n_objects.name)
    return schema.with_statistics(**pairs, n_objects=number)


def _pairs(
    path: str | Path, content: Mapping[str, Any], prefix: str, key: str, features: Sequence[Feature]
) -> dict[str, tuple[float, float]]:
    """Mean and width of the features whose transform uses them."""
    values = []
    for what in ("mean", "std"):
        entry = content.get(f"{prefix}_{what}", {})
        if not isinstance(entry, Mapping) or key not in entry:
            msg = f"{path} lacks {prefix}_{what}[{key!r}]; it has {', '.join(map(str, content))}"
            raise FileError(msg)
        values.append(torch.as_tensor(entry[key]).double().reshape(-1).tolist())
    means, widths = values
    if not len(means) == len(widths) == len(features):
        msg = f"{path}: {prefix}_mean[{key!r}] must have {len(features)} numbers; found {len(means)}"
        raise FileError(msg)
    return {
        feature.name: (mean, max(width, 1e-6))
        for feature, mean, width in zip(features, means, widths, strict=True)
        if feature.transform in ("standard", "log", "uniform")
    }
