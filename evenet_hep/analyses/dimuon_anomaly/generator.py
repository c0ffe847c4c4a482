"""Generators of background pairs given the mass: two stages of a network with calibration, or a conditional flow.

The first stage draws transverse momentum, rapidity and decay angle of the pair given the mass; the second the two muons
given those. The muons are calibrated to the mass in their rest frame, and pairs with a muon outside the range of the side
bands are dropped. Azimuths are taken relative to that of the pair: that of the pair itself is arbitrary.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from evenet_hep.analyses.dimuon_anomaly.config import GeneratorConfig
from evenet_hep.baselines.cathode import FlowConfig, fit_flow
from evenet_hep.errors import InputError
from evenet_hep.events.cloud import EventCloud
from evenet_hep.events.dimuons import DimuonPairs, make_pairs, mix_pairs, pair_features
from evenet_hep.kinematics.angles import delta_phi
from evenet_hep.kinematics.dimuon import calibrate_dimuon
from evenet_hep.kinematics.vectors import from_cartesian
from evenet_hep.model.evenet import EveNet, EveNetConfig
from evenet_hep.model.generation import sample_globals, sample_objects
from evenet_hep.model.heads.generation import GlobalGenerationConfig, ObjectGenerationConfig
from evenet_hep.schema import EventSchema, Feature
from evenet_hep.stats.weak import assign_folds
from evenet_hep.training.balance import measured_schema
from evenet_hep.training.config import Stage, TrainingConfig
from evenet_hep.training.dataset import ArrayEvents
from evenet_hep.training.presets import SELF_SUPERVISED
from evenet_hep.training.run import fit

FloatArray = npt.NDArray[np.float64]
# Masses and a seed -> features of background pairs of those masses, and how well they were made.
Generator = Callable[[FloatArray, int], "GeneratedFeatures"]

TOLD = ("mass", "pair_pt", "rapidity", "cos_theta")


class GeneratedFeatures(NamedTuple):
    """Background pairs as the trees see them.

    Parameters
    ----------
    features : float64 array, shape (n, n_features)
        One row per pair that passed the cuts; n may be below the number of masses.
    masses : float64 array, shape (n,)
        In GeV.
    efficiency : float
        Part that passed the cuts after the generation.
    mass_error : float
        Median of ``|M / m_gen - 1|`` before the calibration; 0 for a generator of features.
    """

    features: FloatArray
    masses: FloatArray
    efficiency: float
    mass_error: float


def pair_schema() -> EventSchema:
    """What the network reads and generates: two muons, and mass and motion of the pair."""
    return EventSchema(
        objects=(
            Feature("pt", "GeV", "log"),
            Feature("eta", "", "standard"),
            Feature("phi", "rad", "periodic"),
        ),
        event_features=(
            Feature("mass", "GeV", "standard"),
            Feature("pair_pt", "GeV", "log"),
            Feature("rapidity", "", "standard"),
            Feature("cos_theta", "", "standard"),
        ),
        capacity=2,
    )


def pair_cloud(pairs: DimuonPairs, schema: EventSchema) -> EventCloud:
    """Pairs as the network reads them; azimuths are relative to that of the pair."""
    first, second = pairs.momenta
    px, py, pz, energy = first + second
    azimuth = np.arctan2(py, px)
    columns = [from_cartesian(*momentum) for momentum in (first, second)]
    objects = np.stack([np.stack([m.pt, m.eta, delta_phi(m.phi, azimuth)], axis=1) for m in columns], axis=1)
    told = np.stack(
        [pairs.mass, np.hypot(px, py), np.arctanh(pz / energy), pair_features(pairs, ["cos_theta"])[:, 0]],
        axis=1,
    )
    mask = np.ones((pairs.n, 2), bool)
    return EventCloud.from_arrays(objects.astype(np.float32), mask, told.astype(np.float32), schema)


def network_config(size: str) -> EveNetConfig:
    """A network with the two heads of the generation and no other."""
    body = EveNetConfig.of_size(size)
    return dataclasses.replace(
        body,
        classification=None,
        object_generation=ObjectGenerationConfig(conditions=TOLD),
        global_generation=GlobalGenerationConfig(targets=TOLD[1:], conditions=TOLD[:1]),
    )


def _settings(config: GeneratorConfig, *, epochs: int, lr: float, seed: int) -> TrainingConfig:
    return TrainingConfig(
        epochs=epochs,
        batch_size=config.batch_size,
        lr=lr,
        seed=seed,
        warmup=min(1.0, epochs),
        class_condition=0.0,
        stages=(Stage(losses=SELF_SUPERVISED),),
    )


def train_network(
    train: DimuonPairs, val: DimuonPairs, config: GeneratorConfig, *, seed: int, start: EveNet | None = None
) -> EveNet:
    """A network that has learned pairs given their mass.

    Parameters
    ----------
    train, val : DimuonPairs
        Pairs to learn, and pairs that say which epoch is the best.
    config : GeneratorConfig
    seed : int
        Of first weights, batches and noise.
    start : EveNet, optional
        A trained network to go on with; it is left as it is.
    """
    if min(train.n, val.n) < 2:
        msg = f"a generator needs pairs in its side bands; found {train.n} and {val.n}"
        raise InputError(msg)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if start is None:
            events = ArrayEvents(pair_cloud(train, pair_schema()))
            model = EveNet(network_config(config.size), measured_schema(events))
        else:
            model = copy.deepcopy(start)
        parts = [ArrayEvents(pair_cloud(pairs, model.schema)) for pairs in (train, val)]
        epochs = config.scratch_epochs if start is None else config.epochs
        lr = config.lr if start is None else config.finetuning_lr
        fit(model, parts[0], parts[1], _settings(config, epochs=epochs, lr=lr, seed=seed), None, False, False,
            {"accelerator": "cpu"})  # fmt: skip
    return model.eval()


def pretrain_network(
    pairs: DimuonPairs, config: GeneratorConfig, *, span: tuple[float, float], seed: int
) -> EveNet:
    """A network that has learned pairs mixed from different events.

    Parameters
    ----------
    pairs : DimuonPairs
        Real pairs of opposite sign to mix; none of those that are searched.
    span : tuple of two floats
        Masses in GeV.
    """
    mixed = mix_pairs(pairs, config.pretraining_events, span=span, seed=[seed, 1])
    held = max(2, mixed.n // 10)
    longer = dataclasses.replace(config, scratch_epochs=config.pretraining_epochs)
    return train_network(mixed.take(slice(held, None)), mixed.take(slice(held)), longer, seed=seed)


class GeneratedPairs(NamedTuple):
    """Pairs of a network, calibrated to their masses.

    Parameters
    ----------
    pairs : DimuonPairs
    masses, m_gen : float64 array, shape (n,)
        Asked for, and as generated before the calibration, in GeV.
    """

    pairs: DimuonPairs
    masses: FloatArray
    m_gen: FloatArray


def draw_pairs(model: EveNet, masses: FloatArray, *, steps: int, seed: int) -> GeneratedPairs:
    """One calibrated pair for every mass; a pair that cannot be calibrated is left out.

    Parameters
    ----------
    model : EveNet
        As trained by :func:`train_network`.
    masses : float64 array, shape (n,)
        In GeV.
    steps : int
        Of the sampling.
    seed : int
        Of the noise.
    """
    noise = torch.Generator().manual_seed(seed)
    told = torch.zeros(len(masses), len(TOLD))
    told[:, 0] = torch.as_tensor(masses, dtype=torch.float32)
    motion = sample_globals(model, told, steps=steps, generator=noise).event_features
    told[:, 1:] = motion
    told[:, 1] = told[:, 1].clamp(min=0.0)
    told[:, 3] = told[:, 3].clamp(0.0, 1.0)
    mask = torch.ones(len(masses), 2, dtype=torch.bool)
    objects = sample_objects(model, mask, told, steps=steps, generator=noise).double().numpy()
    pt, eta, phi = np.maximum(objects[..., 0], 1e-3), objects[..., 1], objects[..., 2]
    momenta = np.stack([pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)])  # (3, n, 2)
    found = calibrate_dimuon(momenta[..., 0], momenta[..., 1], masses)
    kept = found.valid
    charges = np.stack([np.ones(kept.sum()), -np.ones(kept.sum())])
    pairs = make_pairs(found.muon1[:3, kept], found.muon2[:3, kept], charges)
    return GeneratedPairs(pairs, masses[kept], found.m_gen[kept])


def network_generator(
    side_bands: DimuonPairs,
    config: GeneratorConfig,
    features: tuple[str, ...],
    *,
    seed: int,
    start: EveNet | None = None,
) -> Generator:
    """Networks trained on folds of the side bands, as one generator that draws from them in equal parts."""
    folds = assign_folds(side_bands.n, config.folds, seed=seed)
    members = [
        train_network(
            side_bands.take(folds != k),
            side_bands.take(folds == k),
            config,
            seed=seed * 1009 + k,
            start=start,
        )
        for k in range(config.folds)
    ]
    known = pair_features(side_bands, MUON_FEATURES)
    low, high = known.min(axis=0), known.max(axis=0)

    def generate(masses: FloatArray, draw_seed: int) -> GeneratedFeatures:
        drawn = [
            draw_pairs(model, masses[k :: len(members)], steps=config.steps, seed=draw_seed * 1009 + k)
            for k, model in enumerate(members)
        ]
        rows, kept_masses, errors = [], [], []
        for part in drawn:
            seen = pair_features(part.pairs, MUON_FEATURES)
            inside = ((seen > low) & (seen < high)).all(axis=1)
            rows.append(pair_features(part.pairs.take(inside), features))
            kept_masses.append(part.masses[inside])
            errors.append(np.abs(part.masses / part.m_gen - 1))
        made = np.concatenate(rows)
        return GeneratedFeatures(
            made,
            np.concatenate(kept_masses),
            len(made) / len(masses),
            float(np.median(np.concatenate(errors))),
        )

    return generate


# Ranges that a generated pair must respect, after the calibration.
MUON_FEATURES = ("ht", "eta_leading", "eta_trailing", "pair_pt", "delta_r")


def flow_generator(
    side_bands: DimuonPairs, config: FlowConfig, features: tuple[str, ...], *, seed: int
) -> Generator:
    """The conditional flow on the features themselves."""
    flow = fit_flow(
        pair_features(side_bands, features), side_bands.mass, config=dataclasses.replace(config, seed=seed)
    )
    return lambda masses, draw_seed: GeneratedFeatures(flow.sample(masses, seed=draw_seed), masses, 1.0, 0.0)
