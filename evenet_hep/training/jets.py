"""Training of the jet networks: classification with the published loss, fine-tuning, generation; resumable.

>>> from evenet_hep.events.jets import jet_schema
>>> from evenet_hep.model.jets import JetConfig, JetNetwork
>>> small = JetConfig(width=8, layers=1, heads=2)
>>> pretrained = JetNetwork(small, jet_schema(classes=("quark", "gluon", "top")))
>>> replace_classes(pretrained, ("signal", "background")).schema.classes
('signal', 'background')
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812  as PyTorch calls it
from torch import Tensor

from evenet_hep.errors import FileError, InputError
from evenet_hep.events.cloud import EventCloud
from evenet_hep.model.diffusion import schedule
from evenet_hep.model.jet_kinematics import JetKinematics
from evenet_hep.model.jets import JetNetwork, velocity_loss
from evenet_hep.model.layers import require
from evenet_hep.training.graph import balanced_weights
from evenet_hep.training.history import History

BODY_RATIO = 10.0  # learning rate of new layers over that of the pretrained body
VALIDATION = 2**31  # random numbers of validation come from a seed of their own, the same in every epoch
TERMS = ("clean", "generation", "smeared")
NEW_LAYERS = ("output.", "generator.label.")  # those that depend on the classes

Model = TypeVar("Model", bound=JetNetwork | JetKinematics)


@dataclasses.dataclass(frozen=True)
class JetTrainingConfig:
    """How a jet network is trained.

    Parameters
    ----------
    epochs : int
        Passes over the training jets.
    batch_size : int
        Jets (or events of several jets) per step.
    rate : float
        Largest learning rate of AdamW: it rises over the first tenth of the steps and falls as a cosine.
    body_ratio : float
        Learning rate of layers that depend on the classes over that of everything else; 10 for fine-tuning.
    weight_decay : float
        Of all weights but biases and normalisations.
    clip : float
        Largest norm of the gradient.
    clean, generation, smeared : float
        Weights of the terms of the loss, as in :class:`~evenet_hep.model.jets.JetLoss`. Published: 1 each; for
        classification alone 1, 0, 0; for generation alone 0, 1, 0.
    balance : bool
        Give all classes the same weight in the cross-entropies.
    patience : int
        Epochs without a smaller validation loss after which training stops; 0 never.
    seed : int
        Of the order of the jets, of what is dropped, of times and noise.
    """

    epochs: int = 20
    batch_size: int = 128
    rate: float = 1e-3
    body_ratio: float = 1.0
    weight_decay: float = 0.01
    clip: float = 1.0
    clean: float = 1.0
    generation: float = 1.0
    smeared: float = 1.0
    balance: bool = True
    patience: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        for name in ("rate", "body_ratio", "clip"):
            require(getattr(self, name) > 0, name, "positive", getattr(self, name))
        for name in ("weight_decay", "patience", *TERMS):
            require(getattr(self, name) >= 0, name, "at least 0", getattr(self, name))
        require(sum(self.weights.values()) > 0, "clean, generation, smeared", "not all 0", self.weights)

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each term."""
        return {name: getattr(self, name) for name in TERMS}


class JetSample(NamedTuple):
    """Jets with their labels, raw.

    Attributes
    ----------
    constituents : Tensor, shape (n, N, F) or (n, J, N, F)
        Features of constituents.
    mask : bool Tensor, shape (n, N) or (n, J, N)
        True for a real constituent.
    jet_features : Tensor, shape (n, G) or (n, J, G)
        Features of jets.
    label : int Tensor, shape (n,)
        Classes.
    """

    constituents: Tensor
    mask: Tensor
    jet_features: Tensor
    label: Tensor

    def take(self, rows: Tensor) -> JetSample:
        """Some of the jets, trimmed to the largest number of constituents among them."""
        mask = self.mask[rows]
        slots = max(1, int(mask.sum(dim=-1).max())) if len(mask) else 1
        return JetSample(
            self.constituents[rows][..., :slots, :],
            mask[..., :slots],
            self.jet_features[rows],
            self.label[rows],
        )

    def to(self, device: torch.device | str) -> JetSample:
        """The same jets on a device."""
        return JetSample(*(tensor.to(device) for tensor in self))


