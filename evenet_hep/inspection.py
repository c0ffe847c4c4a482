"""What is in a file or a checkpoint, for people: which schema fields a file can fill and from what."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from evenet_hep.errors import EveNetError
from evenet_hep.events.nanoaod import Branches, describe_sources
from evenet_hep.events.reading import inspect_file, read_chunks
from evenet_hep.schema import EventSchema
from evenet_hep.share import find_checkpoint


class FieldReport(NamedTuple):
    """What a file offers a schema.

    Parameters
    ----------
    kind : str
        ``"ROOT"`` or ``"Parquet"``.
    n_events, n_branches : int
        Size of the tree or table.
    sources : dict of str to str
        Schema field -> the branches it is filled from; empty if it cannot be filled.
    missing : dict of str to str
        Fields that cannot be filled, or not for every collection -> why.
    """

    kind: str
    n_events: int
    n_branches: int
    sources: dict[str, str]
    missing: dict[str, str]

    @property
    def problem(self) -> str:
        """Why the file does not fit the schema, in a sentence; empty if it does."""
        if not self.missing:
            return ""
        return f"the file cannot fill {', '.join(self.missing)}: {next(iter(self.missing.values()))}"


def inspect_fields(
    path: str | Path, schema: EventSchema, *, tree: str = "Events", branches: Branches | None = None
) -> FieldReport:
    """Which fields of a schema a file can fill, and from which branches; reads at most one event.

    Raises
    ------
    FileError
        If the file cannot be read.
    """
    content = inspect_file(path, tree=tree)
    event = next(read_chunks(path, schema, tree=tree, branches=branches, chunk_size=1, check=False)).events
    found = describe_sources(event, schema, branches or Branches())
    return FieldReport(content.kind, content.n_events, len(content.branches), *found)


def describe_model(name: str | Path) -> str:
    """A checkpoint in words: features with units and transforms, classes, size, and its card if it has one.

    Raises
    ------
    CheckpointError
        If there is no such checkpoint.
    """
    folder = find_checkpoint(name)
    schema = EventSchema.from_file(folder / "schema.json")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        msg = f"{folder / 'config.json'} cannot be read: {error}"
        raise EveNetError(msg) from error
    lines = [f"checkpoint {folder}", f"capacity: {schema.capacity} objects"]
    for title, features in (("object features", schema.objects), ("event features", schema.event_features)):
        lines.append(f"{title}:")
        for feature in features:
            words = [feature.unit, feature.transform, feature.definition]
            lines.append(f"  {feature.name:12s} {', '.join(word for word in words if word)}")
    lines.append(f"classes: {', '.join(schema.classes) or 'none'}")
    lines.append(f"network: {json.dumps(config)}")
    size = (folder / "model.safetensors").stat().st_size
    lines.append(f"weights: {size / 1e6:.2f} MB")
    card = folder / "README.md"
    if card.is_file():
        lines += ["", card.read_text(encoding="utf-8").rstrip()]
    return "\n".join(lines)
