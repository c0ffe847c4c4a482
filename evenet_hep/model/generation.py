"""The diffusion model: noise into objects, invisible particles and event features, and out of them again.

Training and sampling call the same functions, so that masks, conditions and invisible particles are treated alike:

==================  ============================  ================================  ==========================
what is generated   noised for training           velocity                          drawn
==================  ============================  ================================  ==========================
objects             :func:`noise_objects`         :func:`object_velocity`           :func:`sample_objects`
invisible           :func:`noise_invisible`       :func:`invisible_velocity`        :func:`sample_invisible`
event as a whole    :func:`noise_globals`         :func:`global_velocity`           :func:`sample_globals`
==================  ============================  ================================  ==========================

All take the network first; for samples it should be in eval mode. Raw values are in GeV and radians; noised ones are
columns after the transform.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812  as PyTorch calls it
from torch import Tensor

from evenet_hep.errors import ConfigError
from evenet_hep.model.diffusion import Method, add_noise, sample
from evenet_hep.model.evenet import EveNet
from evenet_hep.model.heads.generation import (
    GlobalGenerationConfig,
    GlobalGenerationHead,
    ObjectGenerationConfig,
    PointGenerationHead,
)
from evenet_hep.model.object_encoder import Encoding


class NoisedObjects(NamedTuple):
    """Objects of which some are noised.

    Attributes
    ----------
    columns : Tensor, shape (B, N, columns)
        Noised objects with the features that are not generated set to zero, and the others as they are.
    time : Tensor, shape (B,)
        Diffusion time.
    noised : bool Tensor, shape (B, N)
        True for a noised object.
    attention_mask : bool Tensor, shape (B, N, N), or None
        True where an object may attend another; None for everywhere.
    """

    columns: Tensor
    time: Tensor
    noised: Tensor
    attention_mask: Tensor | None = None


class NoisedEncoding(NamedTuple):
    """Noised events as the body sees them.

    Attributes
    ----------
    points : Tensor, shape (B, N, D)
        Vectors of the objects, for the velocity.
    condition : Tensor, shape (B, D)
        Vector of the event features that the network is told.
    """

    points: Tensor
    condition: Tensor


class InvisibleParticles(NamedTuple):
    """Samples of invisible particles.

    Attributes
    ----------
    features : Tensor, shape (B, I, features)
        Raw values in GeV and radians, in the order of ``schema.invisible``; zero for padded slots.
    mask : bool Tensor, shape (B, I)
        True for a particle.
    """

    features: Tensor
    mask: Tensor


class EventGlobals(NamedTuple):
    """Samples of events as a whole.

    Attributes
    ----------
    n_objects : Tensor, shape (B,)
        Number of objects, not rounded.
    event_features : Tensor, shape (B, targets)
        Raw values of the features in ``global_generation.targets``, in GeV and radians.
    """

    n_objects: Tensor
    event_features: Tensor


# --- objects ---------------------------------------------------------------------------------------------------------


def noise_objects(
    model: EveNet,
    objects: Tensor,
    mask: Tensor,
    time: Tensor,
    noise: Tensor,
    *,
    selected: Tensor | None = None,
    hide: bool = False,
) -> tuple[NoisedObjects, Tensor]:
    """Noise some objects of each event.

    Parameters
    ----------
    model : EveNet
        With object generation.
    objects : Tensor, shape (B, N, F)
        Raw object features.
    mask : bool Tensor, shape (B, N)
        True for a real object.
    time : Tensor, shape (B,)
        Diffusion time.
    noise : Tensor, shape (B, N, columns)
        Standard normal numbers; one per column after the transform.
    selected : bool Tensor, shape (B, N), optional
        Objects to noise; all by default.
    hide : bool
        True forbids the others to attend noised objects.

    Returns
    -------
    NoisedObjects, Tensor
        And the true velocity of the generated columns, shape (B, N, generated), to be compared where ``noised``.
    """
    noised = mask if selected is None else mask & selected
    clean = model.object_transform(objects, mask)
    mixed = add_noise(clean, time, noise.to(clean.dtype))
    generated = _generated(model)
    columns = torch.where(noised[..., None], _only(mixed.x, generated), clean)
    attention_mask = noised[:, :, None] | ~noised[:, None, :] if hide else None
    return NoisedObjects(columns, time, noised, attention_mask), mixed.velocity[..., generated]


def encode_noised(
    model: EveNet, noised: NoisedObjects, mask: Tensor, event_features: Tensor
) -> NoisedEncoding:
    """Noised events after the point-edge transformer."""
    points = model.pet(
        noised.columns,
        mask,
        time=noised.time,
        time_mask=noised.noised,
        attention_mask=noised.attention_mask,
    )
    return NoisedEncoding(points, model.embed_event(_told(model, event_features)))


def classify_noised(model: EveNet, encoded: NoisedEncoding, mask: Tensor) -> Encoding:
    """The rest of the body on noised events, for :meth:`EveNet.apply_heads`."""
    encoding: Encoding = model.object_encoder(
        encoded.points, mask, encoded.condition, model.has_condition(mask)
    )
    return encoding


def object_velocity(
    model: EveNet,
    noised: NoisedObjects,
    encoded: NoisedEncoding,
    mask: Tensor,
    *,
    label: Tensor | None = None,
) -> Tensor:
    """Velocity of the generated columns, shape (B, N, generated).

    Parameters
    ----------
    model, noised, mask
        As in :func:`noise_objects`.
    encoded : NoisedEncoding
        As given by :func:`encode_noised`.
    label : int Tensor, shape (B,), optional
        Class to generate; -1, or None, for no class in particular.
    """
    count = model.count_transform(mask.sum(dim=1, keepdim=True))[:, 0]
    velocity: Tensor = _object_head(model)(
        encoded.points,
        mask,
        encoded.condition,
        noised.time,
        noised.noised,
        label=label,
        count=count,
        attention_mask=noised.attention_mask,
    )
    return velocity[..., _generated(model)]


def sample_objects(
    model: EveNet,
    mask: Tensor,
    event_features: Tensor,
    *,
    label: Tensor | None = None,
    steps: int = 20,
    method: Method = "midpoint",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Objects of whole events.

    Parameters
    ----------
    model : EveNet
        With object generation.
    mask : bool Tensor, shape (B, N)
        True where an object is wanted.
    event_features : Tensor, shape (B, G)
        Raw event features; those in ``object_generation.conditions`` are used.
    label : int Tensor, shape (B,), optional
        Class to generate; -1, or None, for no class in particular.
    steps, method
        See :func:`~evenet_hep.model.diffusion.sample`.
    generator : torch.Generator, optional
        Source of the noise, on the device of ``mask``.

    Returns
    -------
    Tensor, shape (B, N, F)
        Raw object features in GeV and radians. Features that are not generated are those of a column of zeros;
        padded slots are zero.
    """
    generated = _generated(model)
    width = model.object_transform.width

    def velocity(x: Tensor, time: Tensor) -> Tensor:
        noised = NoisedObjects(_spread(x, generated, width) * mask[..., None], time, mask)
        encoded = encode_noised(model, noised, mask, event_features)
        return object_velocity(model, noised, encoded, mask, label=label)

    start = _noise(model, (*mask.shape, len(generated)), mask.device, generator) * mask[..., None]
    columns = sample(velocity, start, steps=steps, method=method)
    return model.object_transform.inverse(_spread(columns, generated, width), mask)