class JetTraining(NamedTuple, Generic[Model]):
    """A trained network and how it got there.

    Attributes
    ----------
    model : JetNetwork or JetKinematics
        With the weights of the best epoch, in evaluation mode.
    history : History
        One entry per epoch: ``train_*``, ``val_*`` of the loss and its terms, ``val_accuracy``, ``seconds``.
    """

    model: Model
    history: History


Progress = Callable[[Mapping[str, float]], None]
Losses = Callable[[Any, JetSample], dict[str, Tensor]]


def _silent(_row: Mapping[str, float]) -> None:
    """Show no progress."""


def sample_of(cloud: EventCloud, label: npt.ArrayLike, *, jets: int = 1) -> JetSample:
    """Tensors of a cloud of jets.

    Parameters
    ----------
    cloud : EventCloud
        One row per jet; with ``jets`` of them per event one after the other.
    label : array-like, shape (n_jets / jets,)
        Classes.
    jets : int
        Jets per event.

    Raises
    ------
    InputError
        If the numbers do not fit.
    """
    labels = torch.as_tensor(np.asarray(label, np.int64))
    if len(cloud) != jets * len(labels):
        msg = f"a label is needed for every {jets} jets; found {len(labels)} labels for {len(cloud)} jets"
        raise InputError(msg)
    tensors = [torch.from_numpy(x) for x in (cloud.objects, cloud.mask, cloud.event_features)]
    if jets > 1:
        tensors = [x.unflatten(0, (len(labels), jets)) for x in tensors]
    constituents, mask, features = tensors
    return JetSample(constituents, mask, features, labels)


def train_jets(
    model: JetNetwork,
    training: JetSample,
    validation: JetSample,
    config: JetTrainingConfig | None = None,
    *,
    folder: str | Path | None = None,
    progress: Progress = _silent,
) -> JetTraining[JetNetwork]:
    """Train a jet network and keep the epoch with the smallest validation loss.

    Parameters
    ----------
    model : JetNetwork
        Trained in place, on the device it is on; all jets are brought there. Terms of the loss whose head it lacks, and those of generation for
        several jets per event, are left out.
    training, validation : JetSample
        Jets with labels.
    config : JetTrainingConfig, optional
        How.
    folder : path, optional
        Where the run is kept: ``best`` (a checkpoint), ``resume.pt``, ``history.json``. The same call goes on where it
        was cut off, and returns at once when it is done.
    progress : callable
        Called with the row of the history after every epoch.

    Returns
    -------
    JetTraining
        On a processor with one thread the same jets, weights and seed give the same result, cut off or not; otherwise
        the same within rounding.

    Raises
    ------
    InputError
        For a sample without jets, labels that do not fit the network, or a loss that is not finite: that is seen behind
        the step, and the network is spoilt; what is in ``folder`` is not.
    FileError
        For a folder with a run of another configuration.
    """
    config = config or JetTrainingConfig()
    for name, sample in (("training", training), ("validation", validation)):
        _check_labels(name, sample, len(model.schema.classes))
    weights = _terms_of(model, config)
    class_weight = balanced_weights(training.label, model.schema.classes) if config.balance else None

    def losses(network: JetNetwork, sample: JetSample) -> dict[str, Tensor]:
        return jet_losses(network, sample, weights, class_weight=class_weight)

    return _fit(model, training, validation, config, losses, weights, folder, progress)


def train_kinematics(
    model: JetKinematics,
    training: JetSample,
    validation: JetSample,
    config: JetTrainingConfig | None = None,
    *,
    folder: str | Path | None = None,
    progress: Progress = _silent,
) -> JetTraining[JetKinematics]:
    """Train the model of the features of jets; arguments as in :func:`train_jets`."""
    config = config or JetTrainingConfig()
    for name, sample in (("training", training), ("validation", validation)):
        _check_labels(name, sample, len(model.schema.classes))

    def losses(network: JetKinematics, sample: JetSample) -> dict[str, Tensor]:
        n, columns, device = len(sample.label), network.jet_transform.width, sample.label.device
        time_, noise = torch.rand(n, device=device), torch.randn(n, columns, device=device)
        return {"generation": network.loss(sample.jet_features, sample.label, time=time_, noise=noise)}

    return _fit(model, training, validation, config, losses, {"generation": 1.0}, folder, progress)


