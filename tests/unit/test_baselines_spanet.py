"""SPANet: probabilities that are probabilities, symmetries, a loss and a decoder worked out by hand, and learning."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from evenet_hep.baselines.spanet import (
    Spanet,
    SpanetConfig,
    SpanetFit,
    choices,
    decode,
    fit_spanet,
    jet_features,
    spanet_loss,
)
from evenet_hep.errors import ConfigError, InputError
from evenet_hep.stats.pairing import pairing_efficiencies

TOPS = SpanetConfig(width=16, heads=2, n_layers=1)
PAIRS = SpanetConfig(n_daughters=2, interchangeable=(0, 1), width=16, heads=2, n_layers=1, dropout=0.0)


def random_network(config: SpanetConfig, seed: int = 1) -> Spanet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Spanet(5, config).eval()


def random_events(n: int, n_objects: int, seed: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(n_objects) < torch.randint(0, n_objects + 1, (n, 1), generator=generator)
    return torch.randn(n, n_objects, 5, generator=generator), mask


@pytest.mark.parametrize(
    "config", [TOPS, PAIRS, SpanetConfig(3, 4, (), 16, 2, 1), SpanetConfig(1, 3, (0, 1, 2), 16, 2, 1)]
)
def test_probabilities_of_different_real_objects(config: SpanetConfig) -> None:
    x, mask = random_events(12, 6)
    with torch.no_grad():
        p = random_network(config)(x, mask).exp()
    table = choices(6, config.n_daughters)
    for event in range(12):
        enough = int(mask[event].sum()) >= config.n_daughters
        torch.testing.assert_close(p[event].sum(dim=1), torch.full((config.n_resonances,), float(enough)))
        for cell, chosen in enumerate(table.tolist()):
            if len(set(chosen)) < len(chosen) or not all(bool(mask[event, i]) for i in chosen):
                assert not p[event, :, cell].any()


def test_interchangeable_daughters_and_only_they() -> None:
    x, mask = random_events(5, 6)
    mask[:] = True
    with torch.no_grad():
        p = random_network(TOPS)(x, mask).unflatten(2, (6, 6, 6))
    torch.testing.assert_close(p, p.transpose(3, 4))
    assert not torch.allclose(p, p.transpose(2, 3))


def test_padding_and_order_of_objects_do_not_matter() -> None:
    network, (x, mask) = random_network(TOPS), random_events(8, 6)
    with torch.no_grad():
        p = network(x, mask).unflatten(2, (6, 6, 6))
        torch.testing.assert_close(
            network(torch.where(mask[..., None], x, 1e6), mask).unflatten(2, (6, 6, 6)), p
        )
        order = torch.tensor([3, 1, 5, 0, 4, 2])
        turned = network(x[:, order], mask[:, order]).unflatten(2, (6, 6, 6))
        longer = network(torch.nn.functional.pad(x, (0, 0, 0, 2)), torch.nn.functional.pad(mask, (0, 2)))
    torch.testing.assert_close(
        turned, p[:, :, order][:, :, :, order][:, :, :, :, order], atol=1e-4, rtol=1e-4
    )
    torch.testing.assert_close(longer.unflatten(2, (8, 8, 8))[:, :, :6, :6, :6], p, atol=1e-4, rtol=1e-4)


def test_loss_is_the_best_permutation_of_what_is_there() -> None:
    rng = np.random.default_rng(3)
    config = SpanetConfig(3, 3, (1, 2))
    logits = torch.as_tensor(rng.normal(size=(20, 3, 343)))
    log_p = torch.log_softmax(logits, dim=2)
    targets = np.stack([rng.permutation(7)[:6].reshape(2, 3) for _ in range(20)])
    targets = np.concatenate([targets, np.full((20, 1, 3), -1)], axis=1)
    targets[5, 0, 1] = -1
    targets[6] = -1
    found = spanet_loss(log_p, torch.as_tensor(targets), 7, config)
    for event in range(20):
        losses = []
        for order in itertools.permutations(range(3)):
            total = 0.0
            for branch, target in zip(range(3), order, strict=True):
                i, j, k = targets[event, target]
                if min(i, j, k) >= 0:
                    total -= float(log_p[event, branch, 49 * i + 7 * j + k]) + math.log(2)
            losses.append(total)
        assert float(found[event]) == pytest.approx(min(losses), abs=1e-9)
    assert found[6] == 0


def test_loss_does_not_know_the_order_of_the_resonances() -> None:
    x, mask = random_events(6, 8)
    mask[:] = True
    log_p = random_network(TOPS)(x, mask)
    targets = torch.tensor([[0, 1, 2], [3, 4, 5]]).expand(6, 2, 3)
    torch.testing.assert_close(
        spanet_loss(log_p, targets, 8, TOPS), spanet_loss(log_p, targets[:, [1, 0]][:, :, [0, 2, 1]], 8, TOPS)
    )


def test_decoding_takes_the_most_probable_first_and_nothing_twice() -> None:
    table = choices(5, 2).tolist()

    def log_p(*peaks: dict[tuple[int, int], float]) -> torch.Tensor:
        rows = torch.full((1, len(peaks), 25), -torch.inf)
        for branch, peak in enumerate(peaks):
            for (i, k), value in peak.items():
                rows[0, branch, table.index([i, k])] = rows[0, branch, table.index([k, i])] = math.log(
                    value / 2
                )
        return rows

    objects, probability = decode(log_p({(0, 1): 0.6, (2, 3): 0.4}, {(1, 2): 0.7, (3, 4): 0.3}), 5, PAIRS)
    assert [sorted(pair) for pair in objects[0].tolist()] == [
        [-1, -1],
        [1, 2],
    ]  # (0, 1) and (2, 3) are both taken apart
    torch.testing.assert_close(probability, torch.tensor([[0.0, 0.7]]))
    objects, probability = decode(log_p({(0, 1): 0.6, (0, 3): 0.4}, {(1, 2): 0.7, (3, 4): 0.3}), 5, PAIRS)
    assert [sorted(pair) for pair in objects[0].tolist()] == [[0, 3], [1, 2]]
    torch.testing.assert_close(probability, torch.tensor([[0.4, 0.7]]))


def toy_events(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two pairs of objects that say in one feature to which pair they belong, and two others, in any order."""
    rng = np.random.default_rng(seed)
    kinds = np.stack([rng.permutation([1.0, 1.0, -1.0, -1.0, 0.0, 0.0]) for _ in range(n)])
    features = np.stack([kinds + rng.normal(0, 0.2, kinds.shape), rng.normal(size=kinds.shape)], axis=2)
    targets = np.stack(
        [np.argsort(np.abs(kinds - kind), axis=1, kind="stable")[:, :2] for kind in (1, -1)], axis=1
    )
    return features, np.ones(kinds.shape, bool), targets