# --- invisible particles ---------------------------------------------------------------------------------------------


def noise_invisible(
    model: EveNet, features: Tensor, mask: Tensor, time: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """Noise invisible particles.

    Parameters
    ----------
    model : EveNet
        With invisible generation.
    features : Tensor, shape (B, I, features)
        Raw values in GeV and radians, in the order of ``schema.invisible``.
    mask : bool Tensor, shape (B, I)
        True for a particle.
    time : Tensor, shape (B,)
        Diffusion time.
    noise : Tensor, shape (B, I, columns)
        Standard normal numbers.

    Returns
    -------
    Tensor, Tensor, both of shape (B, I, columns)
        Noised columns, zero for padded slots, and their true velocity.
    """
    clean = model.invisible_transform(features, mask)
    mixed = add_noise(clean, time, noise.to(clean.dtype))
    return mixed.x * mask[..., None], mixed.velocity * mask[..., None]


def invisible_velocity(
    model: EveNet,
    columns: Tensor,
    invisible_mask: Tensor,
    time: Tensor,
    objects: Tensor,
    mask: Tensor,
    event_features: Tensor,
    *,
    label: Tensor | None = None,
) -> Tensor:
    """Velocity of noised invisible particles in an event whose objects are known.

    Objects do not attend invisible particles: what the network says about them does not depend on the noise.

    Parameters
    ----------
    model : EveNet
        With invisible generation.
    columns : Tensor, shape (B, I, columns)
        Noised columns.
    invisible_mask : bool Tensor, shape (B, I)
        True for a particle.
    time : Tensor, shape (B,)
        Diffusion time.
    objects, mask, event_features
        Raw values of the event, as in :meth:`EveNet.forward`.
    label : int Tensor, shape (B,), optional
        Class of the event; -1, or None, for no class in particular.

    Returns
    -------
    Tensor, shape (B, I, columns)
        Zero for padded slots.
    """
    head = _invisible_head(model)
    width = model.invisible_transform.width
    if model.invisible_projection is not None:
        as_objects = model.invisible_projection(columns)
    else:
        as_objects = F.pad(columns, (0, model.object_transform.width - width))
    as_objects = torch.where(invisible_mask[..., None], as_objects, 0.0)
    seen = model.object_transform(objects, mask)
    everything = torch.cat([seen, as_objects], dim=1)
    real = torch.cat([mask, invisible_mask], dim=1)
    noised = torch.cat([torch.zeros_like(mask), invisible_mask], dim=1)
    invisible = torch.arange(real.shape[1], device=mask.device) >= mask.shape[1]
    attention_mask = invisible[:, None] | ~invisible[None, :]
    points = model.pet(everything, real, time=time, time_mask=noised, attention_mask=attention_mask)
    condition = model.embed_event(model.event_transform(event_features))
    velocity: Tensor = head(points, real, condition, time, noised, label=label, attention_mask=attention_mask)
    return velocity[:, mask.shape[1] :, :width]


def sample_invisible(
    model: EveNet,
    objects: Tensor,
    mask: Tensor,
    event_features: Tensor,
    invisible_mask: Tensor,
    *,
    label: Tensor | None = None,
    steps: int = 20,
    method: Method = "midpoint",
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> InvisibleParticles:
    """Invisible particles of events whose objects are known.

    Parameters
    ----------
    model, objects, mask, event_features, label
        As in :func:`invisible_velocity`.
    invisible_mask : bool Tensor, shape (B, I)
        True where a particle is wanted.
    steps, method
        See :func:`~evenet_hep.model.diffusion.sample`.
    noise : Tensor, shape (B, I, columns), optional
        Standard normal numbers to start from.
    generator : torch.Generator, optional
        Source of the noise where it is not given, on the device of ``mask``.

    Returns
    -------
    InvisibleParticles
    """

    def velocity(x: Tensor, time: Tensor) -> Tensor:
        return invisible_velocity(model, x, invisible_mask, time, objects, mask, event_features, label=label)

    shape = (*invisible_mask.shape, model.invisible_transform.width)
    start = _noise(model, shape, mask.device, generator) if noise is None else noise
    start = start * invisible_mask[..., None]
    columns = sample(velocity, start, steps=steps, method=method)
    return InvisibleParticles(model.invisible_transform.inverse(columns, invisible_mask), invisible_mask)


# --- the event as a whole --------------------------------------------------------------------------------------------


def noise_globals(
    model: EveNet, n_objects: Tensor, event_features: Tensor, time: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """Noise the number of objects and the generated event features.

    Parameters
    ----------
    model : EveNet
        With global generation.
    n_objects : Tensor, shape (B,)
        Number of objects.
    event_features : Tensor, shape (B, G)
        Raw event features.
    time : Tensor, shape (B,)
        Diffusion time.
    noise : Tensor, shape (B, 1 + targets)
        Standard normal numbers.

    Returns
    -------
    Tensor, Tensor, both of shape (B, 1 + targets)
        Noised columns and their true velocity.
    """
    head = _global_config(model)
    count = model.count_transform(n_objects[:, None])
    chosen = model.event_transform(event_features)[:, _event_columns(model, head.targets)]
    mixed = add_noise(torch.cat([count, chosen], dim=1), time, noise.to(count.dtype))
    return mixed.x, mixed.velocity


def global_velocity(
    model: EveNet,
    columns: Tensor,
    time: Tensor,
    event_features: Tensor,
    *,
    label: Tensor | None = None,
) -> Tensor:
    """Velocity of noised event columns (B, 1 + targets), from raw event features (B, G) and class labels (B,)."""
    told = model.event_transform(event_features)[:, _event_columns(model, _global_config(model).conditions)]
    velocity: Tensor = _global_head(model)(columns, time, told, label=label)
    return velocity


def sample_globals(
    model: EveNet,
    event_features: Tensor,
    *,
    label: Tensor | None = None,
    steps: int = 20,
    method: Method = "midpoint",
    generator: torch.Generator | None = None,
) -> EventGlobals:
    """Number of objects and event features of whole events.

    Parameters
    ----------
    model : EveNet
        With global generation.
    event_features : Tensor, shape (B, G)
        Raw event features; those in ``global_generation.conditions`` are used.
    label, steps, method, generator
        As in :func:`sample_objects`.
    """
    targets = _event_columns(model, _global_config(model).targets)

    def velocity(x: Tensor, time: Tensor) -> Tensor:
        return global_velocity(model, x, time, event_features, label=label)

    start = _noise(model, (len(event_features), 1 + len(targets)), event_features.device, generator)
    columns = sample(velocity, start, steps=steps, method=method)
    n_objects = model.count_transform.inverse(columns[:, :1])[:, 0]
    raw: Tensor = model.event_transform.inverse(_spread(columns[:, 1:], targets, model.event_transform.width))
    names = _global_config(model).targets
    return EventGlobals(n_objects, raw[:, [model.event_transform.names.index(name) for name in names]])


# --- parts -----------------------------------------------------------------------------------------------------------


def _object_config(model: EveNet) -> ObjectGenerationConfig:
    if model.config.object_generation is None:
        raise ConfigError(_lacks("object generation"))
    return model.config.object_generation


def _object_head(model: EveNet) -> PointGenerationHead:
    if model.object_generation is None:
        raise ConfigError(_lacks("object generation"))
    return model.object_generation


def _invisible_head(model: EveNet) -> PointGenerationHead:
    if model.invisible_generation is None:
        raise ConfigError(_lacks("invisible generation"))
    return model.invisible_generation


def _global_config(model: EveNet) -> GlobalGenerationConfig:
    if model.config.global_generation is None:
        raise ConfigError(_lacks("global generation"))
    return model.config.global_generation


def _global_head(model: EveNet) -> GlobalGenerationHead:
    if model.global_generation is None:
        raise ConfigError(_lacks("global generation"))
    return model.global_generation


def _lacks(what: str) -> str:
    return f"the network has no {what}; it was built, or loaded, without that head"


def _generated(model: EveNet) -> list[int]:
    # Columns of the objects that are generated.
    names = _object_config(model).features or model.object_transform.names
    return [column for name in names for column in model.object_transform.columns(name)]


def _event_columns(model: EveNet, names: tuple[str, ...]) -> list[int]:
    return [column for name in names for column in model.event_transform.columns(name)]


def _told(model: EveNet, event_features: Tensor) -> Tensor:
    # Columns of the event features with those set to zero that the network is not told.
    config = _object_config(model)
    if config.zeroed_conditions == "raw":
        kept = [model.event_transform.names.index(name) for name in config.conditions]
        columns: Tensor = model.event_transform(_only(event_features, kept))
        return columns
    return _only(model.event_transform(event_features), _event_columns(model, config.conditions))


def _only(x: Tensor, columns: list[int]) -> Tensor:
    # Those columns, zero elsewhere: what is left out may be anything, NaN included.
    return _spread(x[..., columns], columns, x.shape[-1])


def _spread(x: Tensor, columns: list[int], width: int) -> Tensor:
    # Columns back to their places, zero elsewhere.
    wide = x.new_zeros(*x.shape[:-1], width)
    wide[..., columns] = x
    return wide


def _noise(
    model: EveNet, shape: tuple[int, ...], device: torch.device, generator: torch.Generator | None
) -> Tensor:
    return torch.randn(shape, dtype=model.count_transform.mean.dtype, device=device, generator=generator)