def jet_losses(
    model: JetNetwork,
    sample: JetSample,
    weights: Mapping[str, float],
    *,
    class_weight: Tensor | None = None,
) -> dict[str, Tensor]:
    """The terms of the loss that have a weight, for times and noise from PyTorch's generator.

    Parameters
    ----------
    model : JetNetwork
        In training or evaluation mode.
    sample : JetSample
        A batch.
    weights : mapping of str to float
        Of ``clean``, ``generation`` and ``smeared``; what has no weight is not computed.
    class_weight : Tensor, shape (C,), optional
        Weights of the classes in the cross-entropies.

    Returns
    -------
    dict of str to Tensor
        The terms as in :func:`~evenet_hep.model.jets.jet_loss`, with which they agree for equal weights.
    """
    constituents, mask, features, label = sample
    found: dict[str, Tensor] = {}
    if weights.get("clean"):
        logits = model(constituents, mask, features)["classification"]
        found["clean"] = _cross_entropy(logits, label, class_weight).mean()
    if weights.get("generation") or weights.get("smeared"):
        time_ = torch.rand(len(label), device=mask.device)
        noise = torch.randn(*mask.shape, len(model.generated), device=mask.device)
        noised = model.noise(constituents, mask, time_, noise)
        points = model.body(noised.columns, mask, time=time_)
        jet = model.jet_transform(features)
        if weights.get("generation"):
            velocity = model.velocity(points, mask, jet, time_, label)
            found["generation"] = velocity_loss(velocity, noised.velocity, mask)
        if weights.get("smeared"):
            logits = model.output(model.classify(points, mask, jet))
            share = schedule(time_).alpha.square()
            found["smeared"] = (share * _cross_entropy(logits, label, class_weight)).mean()
    return found


def _cross_entropy(logits: Tensor, label: Tensor, class_weight: Tensor | None) -> Tensor:
    each = F.cross_entropy(logits, label, reduction="none")
    return each if class_weight is None else each * class_weight.to(each.device)[label]


def replace_classes(
    model: JetNetwork, classes: Sequence[str], *, jets: int = 1, generate: bool = True
) -> JetNetwork:
    """The same body and heads with new layers for other classes.

    Parameters
    ----------
    model : JetNetwork
        Left as it is.
    classes : sequence of str
        Names of the new classes.
    jets : int
        Jets per event of the new network.
    generate : bool
        Keep the generator, with a new embedding of the class.

    Returns
    -------
    JetNetwork
        Everything but the output layer and that embedding starts from the weights of ``model``.
    """
    schema = dataclasses.replace(model.schema, classes=tuple(classes))
    layers = model.config.generator_layers if generate else 0
    config = dataclasses.replace(model.config, jets=jets, generator_layers=layers)
    new = JetNetwork(config, schema).to(next(model.parameters()).device)
    wanted = new.state_dict()
    kept = {
        name: value.clone()
        for name, value in model.state_dict().items()
        if name in wanted and not name.startswith(NEW_LAYERS)
    }
    new.load_state_dict({**wanted, **kept})
    return new


@torch.inference_mode()
def probabilities_of(model: JetNetwork, sample: JetSample, *, batch_size: int = 256) -> Tensor:
    """Class probabilities, shape (n, C), on the CPU, in evaluation mode; jets of like multiplicity go together."""
    model.eval()
    device = next(model.parameters()).device
    counts = sample.mask.flatten(1).sum(dim=1) if sample.mask.ndim == 2 else sample.mask.sum(-1).amax(dim=1)
    found = torch.zeros(len(sample.label), len(model.schema.classes))
    for rows in torch.argsort(counts, stable=True).split(batch_size):
        logits = model(*sample.take(rows).to(device)[:3])["classification"]
        found[rows.cpu()] = logits.float().softmax(dim=1).cpu()
    return found


# --- the loop --------------------------------------------------------------------------------------------------------


