"""Jets as a whole out of noise: their features and multiplicity, class by class, before any constituent.

The first of the two models of OmniLearn's generation: what it draws is what :func:`~evenet_hep.model.jet_generation.sample_constituents`
is told.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from evenet_hep.errors import CheckpointError, ConfigError
from evenet_hep.model.checkpoint import Checkpoint, load_weights, read_checkpoint, write_checkpoint
from evenet_hep.model.diffusion import Method, add_noise, sample
from evenet_hep.model.heads.generation import GlobalGenerationConfig, GlobalGenerationHead
from evenet_hep.model.jet_generation import sample_constituents
from evenet_hep.model.jets import JetNetwork
from evenet_hep.model.layers import read_config, require
from evenet_hep.model.normalize import FeatureTransform
from evenet_hep.schema import EventSchema

KIND = "jet-kinematics"


@dataclasses.dataclass(frozen=True)
class KinematicsConfig:
    """Size of the network.

    Parameters
    ----------
    width : int
        Width of the vectors.
    blocks : int
        Residual blocks.
    label_drop : float
        Chance of a jet to be trained without its class.
    """

    width: int = 64
    blocks: int = 3
    label_drop: float = 0.1

    def __post_init__(self) -> None:
        for name in ("width", "blocks"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> KinematicsConfig:
        """A configuration from a dictionary; unknown keys are errors."""
        return read_config(cls, content)


class GeneratedJets(NamedTuple):
    """Jets out of noise.

    Attributes
    ----------
    constituents : Tensor, shape (n, N, F)
        Raw features in the order of the schema; those that are not generated, and padded slots, are zero.
    mask : bool Tensor, shape (n, N)
        True for a constituent.
    jet_features : Tensor, shape (n, G)
        Raw features of the jets.
    """

    constituents: Tensor
    mask: Tensor
    jet_features: Tensor


class JetKinematics(nn.Module):
    """Velocity of the noised features of a jet.

    Parameters
    ----------
    config : KinematicsConfig
        Size.
    schema : EventSchema
        Of jets: ``event_features`` are generated, ``classes`` may be asked for.

    Examples
    --------
    >>> from evenet_hep.events.jets import jet_schema
    >>> model = JetKinematics(KinematicsConfig(width=8), jet_schema(classes=("q", "g"))).eval()
    >>> sample_jet_features(model, torch.tensor([0, 1, -1]), steps=2).shape
    torch.Size([3, 4])
    """

    def __init__(self, config: KinematicsConfig, schema: EventSchema) -> None:
        super().__init__()
        self.config = config
        self.schema = schema
        self.jet_transform = FeatureTransform(schema.event_features)
        size = GlobalGenerationConfig(
            width=config.width, blocks=config.blocks, label_drop=config.label_drop, layer_scale=1.0
        )
        self.head = GlobalGenerationHead(
            self.jet_transform.width, conditions=0, classes=len(schema.classes), config=size
        )

    def forward(self, x: Tensor, time: Tensor, label: Tensor | None = None) -> Tensor:
        """Velocities (B, columns) of noised columns (B, columns) at a time (B,), for classes (B,) or -1."""
        found: Tensor = self.head(x, time, x[:, :0], label=label)
        return found

    def loss(self, jet_features: Tensor, label: Tensor, *, time: Tensor, noise: Tensor) -> Tensor:
        """Mean squared error of the velocities.

        Parameters
        ----------
        jet_features : Tensor, shape (B, G)
            Raw features.
        label : int Tensor, shape (B,)
            Class of each jet, or -1.
        time : Tensor, shape (B,)
            Diffusion times.
        noise : Tensor, shape (B, columns)
            Standard normal numbers.
        """
        mixed = add_noise(self.jet_transform(jet_features), time, noise)
        found: Tensor = self(mixed.x, time, label)
        return (found - mixed.velocity).square().mean()

    def save_pretrained(self, folder: str | Path, card: str | None = None) -> None:
        """Write weights, configuration and schema into a folder, all of it or nothing."""
        content = Checkpoint(self.state_dict(), dataclasses.asdict(self.config), self.schema, KIND)
        write_checkpoint(folder, content, card=card)

    @classmethod
    def from_pretrained(cls, source: str | Path) -> JetKinematics:
        """The network of a folder, on the CPU and in eval mode.

        Raises
        ------
        CheckpointError
            If the folder is missing or damaged, or holds a network of another kind.
        """
        content = read_checkpoint(source, kind=KIND)
        try:
            with torch.random.fork_rng(devices=[]):
                model = cls(KinematicsConfig.from_dict(content.config), content.schema)
        except ConfigError as error:
            msg = f"{source}: {error}"
            raise CheckpointError(msg) from error
        load_weights(model, content.schema, content.weights, str(source))
        return model.eval()


@torch.no_grad()
def sample_jet_features(
    model: JetKinematics,
    label: Tensor,
    *,
    steps: int = 50,
    method: Method = "midpoint",
    noise: Tensor | None = None,
) -> Tensor:
    """Features of jets.

    Parameters
    ----------
    model : JetKinematics
        In evaluation mode.
    label : int Tensor, shape (n,)
        Class of each jet; -1 for no class in particular.
    steps, method
        As in :func:`~evenet_hep.model.diffusion.sample`.
    noise : Tensor, shape (n, columns), optional
        Where to start; drawn from PyTorch's generator by default.

    Returns
    -------
    Tensor, shape (n, G)
        Raw features in the order of the schema; ``multiplicity`` is a whole number from 1 to the capacity.
    """
    if noise is None:
        noise = torch.randn(len(label), model.jet_transform.width, device=label.device)

    def velocity(x: Tensor, time: Tensor) -> Tensor:
        found: Tensor = model(x, time, label)
        return found

    columns = sample(velocity, noise, steps=steps, method=method)
    raw: Tensor = model.jet_transform.inverse(columns)
    number = model.schema.event_names.index("multiplicity")
    raw[:, number] = raw[:, number].round().clamp(1, model.schema.capacity)
    return raw


@torch.no_grad()
def sample_jets(
    kinematics: JetKinematics,
    network: JetNetwork,
    label: Tensor,
    *,
    steps: int = 50,
    method: Method = "midpoint",
    batch_size: int = 256,
    progress: Any = None,
) -> GeneratedJets:
    """Whole jets: features first, then as many constituents as they say.

    Parameters
    ----------
    kinematics : JetKinematics
        In evaluation mode.
    network : JetNetwork
        With a generator, the same schema, and in evaluation mode.
    label : int Tensor, shape (n,)
        Class of each jet; -1 for no class in particular.
    steps, method
        Of both.
    batch_size : int
        Jets per pass of the second.
    progress : callable, optional
        Called with the number of jets that are done after every batch.

    Raises
    ------
    ConfigError
        If the two do not generate jets of the same schema.
    """
    if kinematics.schema.event_names != network.schema.event_names or (
        kinematics.schema.classes != network.schema.classes
    ):
        msg = f"both networks must have the same jet features and classes; found {kinematics.schema.classes} and {network.schema.classes}"
        raise ConfigError(msg)
    features = sample_jet_features(kinematics, label, steps=steps, method=method)
    counts = features[:, kinematics.schema.event_names.index("multiplicity")].long()
    capacity = network.schema.capacity
    mask = torch.arange(capacity, device=label.device) < counts[:, None]
    constituents = torch.zeros(len(label), capacity, len(network.schema.objects), device=label.device)
    order = torch.argsort(counts, stable=True)  # like multiplicities together
    done = 0
    for rows in order.split(batch_size):
        slots = int(counts[rows].max())
        constituents[rows, :slots] = sample_constituents(
            network, features[rows], mask[rows, :slots], label=label[rows], steps=steps, method=method
        )
        done += len(rows)
        if progress is not None:
            progress(done)
    return GeneratedJets(constituents, mask, features)
