"""Import of the published EveNet checkpoints.

The files are read with ``torch.load(weights_only=True)``, never unpickled. What their parameters are called, and which
options their networks have, stands in :mod:`evenet_hep.model.published_layout`.
Everything the published network does in its own way is a field of the configuration, set here.
"""

from __future__ import annotations

import dataclasses
import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch import Tensor

from evenet_hep.errors import CheckpointError
from evenet_hep.model.checkpoint import load_weights, some
from evenet_hep.model.evenet import EveNet
from evenet_hep.model.published_config import PublishedOptions, PublishedWeights, published_config
from evenet_hep.model.published_layout import (
    BLOCKS,
    BODY,
    CLASS_OUTPUT,
    HEADS,
    LABELS,
    NAMES,
    PROPERTIES_AND_TARGETS,
    UNUSED,
)
from evenet_hep.schema import EventSchema, Feature
from evenet_hep.topology import Topology

# What Lightning, DistributedDataParallel and torch.compile put before the names of the network.
PREFIXES = re.compile(r"^(?:model\.|module\.|_orig_mod\.)+")


class ImportAccount(NamedTuple):
    """What became of the parameters of a published file. ``str`` of it is a summary to print.

    Attributes
    ----------
    loaded : tuple of str
        Names in the file whose values the network has, normalisation included.
    skipped : tuple of str
        Names in the file that the network has no use for: other heads, and what takes part in no result.
    missing : tuple of str
        Names of ours that the file does not hold, and which therefore keep their initial values.
    """

    loaded: tuple[str, ...]
    skipped: tuple[str, ...]
    missing: tuple[str, ...]

    def __str__(self) -> str:
        lines = []
        for what, names in zip(self._fields, self, strict=True):
            count: dict[str, int] = {}
            for name in names:
                count[name.split(".")[0]] = count.get(name.split(".")[0], 0) + 1
            parts = ", ".join(f"{part} {number}" for part, number in count.items())
            lines.append(f"{what} {len(names)}" + (f": {parts}" if parts else ""))
        return "\n".join(lines)


class Imported(NamedTuple):
    """A published network in our hands.

    Attributes
    ----------
    model : EveNet
        On the CPU and in eval mode.
    account : ImportAccount
        What was taken from the file; print it.
    """

    model: EveNet
    account: ImportAccount


def import_published(
    path: str | Path,
    *,
    heads: Sequence[str] | None = None,
    ema: bool = False,
    network: Mapping[str, Any] | None = None,
    schema: EventSchema | None = None,
    classes: Sequence[str] | None = None,
    topology: Topology | None = None,
    options: PublishedOptions | None = None,
) -> Imported:
    """The network of a published checkpoint, with the published behaviour.

    Parameters
    ----------
    path : path
        A ``.ckpt`` file of the published training code.
    heads : sequence of str, optional
        Heads to take, by the names of their fields in :class:`~evenet_hep.model.evenet.EveNetConfig`; all that the
        file has if left out. Empty imports the body alone.
    ema : bool
        True takes the running average of the parameters (``ema_state_dict``). Files keep none of the statistics of
        the normalisation layers; those are the ones of the last step.
    network : mapping, optional
        The network options the file was made with, as in the published YAML (``Body``, ``Classification``, ...).
        Sizes are read from the weights and must agree; numbers of heads and neighbours, and dropout, cannot be read
        from them. Left out, the file must have the sizes of the published network of 20 million parameters.
    schema : EventSchema, optional
        Features in the order of the file; :meth:`EventSchema.published` if left out. Means and widths are replaced by
        those in the file.
    classes : sequence of str, optional
        Class names; those of the schema if left out.
    topology : Topology, optional
        Resonances of the assignment and segments of the segmentation; :meth:`Topology.published` if left out. The
        properties of the resonances are replaced by those in the file.
    options : PublishedOptions, optional
        What the file does not say either: conditions and targets of the generation, names of regression targets.

    Returns
    -------
    Imported
        The network, and the account of what was taken from the file.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged or holds pickled objects, lacks a part that was asked for, or does not fit the
        options, the schema or the classes.
    ConfigError
        If the options contradict each other.
    """
    source = str(path)
    tensors = _read_tensors(Path(path).expanduser(), ema=ema)
    chosen = _chosen_heads(tensors, heads, source)
    schema, statistics = _with_statistics(schema or EventSchema.published(), tensors, chosen, source)
    names = tuple(schema.classes if classes is None else classes)
    schema = _with_classes(schema, names, tensors, chosen, source)
    config = published_config(
        PublishedWeights(tensors, source),
        chosen,
        network,
        schema,
        topology or Topology.published(),
        options or PublishedOptions(),
    )
    with torch.random.fork_rng(devices=[]):  # reading leaves the caller's random numbers alone
        model = EveNet(config, schema)
    parts = tuple(f"{part}." for part in (*BODY, *(part for head in chosen for part in HEADS[head])))
    used = [
        name
        for name in tensors
        if name.startswith(parts)
        and not any(pattern.search(name) for pattern in UNUSED)
        and not PROPERTIES_AND_TARGETS.search(name)
    ]
    weights = _converted({name: tensors[name] for name in used})
    missing = [
        name for name in model.state_dict() if name.endswith(".num_batches_tracked") and name not in weights
    ]
    load_weights(model, schema, weights | {name: model.state_dict()[name] for name in missing}, source)
    read = (name for name in tensors if name.startswith(parts) and PROPERTIES_AND_TARGETS.search(name))
    taken = {*used, *statistics, *read}
    loaded = tuple(name for name in tensors if name in taken)
    skipped = tuple(name for name in tensors if name not in taken)
    return Imported(model.eval(), ImportAccount(loaded, skipped, tuple(missing)))