class _State(NamedTuple):
    """What a run needs to go on."""

    epoch: int
    best: float
    waited: int
    rows: list[dict[str, float]]


def _fit(
    model: Model,
    training: JetSample,
    validation: JetSample,
    config: JetTrainingConfig,
    losses: Losses,
    weights: Mapping[str, float],
    folder: str | Path | None,
    progress: Progress,
) -> JetTraining[Model]:
    home = None if folder is None else Path(folder)
    device = next(model.parameters()).device
    training, validation = training.to(device), validation.to(device)
    optimizer = torch.optim.AdamW(_groups(model, config))
    steps = config.epochs * math.ceil(len(training.label) / config.batch_size)
    course = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _ramp(step, steps))
    signature = repr((config, model.config, model.schema.classes, len(training.label)))
    state: _State
    state, best = _resume(home, model, optimizer, course, signature)
    while state.epoch < config.epochs and not 0 < config.patience <= state.waited:
        start = time.perf_counter()
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            means = _train_epoch(model, training, config, losses, weights, optimizer, course, state.epoch)
            measured = _validate(model, validation, config, losses, weights)
        row = {
            "epoch": float(state.epoch),
            "lr": float(optimizer.param_groups[0]["lr"]),
            **means,
            **measured,
            "seconds": time.perf_counter() - start,
        }
        is_best = row["val_loss"] < state.best
        if is_best:
            best = {name: value.detach().clone() for name, value in model.state_dict().items()}
        state = _State(
            state.epoch + 1,
            row["val_loss"] if is_best else state.best,
            0 if is_best else state.waited + 1,
            [*state.rows, row],
        )
        if home is not None:
            _keep(home, model, optimizer, course, state, best, signature, is_best=is_best)
        progress(row)
    model.load_state_dict(best)
    model.eval()
    return JetTraining(model, History(tuple(state.rows)))


def _train_epoch(
    model: Model,
    sample: JetSample,
    config: JetTrainingConfig,
    losses: Losses,
    weights: Mapping[str, float],
    optimizer: torch.optim.Optimizer,
    course: torch.optim.lr_scheduler.LRScheduler,
    epoch: int,
) -> dict[str, float]:
    model.train()
    sums: dict[str, float] = {}
    _seed(config.seed, epoch)
    batches = torch.randperm(len(sample.label)).to(sample.label.device).split(config.batch_size)
    for number, rows in enumerate(batches):
        _seed(config.seed, epoch, number + 1)
        found = losses(model, sample.take(rows))
        total = torch.stack([loss * weights[name] for name, loss in found.items()]).sum()
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()
        course.step()
        # Waits for a GPU: once for all terms, when there is nothing more to hand it.
        values = torch.stack([total, *found.values()]).detach().tolist()
        terms = dict(zip(("loss", *found), values, strict=True))
        if not math.isfinite(terms["loss"]):
            parts = ", ".join(f"{name} {terms[name]:g}" for name in found)
            msg = f"the loss is not finite in batch {number} of epoch {epoch}: {parts}"
            raise InputError(msg)
        for name, value in terms.items():
            sums[name] = sums.get(name, 0.0) + value * len(rows)
    return {f"train_{name}": value / len(sample.label) for name, value in sums.items()}


@torch.no_grad()
def _validate(
    model: Model, sample: JetSample, config: JetTrainingConfig, losses: Losses, weights: Mapping[str, float]
) -> dict[str, float]:
    model.eval()
    _seed(config.seed, VALIDATION)
    sums: dict[str, float] = {}
    for rows in torch.arange(len(sample.label), device=sample.label.device).split(config.batch_size):
        for name, loss in losses(model, sample.take(rows)).items():
            sums[name] = sums.get(name, 0.0) + float(loss.detach()) * len(rows)
    means = {name: value / len(sample.label) for name, value in sums.items()}
    found = {"val_loss": sum(weights[name] * value for name, value in means.items())}
    found |= {f"val_{name}": value for name, value in means.items()}
    if isinstance(model, JetNetwork) and weights.get("clean"):
        right = probabilities_of(model, sample).argmax(dim=1) == sample.label.cpu()
        found["val_accuracy"] = float(right.float().mean())
    return found