@pytest.fixture(scope="module")
def trained() -> SpanetFit:
    config = SpanetConfig(
        n_daughters=2, interchangeable=(0, 1), width=16, heads=2, n_layers=1, dropout=0.0, max_epochs=12,
        batch_size=128, learning_rate=1e-2,
    )  # fmt: skip
    return fit_spanet(*toy_events(1200, 4), config=config)


def test_it_learns_a_pairing(trained: SpanetFit) -> None:
    features, mask, targets = toy_events(1000, 5)
    found = trained.predict(features, mask)
    efficiencies = pairing_efficiencies(targets, found.objects, np.ones((1000, 2), bool))
    assert efficiencies.event_complete.value > 0.9
    assert found.probability.mean() == pytest.approx(
        efficiencies.resonance.value, abs=0.05
    )  # it knows how sure it is
    assert trained.validation_loss.argmin() > 0


def test_the_epoch_of_lowest_validation_loss_is_kept() -> None:
    features, mask, targets = toy_events(60, 6)
    config = SpanetConfig(
        n_daughters=2, interchangeable=(0, 1), width=16, heads=2, n_layers=1, max_epochs=15, learning_rate=3e-2,
        validation_fraction=0.5,
    )  # fmt: skip
    fit = fit_spanet(features, mask, targets, config=config)
    order = np.random.default_rng(0).permutation(60)[:30]
    x, real = torch.as_tensor(features[order], dtype=torch.float32), torch.as_tensor(mask[order])
    with torch.no_grad():
        loss = spanet_loss(fit.network(x, real), torch.as_tensor(targets[order]), 6, config).mean()
    assert float(loss) == pytest.approx(fit.validation_loss.min(), rel=1e-4)