def convert_published(
    path: str | Path,
    out: str | Path,
    *,
    heads: Sequence[str] | None = None,
    network: str | Path | None = None,
    topology: str | Path | None = None,
    classes: Sequence[str] | None = None,
    ema: bool = False,
) -> ImportAccount:
    """Write a published checkpoint as a checkpoint folder.

    Parameters
    ----------
    path : path
        A ``.ckpt`` file of the published training code.
    out : path
        Folder to write, all of it or nothing.
    heads, classes, ema
        As in :func:`import_published`.
    network, topology : path, optional
        YAML files with the network options and with the resonances, where they are not the published ones.

    Returns
    -------
    ImportAccount
        What was taken from the file.

    Raises
    ------
    CheckpointError
        As in :func:`import_published`, and if a YAML file cannot be read.
    """
    model, account = import_published(
        path,
        heads=heads,
        network=None if network is None else _read_network(Path(network)),
        topology=None if topology is None else Topology.from_file(topology),
        classes=classes,
        ema=ema,
    )
    which = "running average" if ema else "last step"
    card = f"Converted from {Path(path).name} ({which}). The weights are those of its authors, under their licence.\n"
    model.save_pretrained(out, card=card)
    return account


def _read_network(path: Path) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        msg = f"cannot read the network options {path}: {error}"
        raise CheckpointError(msg) from error
    if not isinstance(content, Mapping):
        msg = f"{path} must hold network options, Body and the heads; found {content!r}"
        raise CheckpointError(msg)
    return content


def _chosen_heads(tensors: Mapping[str, Tensor], heads: Sequence[str] | None, source: str) -> tuple[str, ...]:
    there = {
        head for head, parts in HEADS.items() if any(name.startswith(f"{parts[0]}.") for name in tensors)
    }
    if missing := [part for part in BODY if not any(name.startswith(f"{part}.") for name in tensors)]:
        msg = f"{source} has no {missing[0]}"
        raise CheckpointError(msg)
    if heads is None:
        return tuple(head for head in HEADS if head in there)
    if unknown := [head for head in heads if head not in HEADS]:
        msg = f"heads must be some of {', '.join(HEADS)}; found {unknown[0]!r}"
        raise CheckpointError(msg)
    if missing := [head for head in heads if head not in there]:
        listed = ", ".join(head for head in HEADS if head in there) or "none"
        msg = f"{source} has no {HEADS[missing[0]][0]}, the weights of {missing[0]}; its heads are: {listed}"
        raise CheckpointError(msg)
    return tuple(head for head in HEADS if head in heads)


