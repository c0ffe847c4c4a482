"""Conditional flow of the background in the style of CATHODE (arXiv:2109.00546): density of features given the mass.

The flow learns p(features | mass) from the side bands and is sampled at masses of the signal region, where it interpolates. A
classifier between data and samples (:mod:`evenet_hep.stats.weak`) then finds what the side bands do not know. Features are
scaled to the unit interval of the training events, turned by a logit and standardised, so that samples never leave the range
of the data.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from evenet_hep.baselines.tables import checked_table
from evenet_hep.errors import ConfigError, InputError

FloatArray = npt.NDArray[np.float64]

# How far the outermost training events stay from the ends of the unit interval, where the logit is infinite.
MARGIN = 1e-3


@dataclass(frozen=True)
class FlowConfig:
    """Shape and training of the flow."""

    n_transforms: int = 4
    """Autoregressive rational-quadratic spline transforms, one after the other."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers of each."""
    n_bins: int = 8
    """Bins of every spline."""
    max_epochs: int = 100
    """Passes over the training events."""
    batch_size: int = 256
    """Events per step."""
    learning_rate: float = 1e-3
    """Of Adam, falling to zero as a cosine."""
    validation_fraction: float = 0.2
    """Events that decide which epochs are the best."""
    n_best: int = 10
    """Samples come in equal parts from that many epochs, those with the lowest validation loss."""
    seed: int = 0
    """Of the split, of the first weights and of the batches."""

    def __post_init__(self) -> None:
        for name, lowest in (
            ("n_transforms", 1), ("n_bins", 2), ("max_epochs", 1), ("batch_size", 2), ("n_best", 1),
        ):  # fmt: skip
            if getattr(self, name) < lowest:
                msg = f"{name} must be at least {lowest}; found {getattr(self, name)}"
                raise ConfigError(msg)
        if (
            not 0 < self.validation_fraction < 1
            or not self.learning_rate > 0
            or min(self.hidden, default=0) < 1
        ):
            msg = (
                "validation_fraction must lie between 0 and 1, learning_rate and the widths in hidden be positive; found "
                f"{self.validation_fraction}, {self.learning_rate}, {self.hidden}"
            )
            raise ConfigError(msg)


class Scaling(NamedTuple):
    """From features to the numbers of the flow: unit interval, logit, standardisation; and the mass, standardised.

    Parameters
    ----------
    low, high : float64 array, shape (n_features,)
        Range of the training events.
    mean, width : float64 array, shape (n_features,)
        Of the logits.
    mass_mean, mass_width : float
        In GeV.
    """

    low: FloatArray
    high: FloatArray
    mean: FloatArray
    width: FloatArray
    mass_mean: float
    mass_width: float

    def forward(self, features: FloatArray) -> FloatArray:
        """Numbers of the flow, shape (n_events, n_features); infinite or NaN outside the range of the training events."""
        unit = MARGIN + (1 - 2 * MARGIN) * (features - self.low) / (self.high - self.low)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray((np.log(unit / (1 - unit)) - self.mean) / self.width)

    def backward(self, numbers: FloatArray) -> FloatArray:
        """Features of numbers of the flow, never outside the range of the training events."""
        unit = 1 / (1 + np.exp(-np.clip(numbers * self.width + self.mean, -50, 50)))
        part = np.clip((unit - MARGIN) / (1 - 2 * MARGIN), 0, 1)
        return np.asarray(self.low + part * (self.high - self.low))

    def log_slope(self, features: FloatArray) -> FloatArray:
        """Logarithm of the determinant of :meth:`forward`, shape (n_events,)."""
        unit = MARGIN + (1 - 2 * MARGIN) * (features - self.low) / (self.high - self.low)
        with np.errstate(invalid="ignore", divide="ignore"):
            slope = (1 - 2 * MARGIN) / (self.high - self.low) / self.width / (unit * (1 - unit))
            return np.asarray(np.log(slope).sum(axis=1))

    def condition(self, masses: FloatArray) -> FloatArray:
        """The mass as the flow sees it, shape (n_events, 1)."""
        return ((masses - self.mass_mean) / self.mass_width)[:, None]