def test_same_seed_same_network() -> None:
    config = SpanetConfig(n_daughters=2, interchangeable=(0, 1), width=8, heads=2, n_layers=1, max_epochs=2)
    events = toy_events(80, 7)
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    first, again = (fit_spanet(*events, config=config) for _ in range(2))
    np.testing.assert_array_equal(first.training_loss, again.training_loss)
    np.testing.assert_array_equal(
        first.predict(*events[:2]).probability, again.predict(*events[:2]).probability
    )
    assert torch.equal(before, torch.random.get_rng_state())
    with_bar = fit_spanet(*events, config=config, progress=True)
    np.testing.assert_array_equal(first.training_loss, with_bar.training_loss)


def test_events_with_too_few_objects_and_no_events(trained: SpanetFit) -> None:
    features, mask, _ = toy_events(3, 8)
    mask[0], mask[1, 1:] = False, False
    mask[2, 3:] = False
    features[~mask] = np.nan
    found = trained.predict(features, mask)
    assert (found.objects[:2] == -1).all()
    assert not found.probability[:2].any()
    assert ((found.objects[2] >= 0).all(axis=1)).sum() == 1  # three objects make one pair
    assert trained.predict(features[:0], mask[:0]).objects.shape == (0, 2, 2)
    with pytest.raises(InputError, match=r"shape \(n_events, N, 2\); found \(3, 6, 1\)"):
        trained.predict(features[:, :, :1], mask)


FEATURES, MASK, TARGETS = toy_events(20, 9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"features": FEATURES[0]}, r"features must have shape \(n_events, N, n_features\)"),
        ({"features": np.where(FEATURES > 1, np.nan, FEATURES)}, "features of real objects must be finite"),
        ({"mask": MASK[:, :5]}, r"mask must hold bools of shape \(20, 6\)"),
        ({"mask": MASK.astype(float)}, "found float64"),
        ({"mask": np.zeros_like(MASK)}, "different real objects; event 0 has padding"),
        ({"targets": TARGETS[:, :1]}, r"shape \(20, 2, 2\); found int64 of shape \(20, 1, 2\)"),
        ({"targets": TARGETS + 6}, "positions below 6"),
        ({"targets": np.zeros_like(TARGETS)}, "event 0 has one object twice"),
        ({"targets": np.full_like(TARGETS, -1)}, "at least two events .* found 0"),
    ],
)
def test_events_that_cannot_be_used(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit_spanet(**{"features": FEATURES, "mask": MASK, "targets": TARGETS, **arguments}, config=PAIRS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_daughters": 5}, "n_daughters must lie between 2 and 4; found 5"),
        ({"width": 10}, "heads must divide width"),
        ({"interchangeable": (1, 1)}, "interchangeable must hold different positions"),
        ({"interchangeable": (3,)}, "interchangeable must hold different positions"),
        ({"dropout": 1.0}, "dropout and validation_fraction"),
    ],
)
def test_settings_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SpanetConfig(**options)


def test_features_of_padding_are_harmless() -> None:
    found = jet_features([[30.0, -999.0]], [[0.5, 0.0]], [[1.0, 0.0]], [[5.0, -999.0]])
    np.testing.assert_allclose(found[0, 0], [np.log(31.0), 0.5, np.cos(1.0), np.sin(1.0), np.log(6.0)])
    assert np.isfinite(found).all()