def _groups(model: Model, config: JetTrainingConfig) -> list[dict[str, Any]]:
    groups: dict[tuple[bool, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        key = (name.startswith(NEW_LAYERS), parameter.ndim > 1)
        groups.setdefault(key, []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": config.rate if is_new else config.rate / config.body_ratio,
            "weight_decay": config.weight_decay if has_decay else 0.0,
        }
        for (is_new, has_decay), parameters in groups.items()
    ]


def _terms_of(model: JetNetwork, config: JetTrainingConfig) -> dict[str, float]:
    """Weights of the terms that the network can have."""
    one = model.config.jets == 1
    can = {
        "clean": model.classifier is not None,
        "generation": model.generator is not None and one,
        "smeared": model.classifier is not None and one,
    }
    found = {name: weight for name, weight in config.weights.items() if weight and can[name]}
    if not found:
        msg = f"no term of the loss is left: weights {config.weights}, and the network can {[n for n in can if can[n]]}"
        raise InputError(msg)
    return found


def _ramp(step: int, steps: int) -> float:
    rise = max(1, steps // 10)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def _seed(*numbers: int) -> None:
    torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]))


def _keep(
    home: Path,
    model: Model,
    optimizer: torch.optim.Optimizer,
    course: torch.optim.lr_scheduler.LRScheduler,
    state: _State,
    best: dict[str, Tensor],
    signature: str,
    *,
    is_best: bool,
) -> None:
    """Write what is needed to go on; each file is there as a whole or not at all."""
    home.mkdir(parents=True, exist_ok=True)
    content = {
        "signature": signature, "state": state._asdict(), "best": best, "model": model.state_dict(),
        "optimizer": optimizer.state_dict(), "course": {"last_epoch": course.last_epoch},
    }  # fmt: skip
    part = home / f".resume.{os.getpid()}.part"
    torch.save(content, part)
    os.replace(part, home / "resume.pt")  # noqa: PTH105  as atomic as the file system
    if is_best:
        model.save_pretrained(home / "best")
    History(tuple(state.rows)).to_json(home / "history.json")


def _resume(
    home: Path | None,
    model: Model,
    optimizer: torch.optim.Optimizer,
    course: torch.optim.lr_scheduler.LRScheduler,
    signature: str,
) -> tuple[_State, dict[str, Tensor]]:
    path = None if home is None else home / "resume.pt"
    if path is None or not path.is_file():
        return _State(0, math.inf, 0, []), {}
    content = torch.load(path, map_location="cpu", weights_only=True)  # nothing is ever unpickled
    if content["signature"] != signature:
        msg = f"{path} is of another run ({content['signature'][:300]}); choose another folder, or the same settings and jets"
        raise FileError(msg)
    model.load_state_dict(content["model"])
    optimizer.load_state_dict(content["optimizer"])
    steps = content["course"]["last_epoch"]
    course.last_epoch = steps
    for group, base in zip(optimizer.param_groups, course.base_lrs, strict=True):
        group["lr"] = base * course.lr_lambdas[0](steps)  # type: ignore[attr-defined]
    return _State(**content["state"]), content["best"]


def _check_labels(name: str, sample: JetSample, classes: int) -> None:
    label = sample.label
    if not len(label):
        msg = f"the {name} sample has no jets"
        raise InputError(msg)
    if label.dtype != torch.int64 or int(label.min()) < 0 or int(label.max()) >= max(classes, 1):
        found = f"{label.dtype} from {label.min().item()} to {label.max().item()}"
        msg = f"{name} labels must be int64 classes from 0 to {classes - 1}; found {found}"
        raise InputError(msg)


def split_rows(n: int, fractions: Sequence[float], *, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    """Rows of each part of a random split; the last part takes what is left.

    Examples
    --------
    >>> [len(rows) for rows in split_rows(10, (0.6, 0.2), seed=1)]
    [6, 2, 2]
    """
    order = np.random.default_rng(seed).permutation(n)
    edges = np.cumsum([0, *(round(f * n) for f in fractions)])
    for start, stop in zip(edges, [*edges[1:], n], strict=True):
        yield order[start:stop]
