"""SPANet (arXiv:2010.09206, arXiv:2106.03898) in plain PyTorch: which jets come from which resonance.

Jets are embedded and attend to each other; every resonance has a branch of its own with one more layer of attention and one
projection per daughter. The score of giving objects i, j, k to the daughters is the sum over the width of the product of their
three projections, made symmetric in daughters that cannot be told apart; a softmax over all choices of different, real
objects makes it a probability. Resonances of one kind may be exchanged: the loss of an event is the smallest over their
permutations. Resonances that cannot be found among the objects take no part in it.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from evenet_hep.errors import ConfigError, InputError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class SpanetConfig:
    """What is looked for, the network and its training; the defaults are for two hadronic top quarks."""

    n_resonances: int = 2
    """Resonances of one kind per event; they may be exchanged."""
    n_daughters: int = 3
    """Objects of each, two to four."""
    interchangeable: tuple[int, ...] = (1, 2)
    """Daughters that cannot be told apart, by position; () if all can."""
    width: int = 64
    """Width of the network."""
    heads: int = 4
    """Heads of attention; divides ``width``."""
    n_layers: int = 4
    """Layers of attention before the branches, which have one each."""
    dropout: float = 0.1
    """In the layers of attention."""
    max_epochs: int = 40
    """Passes over the training events."""
    batch_size: int = 256
    """Events per step."""
    learning_rate: float = 1e-3
    """Of AdamW, rising over the first and falling to zero over the other epochs."""
    weight_decay: float = 1e-2
    """Of AdamW."""
    validation_fraction: float = 0.1
    """Events that decide which epoch is the best."""
    seed: int = 0
    """Of the split, of the first weights, of batches and dropout."""

    def __post_init__(self) -> None:
        for name, lowest, highest in (
            ("n_resonances", 1, 4), ("n_daughters", 2, 4), ("heads", 1, self.width), ("n_layers", 1, 64),
            ("max_epochs", 1, 10**6), ("batch_size", 1, 10**9),
        ):  # fmt: skip
            if not lowest <= getattr(self, name) <= highest:
                msg = f"{name} must lie between {lowest} and {highest}; found {getattr(self, name)}"
                raise ConfigError(msg)
        if self.width % self.heads:
            msg = f"heads must divide width; found {self.heads} and {self.width}"
            raise ConfigError(msg)
        positions = set(self.interchangeable)
        if len(positions) != len(self.interchangeable) or not positions <= set(range(self.n_daughters)):
            msg = f"interchangeable must hold different positions of {self.n_daughters} daughters; found {self.interchangeable}"
            raise ConfigError(msg)
        if not (0 <= self.dropout < 1 and 0 < self.validation_fraction < 1 and self.learning_rate > 0):
            msg = (
                "dropout and validation_fraction must lie between 0 and 1, learning_rate be positive; found "
                f"{self.dropout}, {self.validation_fraction}, {self.learning_rate}"
            )
            raise ConfigError(msg)


class Assignment(NamedTuple):
    """Objects of every resonance.

    Parameters
    ----------
    objects : int64 array, shape (n_events, n_resonances, n_daughters)
        Positions; no object is given away twice. -1 where too few objects are left.
    probability : float64 array, shape (n_events, n_resonances)
        Of the choice, all orders of interchangeable daughters together; 0 where there is none.
    """

    objects: IntArray
    probability: FloatArray


class SpanetFit(NamedTuple):
    """A trained network.

    Parameters
    ----------
    network : Spanet
        With the weights of the best epoch.
    config : SpanetConfig
    training_loss, validation_loss : float64 array, shape (n_epochs,)
        Mean over events with a resonance.
    """

    network: Spanet
    config: SpanetConfig
    training_loss: FloatArray
    validation_loss: FloatArray

    def predict(self, features: npt.ArrayLike, mask: npt.ArrayLike) -> Assignment:
        """Give objects to resonances: the most probable choice of all branches first, then those that are left.

        Parameters
        ----------
        features, mask
            As for :func:`fit_spanet`.

        Returns
        -------
        Assignment

        Raises
        ------
        InputError
            For other features than in training.
        """
        x, real = _checked_objects(features, mask, n_features=len(self.network.mean))
        found: list[tuple[Tensor, Tensor]] = []
        self.network.eval()
        with torch.no_grad():
            for first in range(0, len(x), self.config.batch_size):
                part = slice(first, first + self.config.batch_size)
                found.append(decode(self.network(x[part], real[part]), x.shape[1], self.config))
        if not found:
            shape = (0, self.config.n_resonances, self.config.n_daughters)
            return Assignment(np.zeros(shape, np.int64), np.zeros(shape[:2]))
        objects, probability = (torch.cat(parts).numpy() for parts in zip(*found, strict=True))
        return Assignment(objects, probability.astype(np.float64))


class Spanet(nn.Module):
    """Log probabilities of all assignments, one branch per resonance.

    Parameters
    ----------
    n_features : int
        Features of an object.
    config : SpanetConfig

    Examples
    --------
    >>> network = Spanet(5, SpanetConfig(width=8, heads=2, n_layers=1)).eval()
    >>> network(torch.zeros(1, 7, 5), torch.ones(1, 7, dtype=torch.bool)).exp().sum(dim=2).round(decimals=4)
    tensor([[1., 1.]], grad_fn=<RoundBackward1>)
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, n_features: int, config: SpanetConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("spread", torch.ones(n_features))
        self.embed = nn.Sequential(nn.Linear(n_features, width), nn.GELU(), nn.Linear(width, width))
        self.body = nn.ModuleList(self._layer() for _ in range(config.n_layers))
        self.branches = nn.ModuleList(self._layer() for _ in range(config.n_resonances))
        self.daughters = nn.ModuleList(
            nn.Linear(width, config.n_daughters * width) for _ in range(config.n_resonances)
        )

    def _layer(self) -> nn.Module:
        c = self.config
        return nn.TransformerEncoderLayer(
            c.width, c.heads, 2 * c.width, c.dropout, "gelu", batch_first=True, norm_first=True
        )

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """Log probabilities of all choices of objects, in the order of :func:`choices`.

        Parameters
        ----------
        features : float tensor, shape (B, N, F)
        mask : bool tensor, shape (B, N)
            True for real objects.

        Returns
        -------
        float tensor, shape (B, n_resonances, N ** n_daughters)
            Minus infinity for objects chosen twice and for padding; all minus infinity with too few objects.
        """
        x = torch.where(mask[..., None], (features - self.mean) / self.spread, 0.0)
        x = self.embed(x)
        # An event without objects attends to its padding; whatever comes out of it is masked below.
        padding = ~mask & mask.any(dim=1, keepdim=True)
        for layer in self.body:
            x = layer(x, src_key_padding_mask=padding)
        allowed = _allowed(mask, self.config.n_daughters)
        scores = []
        for branch, project in zip(self.branches, self.daughters, strict=True):
            vectors = project(branch(x, src_key_padding_mask=padding))
            scores.append(self._scores(vectors.unflatten(2, (self.config.n_daughters, self.config.width))))
        logits = torch.stack(scores, dim=1).masked_fill(~allowed[:, None], -torch.inf)
        total = torch.logsumexp(logits, dim=2, keepdim=True)
        return torch.where(torch.isfinite(total), logits - total, -torch.inf)

    def _scores(self, vectors: Tensor) -> Tensor:
        """Sum of products of (B, N, daughters, D), as (B, N ** daughters)."""
        n_daughters = self.config.n_daughters
        axes = "ijkl"[:n_daughters]
        equation = ",".join(f"b{axis}d" for axis in axes) + f"->b{axes}"
        # Powers of the width that keep the variance of a sum of products near one.
        parts = [vectors[:, :, daughter] for daughter in range(n_daughters)]
        tensor = torch.einsum(equation, *parts) / math.sqrt(self.config.width)
        same = self.config.interchangeable
        total = torch.zeros_like(tensor)
        orders = list(itertools.permutations(same))
        for order in orders:
            axis_of = dict(zip(same, order, strict=True))
            total = total + tensor.permute(0, *(1 + axis_of.get(d, d) for d in range(n_daughters)))
        return (total / len(orders)).flatten(1)


