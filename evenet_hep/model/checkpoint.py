"""Weights on disk: a folder with ``model.safetensors``, ``config.json`` and ``schema.json``.

A ``README.md`` stands beside them where a card was given. Nothing is ever unpickled, and reading is strict: weights
that are missing, unexpected or of another shape than the configuration and the schema ask for are an error. The files
of the published networks are read by :mod:`evenet_hep.model.published`.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
from torch import Tensor, nn

from evenet_hep.errors import CheckpointError, SchemaError
from evenet_hep.schema import EventSchema

WEIGHTS, CONFIG, SCHEMA, CARD = "model.safetensors", "config.json", "schema.json", "README.md"
FORMAT = 1  # of the folder; raised when an old one would be read wrongly
EVENET = "evenet"  # the kind of network that a folder holds if it names none
CLASSES = {
    EVENET: "EveNet",
    "graph": "GraphNetwork",
    "jets": "JetNetwork",
    "jet-kinematics": "JetKinematics",
}  # which class opens which kind


class Checkpoint(NamedTuple):
    """What a folder holds.

    Attributes
    ----------
    weights : dict of str to Tensor
        Parameters and running statistics by name.
    config : dict
        The network configuration as plain dictionaries.
    schema : EventSchema
        Features, transforms and classes.
    kind : str
        Which network it is, a key of ``CLASSES``.
    """

    weights: dict[str, Tensor]
    config: dict[str, Any]
    schema: EventSchema
    kind: str = EVENET


def write_checkpoint(folder: str | Path, checkpoint: Checkpoint, *, card: str | None = None) -> None:
    """Write a folder, all of it or nothing.

    Parameters
    ----------
    folder : path
        Created if needed. A checkpoint that is already there is replaced.
    checkpoint : Checkpoint
        What to write. Weights may be on any device and keep their precision.
    card : str, optional
        Markdown for a reader: data, training, licence. Written as ``README.md``.

    Raises
    ------
    CheckpointError
        If the path is a file, or a folder with anything in it that does not belong to a checkpoint.
    """
    target = Path(folder).expanduser().resolve()
    _refuse_foreign(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f".{target.name}-{uuid.uuid4().hex[:8]}")
    fresh.mkdir()
    try:
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.weights.items()}
        # Written like the other files: safetensors' own writer makes a file that only its owner may read.
        (fresh / WEIGHTS).write_bytes(safetensors.torch.save(weights, metadata={"format": "pt"}))
        kind = {} if checkpoint.kind == EVENET else {"kind": checkpoint.kind}
        config = {"format": FORMAT, **kind, **checkpoint.config}
        (fresh / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        (fresh / SCHEMA).write_text(checkpoint.schema.to_json() + "\n", encoding="utf-8")
        if card is not None:
            (fresh / CARD).write_text(card, encoding="utf-8")
        _swap(fresh, target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _refuse_foreign(target: Path) -> None:
    if target.exists() and not target.is_dir():
        msg = f"a checkpoint is a folder, but {target} is a file"
        raise CheckpointError(msg)
    found = {entry.name for entry in target.iterdir()} if target.is_dir() else set()
    if foreign := sorted(found - {WEIGHTS, CONFIG, SCHEMA, CARD}):
        msg = f"{target} is not overwritten: it holds {some(foreign)}, which is no part of a checkpoint"
        raise CheckpointError(msg)


def _swap(fresh: Path, target: Path) -> None:
    if not target.exists():
        fresh.rename(target)
        return
    old = fresh.with_name(fresh.name + "-old")
    target.rename(old)
    try:
        fresh.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old)


def read_checkpoint(folder: str | Path, *, kind: str = EVENET) -> Checkpoint:
    """The contents of a folder, weights on the CPU.

    Parameters
    ----------
    folder : path
        As written by :func:`write_checkpoint`.
    kind : str
        Which network it has to hold.

    Raises
    ------
    CheckpointError
        If the folder or a file in it is missing or damaged, or if it holds another kind of network.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        msg = f"there is no checkpoint folder {folder}"
        raise CheckpointError(msg)
    if missing := [name for name in (WEIGHTS, CONFIG, SCHEMA) if not (folder / name).is_file()]:
        msg = f"{folder} is not a checkpoint: it lacks {', '.join(missing)}"
        raise CheckpointError(msg)
    config = _read_config(folder / CONFIG)
    if (found := config.pop("kind", EVENET)) != kind:
        opener = f"{CLASSES[found]} opens it" if found in CLASSES else f"known are {', '.join(CLASSES)}"
        msg = (
            f"{folder} holds a network of kind {found!r}, not {kind!r}, which {CLASSES[kind]} opens; {opener}"
        )
        raise CheckpointError(msg)
    try:
        schema = EventSchema.from_file(folder / SCHEMA)
    except SchemaError as error:
        raise CheckpointError(str(error)) from error
    try:
        weights = safetensors.torch.load_file(folder / WEIGHTS)
    except (safetensors.SafetensorError, OSError) as error:
        msg = f"cannot read the weights {folder / WEIGHTS}: {error}"
        raise CheckpointError(msg) from error
    return Checkpoint(weights, config, schema, kind)


