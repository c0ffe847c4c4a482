from __future__ import annotations

import math
from statistics import NormalDist

import pytest
import torch

from evenet_hep.model.normalize import FeatureTransform
from evenet_hep.schema import EventSchema, Feature

FEATURES = (
    Feature("energy", "GeV", "log", 4.0, 0.9),
    Feature("eta", "", "standard", 0.1, 1.6),
    Feature("phi", "rad", "uniform", 0.0, math.pi / math.sqrt(3)),
    Feature("charge"),
    Feature("met_phi", "rad", "periodic"),
    Feature("n_jet", "", "standard", 4.0, 2.0),
)


def test_columns_are_the_formulas() -> None:
    row = [100.0, -1.2, 2.0, -1.0, 2.5, 6.0]
    expected = [
        (math.log(101.0) - 4.0) / 0.9,
        (-1.2 - 0.1) / 1.6,
        NormalDist().inv_cdf((2.0 + math.pi) / (2 * math.pi)),  # uniform on (-pi, pi): u = (phi + pi) / 2 pi
        -1.0,
        math.cos(2.5),
        math.sin(2.5),
        1.0,
    ]
    transform = FeatureTransform(FEATURES).double()
    result = transform(torch.tensor([row], dtype=torch.float64))[0]
    # Means and widths are kept in single precision.
    assert result.tolist() == pytest.approx(expected, rel=1e-6, abs=1e-7)
    single = FeatureTransform(FEATURES)(torch.tensor([row]))[0]
    assert single.dtype == torch.float32
    assert single.tolist() == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert (transform.width, transform.widths) == (7, (1, 1, 1, 1, 2, 1))
    assert (transform.columns("charge"), transform.columns("met_phi"), transform.columns("n_jet")) == (
        (3,), (4, 5), (6,),
    )  # fmt: skip
    with pytest.raises(KeyError, match="no feature 'pt'"):
        transform.columns("pt")


def test_uniform_is_cut_at_one_in_a_million() -> None:
    transform = FeatureTransform([FEATURES[2]]).double()
    edge = NormalDist().inv_cdf(1 - 1e-6)
    result = transform(torch.tensor([[-9.0], [-math.pi], [math.pi], [9.0]], dtype=torch.float64))
    assert result[:, 0].tolist() == pytest.approx([-edge, -edge, edge, edge], rel=1e-6)


def test_zeros_of_real_objects_are_kept() -> None:
    transform = FeatureTransform(EventSchema.published().objects)
    mask = torch.tensor([[True, False]])
    result = transform(torch.zeros(1, 2, 7), mask)
    assert result[0, 0, 2].item() == pytest.approx(-0.00093 / 1.6589)  # eta = 0 is a value
    assert (result[0, 1] == 0).all()


@pytest.mark.parametrize("garbage", [math.nan, math.inf, -1e30])
def test_padded_slots_are_zero_whatever_they_hold(garbage: float) -> None:
    transform = FeatureTransform(FEATURES)
    values = torch.full((1, 3, 6), garbage)
    values[0, 0] = 0.5
    result = transform(values, torch.tensor([[True, False, False]]))
    assert result[0, 0].isfinite().all()
    assert (result[0, 1:] == 0).all()


def test_inverse_gives_the_values_back() -> None:
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(1000, 6, generator=generator, dtype=torch.float64)
    values = torch.stack(
        [
            1e4 * uniform[:, 0],
            10 * uniform[:, 1] - 5,
            6.28 * uniform[:, 2] - 3.14,
            torch.sign(uniform[:, 3] - 0.5),
            6.28 * uniform[:, 4] - 3.14,
            torch.floor(10 * uniform[:, 5]),
        ],
        dim=1,
    )
    transform = FeatureTransform(FEATURES).double()
    torch.testing.assert_close(transform.inverse(transform(values)), values, rtol=1e-6, atol=1e-9)
    mask = torch.arange(1000) % 2 == 0
    assert (transform.inverse(transform(values, mask), mask)[~mask] == 0).all()


def test_inverse_of_a_periodic_angle_needs_no_unit_length() -> None:
    transform = FeatureTransform([FEATURES[4], FEATURES[1]]).double()
    columns = transform(torch.tensor([[-3.1, 0.3]], dtype=torch.float64))
    columns[0, :2] *= 7.0
    assert transform.inverse(columns)[0].tolist() == pytest.approx([-3.1, 0.3])


def test_gradients_are_finite_where_a_logarithm_is_not_taken() -> None:
    transform = FeatureTransform(FEATURES)
    values = torch.tensor([[10.0, -3.0, 3.1, -1.0, 3.0, 0.0]], requires_grad=True)
    transform(values).sum().backward()
    assert values.grad is not None
    assert values.grad.isfinite().all()


def test_statistics_are_not_stored_with_the_weights() -> None:
    transform = FeatureTransform(FEATURES)
    assert transform.state_dict() == {}
    assert transform.mean.dtype == torch.float32


def test_no_features_at_all() -> None:
    transform = FeatureTransform(())
    assert transform.width == 0
    assert transform(torch.zeros(3, 0)).shape == (3, 0)
    assert transform.inverse(torch.zeros(3, 0)).shape == (3, 0)