def choices(n_objects: int, n_daughters: int) -> Tensor:
    """All choices of one object per daughter, shape (n_objects ** n_daughters, n_daughters).

    Examples
    --------
    >>> choices(2, 2).tolist()
    [[0, 0], [0, 1], [1, 0], [1, 1]]
    """
    axes = [torch.arange(n_objects)] * n_daughters
    return torch.cartesian_prod(*axes).reshape(-1, n_daughters)


def spanet_loss(log_probabilities: Tensor, targets: Tensor, n_objects: int, config: SpanetConfig) -> Tensor:
    """Cross-entropy of every event, smallest over permutations of the resonances.

    Parameters
    ----------
    log_probabilities : float tensor, shape (B, n_resonances, N ** n_daughters)
    targets : int tensor, shape (B, n_resonances, n_daughters)
        Positions of the true daughters; a resonance with a negative one takes no part.
    n_objects : int
        N.
    config : SpanetConfig

    Returns
    -------
    float tensor, shape (B,)
        Sum over resonances; 0 for events without any.

    Examples
    --------
    >>> uniform = torch.full((1, 1, 9), -torch.log(torch.tensor(6.0)))
    >>> c = SpanetConfig(n_resonances=1, n_daughters=2, interchangeable=())
    >>> spanet_loss(uniform, torch.tensor([[[0, 2]]]), 3, c).exp()
    tensor([6.])
    """
    powers = n_objects ** torch.arange(config.n_daughters - 1, -1, -1)
    present = (targets >= 0).all(dim=2)  # (B, R)
    cells = (targets.clamp(min=0) * powers).sum(dim=2)  # (B, R)
    # Interchangeable daughters: the same probability in each of their orders.
    log_orders = math.lgamma(len(config.interchangeable) + 1)
    pairs = log_probabilities.gather(2, cells[:, None].expand(-1, config.n_resonances, -1)) + log_orders
    losses = torch.where(present[:, None], -pairs, 0.0)  # (B, branch, target)
    branches = torch.arange(config.n_resonances)
    orders = torch.tensor(list(itertools.permutations(range(config.n_resonances))))
    return losses[:, branches, orders].sum(dim=2).min(dim=1).values