class ConditionalFlow(NamedTuple):
    """A trained flow.

    Parameters
    ----------
    flow : zuko.flows.NSF
        Its weights are those of the best epoch.
    states : list of dict
        Weights of the best epochs, best first.
    scaling : Scaling
    training_loss, validation_loss : float64 array, shape (n_epochs,)
        Mean negative log density of the numbers of the flow.
    """

    flow: Any
    states: list[dict[str, Tensor]]
    scaling: Scaling
    training_loss: FloatArray
    validation_loss: FloatArray

    def sample(self, masses: npt.ArrayLike, *, seed: int) -> FloatArray:
        """One event for every mass.

        Parameters
        ----------
        masses : array-like, shape (n_events,)
            In GeV, as drawn from a fit of the side bands (:mod:`evenet_hep.stats.mass_density`).
        seed : int
            Of the random numbers.

        Returns
        -------
        float64 array, shape (n_events, n_features)
            Events of the best epochs in equal parts, in the order of ``masses``.

        Raises
        ------
        InputError
            For masses that are not finite.
        """
        condition = self.scaling.condition(checked_masses(masses))
        numbers = np.zeros((len(condition), len(self.scaling.low)))
        member = np.random.default_rng(seed).permutation(np.arange(len(condition)) % len(self.states))
        flow = copy.deepcopy(self.flow)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            for k, state in enumerate(self.states):
                if (member == k).any():
                    flow.load_state_dict(state)
                    drawn = flow(_tensor(condition[member == k])).sample()
                    numbers[member == k] = drawn.double().numpy()
        return self.scaling.backward(numbers)

    def log_density(self, features: npt.ArrayLike, masses: npt.ArrayLike) -> FloatArray:
        """Logarithm of p(features | mass), from the mean density of the best epochs.

        Parameters
        ----------
        features : array-like, shape (n_events, n_features)
        masses : array-like, shape (n_events,)
            In GeV.

        Returns
        -------
        float64 array, shape (n_events,)
            Minus infinity outside the range of the training events.

        Raises
        ------
        InputError
            For other features than in training, or lengths that differ.
        """
        x, m = _events(features, masses, n_features=len(self.scaling.low))
        inside = ((x >= self.scaling.low) & (x <= self.scaling.high)).all(axis=1)
        result = np.full(len(x), -np.inf)
        if not inside.any():
            return result
        numbers, condition = (
            _tensor(self.scaling.forward(x[inside])),
            _tensor(self.scaling.condition(m[inside])),
        )
        flow, found = copy.deepcopy(self.flow), []
        with torch.no_grad():
            for state in self.states:
                flow.load_state_dict(state)
                found.append(flow(condition).log_prob(numbers).double().numpy())
        result[inside] = np.logaddexp.reduce(found, axis=0) - np.log(len(found))
        result[inside] += self.scaling.log_slope(x[inside])
        return result


def fit_flow(
    features: npt.ArrayLike,
    masses: npt.ArrayLike,
    *,
    config: FlowConfig | None = None,
    progress: bool = False,
) -> ConditionalFlow:
    """Learn the density of features given the mass.

    Parameters
    ----------
    features : array-like, shape (n_events, n_features)
        Of events in the side bands, without the mass and what it can be computed from; finite.
    masses : array-like, shape (n_events,)
        In GeV.
    config : FlowConfig, optional
    progress : bool
        Show a progress bar.

    Returns
    -------
    ConditionalFlow
        Of the same input and configuration always the same, on the same processor.

    Raises
    ------
    InputError
        For shapes that do not fit, values that are not finite, a feature or a mass that never changes, fewer than ten events,
        or without zuko.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> masses = rng.uniform(5, 15, 500)
    >>> flow = fit_flow(rng.normal(masses, 1.0)[:, None], masses, config=FlowConfig(1, (16,), max_epochs=20))
    >>> bool(8 < flow.sample(np.full(200, 9.0), seed=1).mean() < 11)
    True
    """
    chosen = config or FlowConfig()
    x, m = _events(features, masses)
    if len(x) < 10 or not (np.ptp(x, axis=0) > 0).all() or not np.ptp(m) > 0:
        msg = f"a flow needs at least ten events whose features and masses differ; found {len(x)}"
        raise InputError(msg)
    scaling = _scaling(x, m)
    order = np.random.default_rng(chosen.seed).permutation(len(x))
    n_held = max(1, round(chosen.validation_fraction * len(x)))
    numbers, condition = _tensor(scaling.forward(x)), _tensor(scaling.condition(m))
    parts = [(numbers[part], condition[part]) for part in (order[n_held:], order[:n_held])]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(chosen.seed)
        flow = _flow(x.shape[1], chosen)
        losses, states = _train(flow, parts, chosen, progress=progress)
    flow.load_state_dict(states[0])
    return ConditionalFlow(flow, states, scaling, losses[:, 0], losses[:, 1])