def _read_tensors(path: Path, *, ema: bool) -> dict[str, Tensor]:
    if not path.is_file():
        msg = f"there is no checkpoint file {path}"
        raise CheckpointError(msg)
    if not zipfile.is_zipfile(path):
        msg = f"{path} is not a file that torch.save has written, or only a part of one"
        raise CheckpointError(msg)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        msg = f"{path} holds more than plain tensors, and nothing else is read"
        raise CheckpointError(msg) from error
    except (RuntimeError, OSError) as error:
        msg = f"cannot read {path}: {error}"
        raise CheckpointError(msg) from error
    tensors: dict[str, Tensor] = {}
    for key in ("state_dict", "ema_state_dict") if ema else ("state_dict",):
        if not isinstance(content, Mapping) or not isinstance(content.get(key), Mapping):
            found = some(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
            msg = f"{path} must hold {key!r}; found {found}"
            raise CheckpointError(msg)
        tensors.update((PREFIXES.sub("", name), value) for name, value in content[key].items())
    return tensors


def _with_statistics(
    schema: EventSchema, tensors: Mapping[str, Tensor], heads: Sequence[str], source: str
) -> tuple[EventSchema, list[str]]:
    # The schema with the means and widths of the file, and the names under which the file has them.
    objects, object_keys = _scaled_features(schema.objects, "objects", "sequential", tensors, source)
    events, event_keys = _scaled_features(schema.event_features, "event features", "global", tensors, source)
    schema = dataclasses.replace(schema, objects=objects, event_features=events)
    names = object_keys + event_keys
    if "invisible_generation" in heads:
        invisible, keys = _scaled_features(
            schema.invisible, "features of invisible particles", "invisible", tensors, source
        )
        schema, names = dataclasses.replace(schema, invisible=invisible), names + keys
    if "object_generation" in heads or "global_generation" in heads:
        count, keys = _scaled_features(
            [schema.n_objects], "numbers of objects", "num_point_cloud", tensors, source
        )
        schema, names = dataclasses.replace(schema, n_objects=count[0]), names + keys
    return schema, names


def _scaled_features(
    features: Sequence[Feature], what: str, normaliser: str, tensors: Mapping[str, Tensor], source: str
) -> tuple[tuple[Feature, ...], list[str]]:
    keys = [f"{normaliser}_normalizer.{key}" for key in ("norm_mask", "mean", "std")]
    if missing := [key for key in keys if key not in tensors]:
        msg = f"{source} lacks the normalisation {', '.join(missing)}"
        raise CheckpointError(msg)
    is_scaled, mean, std = (tensors[key].reshape(-1).tolist() for key in keys)
    if normaliser == "invisible":  # one flag for all, and zeros and ones for columns that are only padding
        is_scaled = is_scaled * len(features)
        mean, std = mean[: len(features)], std[: len(features)]
    if len(mean) != len(features):
        listed = ", ".join(feature.name for feature in features)
        msg = f"{source} has {len(mean)} {what}, the schema has {len(features)} ({listed})"
        raise CheckpointError(msg)
    statistics = zip(features, is_scaled, mean, std, strict=True)
    return tuple(_scaled(*each, source=source) for each in statistics), keys


def _scaled(feature: Feature, is_scaled: bool, mean: float, std: float, *, source: str) -> Feature:
    if is_scaled != (feature.transform in ("standard", "log", "uniform")):
        does = "scales" if is_scaled else "does not scale"
        msg = f"{source} {does} {feature.name}, but the schema has transform {feature.transform!r}"
        raise CheckpointError(msg)
    return dataclasses.replace(feature, mean=mean, std=std) if is_scaled else feature


def _with_classes(
    schema: EventSchema,
    names: tuple[str, ...],
    tensors: Mapping[str, Tensor],
    heads: Sequence[str],
    source: str,
) -> EventSchema:
    outputs = [name for name in tensors if name.startswith("Classification.") and name.endswith(CLASS_OUTPUT)]
    if "classification" in heads and len(outputs) != 1:
        msg = f"{source} must have one classification; found {len(outputs)} ({some(outputs)})"
        raise CheckpointError(msg)
    sizes = {
        "classification": tensors[outputs[0]].shape[0] if outputs else 0,
        **{head: tensors[key].shape[1] for head, key in LABELS.items() if key in tensors},
    }
    for head in heads:
        if head in sizes and len(names) != sizes[head]:
            does = "separates" if head == "classification" else f"generates ({head})"
            msg = f"{source} {does} {sizes[head]} classes; found {len(names)} names ({', '.join(names)}): pass classes"
            raise CheckpointError(msg)
    return dataclasses.replace(schema, classes=names)


def _converted(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # Our names and shapes. What no rule knows keeps its name, and is an error when the weights are loaded.
    weights: dict[str, Tensor] = {}
    blocks: dict[str, dict[int, Tensor]] = {}
    for name, tensor in tensors.items():
        ours = name
        for pattern, replacement in NAMES:
            ours = pattern.sub(replacement, ours)
        place, _, kind = ours.rpartition(".")
        prefix, _, last = place.rpartition(".")
        if last in BLOCKS:
            merged, position = BLOCKS[last]
            blocks.setdefault(f"{prefix}.{merged}.{kind}", {})[position] = tensor
        elif last == "own" and kind == "weight":
            towards, own = tensor.chunk(2, dim=1)
            weights |= {f"{prefix}.neighbour.weight": towards, ours: own - towards}
        elif ours.endswith(("_token", "_type")):
            weights[ours] = tensor.flatten()
        else:
            weights[ours] = tensor
    for name, parts in blocks.items():
        weights[name] = torch.cat([parts[i] for i in sorted(parts)])
    return weights