def decode(log_probabilities: Tensor, n_objects: int, config: SpanetConfig) -> tuple[Tensor, Tensor]:
    """Objects of every resonance, the most probable choice first, and its probability.

    Returns
    -------
    objects : int tensor, shape (B, n_resonances, n_daughters)
        -1 where no choice is left.
    probability : float tensor, shape (B, n_resonances)
    """
    left = log_probabilities.clone()
    events = torch.arange(len(left))
    table = choices(n_objects, config.n_daughters)
    objects = torch.full((len(left), config.n_resonances, config.n_daughters), -1)
    probability = torch.zeros(len(left), config.n_resonances)
    orders = math.factorial(len(config.interchangeable))
    for _ in range(config.n_resonances):
        best, cell = left.max(dim=2)
        branch = best.argmax(dim=1)
        value, chosen = best[events, branch], table[cell[events, branch]]
        found = torch.isfinite(value)
        objects[events[found], branch[found]] = chosen[found]
        probability[events[found], branch[found]] = orders * value[found].exp()
        taken = (table[None, :, :, None] == chosen[:, None, None, :]).any(dim=3).any(dim=2)
        left = left.masked_fill((taken & found[:, None])[:, None], -torch.inf)
        left[events[found], branch[found]] = -torch.inf
    return objects, probability


def jet_features(
    pt: npt.ArrayLike, eta: npt.ArrayLike, phi: npt.ArrayLike, mass: npt.ArrayLike, *more: npt.ArrayLike
) -> FloatArray:
    """Features of jets as SPANet reads them: logarithms of pT and mass, eta, cosine and sine of phi, and more.

    Parameters
    ----------
    pt, eta, phi, mass : array-like, shape (n_events, N)
        GeV and radians; padding may hold anything.
    *more : array-like, shape (n_events, N)
        b-tag scores and the like.

    Returns
    -------
    float64 array, shape (n_events, N, 5 + len(more))

    Examples
    --------
    >>> jet_features([[np.e - 1]], [[0.5]], [[0.0]], [[0.0]], [[1.0]]).tolist()
    [[[1.0, 0.5, 1.0, 0.0, 0.0, 1.0]]]
    """
    pt, eta, phi, mass = (np.asarray(x, np.float64) for x in (pt, eta, phi, mass))
    logs = [np.log1p(np.maximum(x, 0.0)) for x in (pt, mass)]
    columns = [logs[0], eta, np.cos(phi), np.sin(phi), logs[1], *(np.asarray(x, np.float64) for x in more)]
    return np.stack(columns, axis=2)


