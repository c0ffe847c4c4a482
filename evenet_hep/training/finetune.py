"""Fine-tuning: a trained network with other heads, more inputs or adapters, and which of its weights may change.

A usual fine-tuning for two new classes, told the masses of the signal hypothesis:

>>> from evenet_hep import EveNet, EveNetConfig, EventSchema, Feature
>>> trained = EveNet(EveNetConfig.tiny(), EventSchema.standard(classes=("a", "b", "c")))
>>> mass = Feature("signal_mass", "GeV", "log", 6.0, 1.0)
>>> model, fresh = extend(trained, adapter=16, added=[mass], classes=("signal", "background"))
>>> trainable = freeze_all_but(model, ("heads", "adapters", "event_embedding", "object_encoder", "norms"))
>>> groups = parameter_groups(model, {"heads": 1e-3, "object_encoder": 3e-4, "pet": 1e-4, "event_embedding": 1e-4})
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from evenet_hep.errors import ConfigError
from evenet_hep.model.evenet import HEADS, EveNet, EveNetConfig
from evenet_hep.schema import EventSchema, Feature

PARTS = ("heads", "adapters", "event_embedding", "object_encoder", "norms", "pet")


class Extended(NamedTuple):
    """A network with the weights of another, and what is new in it.

    Attributes
    ----------
    model : EveNet
        In training mode, on the device of the other.
    fresh : tuple of str
        Names of the parameters and running statistics that keep their initial values.
    """

    model: EveNet
    fresh: tuple[str, ...]


def extend(
    model: EveNet,
    *,
    adapter: int = 0,
    added: Sequence[Feature] = (),
    classes: Sequence[str] | None = None,
    heads: Mapping[str, Any] | None = None,
) -> Extended:
    """The same network with adapters, more event features, other classes or other heads.

    Adapters and added event features start as nothing: until they are trained, the body gives what it gave.

    Parameters
    ----------
    model : EveNet
        Left as it is.
    adapter : int
        Width of a bottleneck behind every block of the point-edge transformer; 0 keeps those the network has.
    added : sequence of Feature
        Event features to append to the schema.
    classes : sequence of str, optional
        Names of other classes. Their number may be the same: every weight that depends on the classes is new.
    heads : mapping of str to configuration or None, optional
        Heads to put in, or to leave out, by the names of their fields in
        :class:`~evenet_hep.model.evenet.EveNetConfig`. A head that is put in is new, even if it had the same size.

    Returns
    -------
    Extended

    Raises
    ------
    ConfigError
        For an unknown head, adapters of another width than those that are there, or sizes that do not fit.
    SchemaError
        For an added feature whose name is taken.

    Examples
    --------
    >>> trained = EveNet(EveNetConfig.tiny(), EventSchema.standard(classes=("a", "b")))
    >>> extend(trained, classes=("signal", "background")).fresh
    ('classification.output.weight', 'classification.output.bias')
    """
    heads = dict(heads or {})
    if unknown := sorted(set(heads) - set(HEADS)):
        msg = f"heads must be some of {', '.join(HEADS)}; found {', '.join(unknown)}"
        raise ConfigError(msg)
    if adapter and model.config.pet.adapter not in (0, adapter):
        msg = f"the network has adapters of width {model.config.pet.adapter}; found adapter={adapter}"
        raise ConfigError(msg)
    schema = dataclasses.replace(
        model.schema,
        event_features=(*model.schema.event_features, *added),
        classes=model.schema.classes if classes is None else tuple(classes),
    )
    embedding = model.config.event_embedding
    names = (*embedding.added, *(feature.name for feature in added))
    config = dataclasses.replace(
        model.config,
        event_embedding=dataclasses.replace(embedding, added=names),
        pet=dataclasses.replace(model.config.pet, adapter=adapter or model.config.pet.adapter),
        **heads,
    )
    return _with_weights(model, config, schema, set(heads), other_classes=classes is not None)


def _with_weights(
    model: EveNet, config: EveNetConfig, schema: EventSchema, new_heads: set[str], *, other_classes: bool
) -> Extended:
    device = next(model.parameters()).device
    extended = EveNet(config, schema).to(device)
    old, new = model.state_dict(), extended.state_dict()
    kept, fresh = {}, []
    for name, tensor in new.items():
        is_new = name.split(".")[0] in new_heads or (other_classes and _depends_on_classes(name))
        if not is_new and name in old and old[name].shape == tensor.shape:
            kept[name] = old[name].clone()
        elif not is_new and name.startswith("added_embedding") and name in old:
            kept[name] = tensor.clone()
            kept[name][:, : old[name].shape[1]] = old[name]
            fresh.append(name)
        else:
            fresh.append(name)
    extended.load_state_dict(kept, strict=False)
    return Extended(extended, tuple(fresh))


def _depends_on_classes(name: str) -> bool:
    return name.startswith("classification.output.") or name.endswith("_generation.label.weight")


def freeze_all_but(model: EveNet, parts: Sequence[str]) -> int:
    """Let some parts of a network be trained and freeze the others.

    Parameters
    ----------
    model : EveNet
        Its parameters' ``requires_grad`` is set.
    parts : sequence of str
        Of ``"heads"``, ``"adapters"``, ``"event_embedding"``, ``"object_encoder"``, ``"norms"`` (all normalisations of
        the point-edge transformer) and ``"pet"`` (the rest of it). The published fine-tuning with adapters trains all
        but the last.

    Returns
    -------
    int
        Number of parameters that can be trained.

    Raises
    ------
    ConfigError
        For an unknown part, or if nothing is left to train.

    Notes
    -----
    Frozen running statistics still move in training mode; call ``eval()`` on a frozen part to stop them.

    Examples
    --------
    >>> model = EveNet(EveNetConfig.tiny(), EventSchema.standard(classes=("a", "b")))
    >>> freeze_all_but(model, ["heads"]) == sum(p.numel() for p in model.classification.parameters())
    True
    """
    if unknown := [part for part in parts if part not in PARTS]:
        msg = f"parts must be some of {', '.join(PARTS)}; found {unknown[0]!r}"
        raise ConfigError(msg)
    total = 0
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part_of(name) in parts)
        total += parameter.numel() * parameter.requires_grad
    if not total:
        msg = f"nothing is left to train: the network has none of {', '.join(parts) or 'no parts'}"
        raise ConfigError(msg)
    return total


def part_of(name: str) -> str:
    """The part a parameter belongs to, by its name.

    Examples
    --------
    >>> part_of("pet.blocks.3.attention_norm.weight"), part_of("pet.blocks.3.adapter.up.weight")
    ('norms', 'adapters')
    >>> part_of("added_embedding.weight"), part_of("assignment.token.weight")
    ('event_embedding', 'heads')
    """
    first, *rest = name.split(".")
    if first == "pet":
        if "adapter" in rest:
            return "adapters"
        return "norms" if any(piece.endswith("norm") for piece in rest) else "pet"
    if first in ("event_embedding", "added_embedding"):
        return "event_embedding"
    return "object_encoder" if first == "object_encoder" else "heads"


def parameter_groups(
    model: nn.Module,
    rates: Mapping[str, float],
    *,
    weight_decay: float = 0.01,
    layer_decay: float = 1.0,
) -> list[dict[str, Any]]:
    """Parameter groups for an optimiser, with a learning rate for each part.

    Parameters
    ----------
    model : EveNet
        Frozen parameters are left out.
    rates : mapping of str to float
        Learning rate of each part, named as in :func:`freeze_all_but`; ``"norms"`` and ``"adapters"`` follow
        ``"pet"`` if they are not there.
    weight_decay : float
        Of the weights of linear layers. Biases, normalisations, scales and learnt tokens have none.
    layer_decay : float
        Factor on the rate of a block of the point-edge transformer for every block behind it.

    Returns
    -------
    list of dict
        ``params``, ``lr``, ``weight_decay`` and ``name`` of each group; every parameter that can be trained is in
        exactly one.

    Raises
    ------
    ConfigError
        If a part that can be trained has no rate, or for unknown names.

    Examples
    --------
    >>> model = EveNet(EveNetConfig.tiny(), EventSchema.standard(classes=("a", "b")))
    >>> rates = {"heads": 1e-3, "object_encoder": 3e-4, "pet": 1e-4, "event_embedding": 1e-4}
    >>> sorted({group["lr"] for group in parameter_groups(model, rates)})
    [0.0001, 0.0003, 0.001]
    """
    if unknown := sorted(set(rates) - set(PARTS)):
        msg = f"rates must be for some of {', '.join(PARTS)}; found {unknown[0]!r}"
        raise ConfigError(msg)
    depth = len(list(_blocks(model)))
    groups: dict[tuple[str, float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part = part_of(name)
        known = [each for each in (part, "pet") if each in rates and part in ("norms", "adapters", each)]
        if not known:
            msg = (
                f"{part} has no learning rate, and {name} of it can be trained; rates has {', '.join(rates)}"
            )
            raise ConfigError(msg)
        rate = rates[known[0]] * layer_decay ** _blocks_behind(name, depth)
        decay = weight_decay if _decays(name, parameter) else 0.0
        group = groups.setdefault(
            (part, rate, decay), {"params": [], "lr": rate, "weight_decay": decay, "name": part}
        )
        group["params"].append(parameter)
    return list(groups.values())


def _blocks(model: nn.Module) -> Iterator[nn.Module]:
    pet = model.get_submodule("pet.blocks")
    return pet.children()


def _blocks_behind(name: str, depth: int) -> int:
    pieces = name.split(".")
    if pieces[0] != "pet":
        return 0
    return depth - 1 - int(pieces[2]) if pieces[1] == "blocks" else depth


def _decays(name: str, parameter: torch.Tensor) -> bool:
    return parameter.ndim > 1 and name.endswith("weight")