def read_kind(folder: str | Path) -> str:
    """Which network a folder holds: ``"evenet"``, ``"graph"`` or ``"jets"``.

    Raises
    ------
    CheckpointError
        If its configuration is missing or damaged, or names a kind that is not known here.
    """
    path = Path(folder).expanduser() / CONFIG
    found = _read_config(path).get("kind", EVENET)
    if found not in CLASSES:
        msg = f"{path}: kind must be one of {', '.join(CLASSES)}; found {found!r}"
        raise CheckpointError(msg)
    return str(found)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = f"cannot read the configuration {path}: {error}"
        raise CheckpointError(msg) from error
    found = content.get("format") if isinstance(content, Mapping) else content
    if found != FORMAT:
        msg = f"{path}: format must be {FORMAT}; found {found!r}"
        raise CheckpointError(msg)
    return {key: value for key, value in content.items() if key != "format"}


def load_weights(model: nn.Module, schema: EventSchema, weights: Mapping[str, Tensor], source: str) -> None:
    """Copy weights into a network that was built from the schema; every name and every shape must agree.

    Parameters
    ----------
    model : Module
        Parameters and running statistics are overwritten.
    schema : EventSchema
        Named in the message where it does not fit the weights.
    weights : mapping of str to Tensor
        By name.
    source : str
        Where they come from, for messages.

    Raises
    ------
    CheckpointError
        With the names of what is missing, unexpected or of another shape.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    _check_schema(schema, expected, found, source)
    missing, unexpected = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    shapes = [
        f"{name} is {found[name]} instead of {expected[name]}"
        for name in sorted(set(expected) & set(found))
        if found[name] != expected[name]
    ]
    listed = (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
    if problems := [f"{len(names)} {what} ({some(names)})" for what, names in listed if names]:
        msg = f"{source}: {len(found)} weights for a network that has {len(expected)}: {'; '.join(problems)}"
        raise CheckpointError(msg)
    model.load_state_dict(dict(weights))


def _check_schema(
    schema: EventSchema,
    expected: Mapping[str, tuple[int, ...]],
    found: Mapping[str, tuple[int, ...]],
    source: str,
) -> None:
    # Weights whose shape follows from the schema, and what in the schema it is.
    follows = {
        ("pet.feature_mlp.0.weight", 1): f"columns for the object features {', '.join(schema.object_names)}",
        (
            "event_embedding.0.norm.weight",
            0,
        ): f"columns for the event features {', '.join(schema.event_names)}",
        ("output.weight", 0): "outputs for its labels or classes",
        ("classification.output.weight", 0): f"classes, {', '.join(schema.classes)}",
    }
    for (name, axis), what in follows.items():
        if name not in expected or name not in found or len(found[name]) <= axis:
            continue
        if (ours := expected[name][axis]) != (theirs := found[name][axis]):
            msg = f"{source}: the schema does not fit the weights: it has {ours} {what}; the weights are for {theirs}"
            raise CheckpointError(msg)


def some(names: Iterable[str], *, limit: int = 8) -> str:
    """The first few of a list of names, and how many more there are.

    Examples
    --------
    >>> some(["a", "b", "c"], limit=2)
    'a, b and 1 more'
    """
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