def fit_spanet(
    features: npt.ArrayLike,
    mask: npt.ArrayLike,
    targets: npt.ArrayLike,
    *,
    config: SpanetConfig | None = None,
    progress: bool = False,
) -> SpanetFit:
    """Train SPANet.

    Parameters
    ----------
    features : array-like, shape (n_events, N, n_features)
        As :func:`jet_features` gives them; finite for real objects.
    mask : bool array, shape (n_events, N)
        True for real objects.
    targets : int array, shape (n_events, n_resonances, n_daughters)
        Positions of the true daughters, -1 for one that is not among the objects.
    config : SpanetConfig, optional
    progress : bool
        Show a progress bar.

    Returns
    -------
    SpanetFit
        Of the same input and configuration always the same, on the same processor.

    Raises
    ------
    InputError
        For shapes that do not fit, features that are not finite, targets that point to padding or twice to one object, or
        fewer than two events with a resonance.
    """
    chosen = config or SpanetConfig()
    x, real = _checked_objects(features, mask)
    wanted = _checked_targets(targets, real, chosen)
    usable = np.flatnonzero((wanted >= 0).all(dim=2).any(dim=1).numpy())
    if len(usable) < 2:
        msg = f"SPANet needs at least two events in which a resonance can be found; found {len(usable)}"
        raise InputError(msg)
    order = torch.as_tensor(np.random.default_rng(chosen.seed).permutation(usable))
    n_held = min(max(1, round(chosen.validation_fraction * len(order))), len(order) - 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(chosen.seed)
        network = Spanet(x.shape[2], chosen)
        objects = x[order[n_held:]][real[order[n_held:]]]
        network.mean, network.spread = objects.mean(dim=0), objects.std(dim=0).clamp(min=1e-6)
        parts = [(x[part], real[part], wanted[part]) for part in (order[n_held:], order[:n_held])]
        losses = _train(network, parts, chosen, progress=progress)
    return SpanetFit(network.eval(), chosen, losses[:, 0], losses[:, 1])


def _train(
    network: Spanet, parts: list[tuple[Tensor, Tensor, Tensor]], config: SpanetConfig, *, progress: bool
) -> FloatArray:
    """Train in place to the epoch of lowest validation loss; losses of all epochs, training and validation."""
    from rich.progress import track  # noqa: PLC0415

    training, held = parts
    n_objects, n_events = training[0].shape[1], len(training[0])
    n_batches = -(-n_events // config.batch_size)
    optimizer = torch.optim.AdamW(
        network.parameters(), config.learning_rate, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        config.learning_rate,
        total_steps=config.max_epochs * n_batches + 1,
        pct_start=min(0.3, 1 / config.max_epochs),
    )
    losses: list[tuple[float, float]] = []
    best, state = math.inf, {name: value.clone() for name, value in network.state_dict().items()}
    for _ in track(range(config.max_epochs), "epochs", transient=True, disable=not progress):
        network.train()
        total = 0.0
        for batch in torch.randperm(n_events).split(config.batch_size):
            x, mask, wanted = (column[batch] for column in training)
            loss = spanet_loss(network(x, mask), wanted, n_objects, config).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += float(loss.detach()) * len(batch)
        network.eval()
        with torch.no_grad():
            columns = zip(*(column.split(config.batch_size) for column in held), strict=True)
            sums = [float(spanet_loss(network(x, m), t, n_objects, config).sum()) for x, m, t in columns]
        losses.append((total / n_events, sum(sums) / len(held[0])))
        if losses[-1][1] < best:
            best, state = losses[-1][1], {name: value.clone() for name, value in network.state_dict().items()}
    network.load_state_dict(state)
    return np.array(losses)


def _allowed(mask: Tensor, n_daughters: int) -> Tensor:
    """Which choices take different, real objects, shape (B, N ** n_daughters)."""
    table = choices(mask.shape[1], n_daughters)
    pairs = itertools.combinations(range(n_daughters), 2)
    different = torch.stack([table[:, i] != table[:, k] for i, k in pairs]).all(dim=0)
    return mask[:, table].all(dim=2) & different


def _checked_objects(
    features: npt.ArrayLike, mask: npt.ArrayLike, *, n_features: int | None = None
) -> tuple[Tensor, Tensor]:
    x, real = np.asarray(features, np.float32), np.asarray(mask)
    if x.ndim != 3 or n_features not in (None, x.shape[2]):
        msg = f"features must have shape (n_events, N, {n_features or 'n_features'}); found {x.shape}"
        raise InputError(msg)
    if real.shape != x.shape[:2] or real.dtype != np.bool_:
        msg = f"mask must hold bools of shape {x.shape[:2]}; found {real.dtype} of shape {real.shape}"
        raise InputError(msg)
    if not np.isfinite(x[real]).all():
        msg = f"features of real objects must be finite; found {int((~np.isfinite(x[real])).sum())} that are not"
        raise InputError(msg)
    # Whatever padding holds must not come near the network.
    return torch.as_tensor(np.where(real[..., None], x, 0.0)), torch.as_tensor(real)


def _checked_targets(targets: npt.ArrayLike, mask: Tensor, config: SpanetConfig) -> Tensor:
    wanted = np.asarray(targets)
    shape = (len(mask), config.n_resonances, config.n_daughters)
    if wanted.shape != shape or wanted.dtype.kind not in "iu" or wanted.max(initial=-1) >= mask.shape[1]:
        msg = f"targets must hold positions below {mask.shape[1]}, shape {shape}; found {wanted.dtype} of shape {wanted.shape}, largest {wanted.max(initial=-1)}"
        raise InputError(msg)
    flat = wanted.reshape(len(mask), -1)
    ordered = np.sort(flat, axis=1)
    padding = (flat >= 0) & ~np.take_along_axis(mask.numpy(), np.maximum(flat, 0), axis=1)
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    for bad, what in ((padding, "padding"), (twice, "one object twice")):
        if bad.any():
            msg = f"targets must point to different real objects; event {int(np.flatnonzero(bad.any(axis=1))[0])} has {what}"
            raise InputError(msg)
    return torch.as_tensor(wanted.astype(np.int64))