def checked_masses(masses: npt.ArrayLike) -> FloatArray:
    """Masses as float64, shape (n_events,).

    Raises
    ------
    InputError
        For another shape or masses that are not finite.

    Examples
    --------
    >>> checked_masses([9.5])
    array([9.5])
    """
    m = np.asarray(masses, np.float64)
    if m.ndim != 1 or not np.isfinite(m).all():
        msg = f"masses must be one list of finite numbers; found shape {m.shape}, {int((~np.isfinite(m)).sum())} not finite"
        raise InputError(msg)
    return m


def _events(
    features: npt.ArrayLike, masses: npt.ArrayLike, *, n_features: int | None = None
) -> tuple[FloatArray, FloatArray]:
    x, m = checked_table("features", features, n_features=n_features, missing=False), checked_masses(masses)
    if len(x) != len(m):
        msg = f"features and masses must be of the same events; found {len(x)} and {len(m)}"
        raise InputError(msg)
    return x, m


def _scaling(features: FloatArray, masses: FloatArray) -> Scaling:
    zero, one = np.zeros(features.shape[1]), np.ones(features.shape[1])
    first = Scaling(
        features.min(axis=0), features.max(axis=0), zero, one, float(masses.mean()), float(masses.std())
    )
    logits = first.forward(features)
    return first._replace(mean=logits.mean(axis=0), width=logits.std(axis=0))


def _flow(n_features: int, config: FlowConfig) -> Any:
    try:
        import zuko  # noqa: PLC0415  an extra
    except ImportError as error:
        msg = "this baseline needs zuko; install evenet-hep[baselines]"
        raise InputError(msg) from error
    return zuko.flows.NSF(
        n_features, 1, bins=config.n_bins, transforms=config.n_transforms, hidden_features=list(config.hidden)
    )


def _train(
    flow: Any, parts: list[tuple[Tensor, Tensor]], config: FlowConfig, *, progress: bool
) -> tuple[FloatArray, list[dict[str, Tensor]]]:
    """Losses of every epoch, training and validation, and the weights of the best epochs, best first."""
    from rich.progress import track  # noqa: PLC0415

    (x, condition), (held, held_condition) = parts
    optimizer = torch.optim.Adam(flow.parameters(), config.learning_rate)
    n_steps = config.max_epochs * -(-len(x) // config.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
    losses: list[tuple[float, float]] = []
    best: list[tuple[float, dict[str, Tensor]]] = []
    for _ in track(range(config.max_epochs), "epochs", transient=True, disable=not progress):
        total = 0.0
        for batch in torch.randperm(len(x)).split(config.batch_size):
            loss = -flow(condition[batch]).log_prob(x[batch]).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(flow.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            total += float(loss.detach()) * len(batch)
        with torch.no_grad():
            validation = float(-flow(held_condition).log_prob(held).mean())
        losses.append((total / len(x), validation))
        if len(best) < config.n_best or validation < best[-1][0]:
            state = {name: value.clone() for name, value in flow.state_dict().items()}
            best = sorted([*best, (validation, state)], key=lambda pair: pair[0])[: config.n_best]
    return np.array(losses), [state for _, state in best]


def _tensor(values: FloatArray) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float32)
