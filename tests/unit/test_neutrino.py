from __future__ import annotations

import math
from typing import Any

import awkward as ak
import numpy as np
import pytest

from evenet_hep.errors import InputError
from evenet_hep.events import observables
from evenet_hep.kinematics.neutrino import event_columns, leptonic_w, neutrino_pz
from evenet_hep.kinematics.vectors import mass_of, to_cartesian

NAN = math.nan


def random_events(n_events: int, seed: int = 5) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "pt": 20.0 + rng.exponential(30.0, n_events),
        "eta": rng.uniform(-2.5, 2.5, n_events),
        "phi": rng.uniform(-np.pi, np.pi, n_events),
        "mass": rng.choice([0.0, 0.000511, 0.1056583755, 1.77686], n_events),
        "met": rng.exponential(45.0, n_events),
        "met_phi": rng.uniform(-np.pi, np.pi, n_events),
    }


def numpy_twin(events: dict[str, Any], w_mass: float) -> tuple[np.ndarray, ...]:
    """The definition, written with complex square roots."""
    pt, eta, phi, mass, met, met_phi = events.values()
    pz = pt * np.sinh(eta)
    energy = np.sqrt(pt**2 + pz**2 + mass**2)
    a = pt**2 + mass**2
    mu = (w_mass**2 - mass**2) / 2 + pt * met * np.cos(phi - met_phi)
    discriminant = mu**2 - a * met**2
    root = np.sqrt(discriminant.astype(complex))
    minus, plus = ((mu * pz + sign * energy * root) / a for sign in (-1, 1))
    chosen = np.where(np.abs(minus) < np.abs(plus), minus, plus)
    return discriminant, minus.real, plus.real, np.where(discriminant < 0, plus.real, chosen.real)


@pytest.mark.parametrize("w_mass", [80.4, 80.377, 60.0])
def test_against_numpy(w_mass: float) -> None:
    events = random_events(2000)
    nu = neutrino_pz(**events, w_mass=w_mass)
    discriminant, minus, plus, pz = numpy_twin(events, w_mass)
    assert nu.valid.all()
    assert 100 < nu.is_real.sum() < 1900
    np.testing.assert_array_equal(nu.is_real, discriminant >= 0)
    np.testing.assert_allclose(nu.pz_minus, minus, rtol=1e-11, atol=1e-9)
    np.testing.assert_allclose(nu.pz_plus, plus, rtol=1e-11, atol=1e-9)
    np.testing.assert_allclose(nu.pz, pz, rtol=1e-11, atol=1e-9)
    np.testing.assert_array_equal(nu.met, events["met"])
    np.testing.assert_allclose(nu.energy, np.hypot(nu.pz, nu.met), rtol=1e-14)


def test_equal_roots_give_the_positive_one() -> None:
    nu = neutrino_pz(45.0, 0.0, 1.1, 0.0, 30.0, -2.0)
    assert nu.pz_minus[0] == -nu.pz_plus[0] < 0
    assert nu.pz[0] == nu.pz_plus[0]


def test_scaled_met_reaches_the_w_mass_and_leaves_real_solutions_alone() -> None:
    events = random_events(1000)
    real_part, scaled = neutrino_pz(**events), neutrino_pz(**events, complex_solution="met_scaled")
    for name in ("pz", "pz_minus", "pz_plus", "met"):
        ours, theirs = getattr(scaled, name), getattr(real_part, name)
        np.testing.assert_array_equal(ours[real_part.is_real], theirs[real_part.is_real])
    np.testing.assert_array_equal(scaled.is_real, real_part.is_real)
    is_complex = ~real_part.is_real
    assert (scaled.met[is_complex] < events["met"][is_complex]).all()
    lepton = np.stack(to_cartesian(events["pt"], events["eta"], events["phi"], events["mass"]))
    direction = np.stack([np.cos(events["met_phi"]), np.sin(events["met_phi"])])
    neutrino = np.stack([*(scaled.met * direction), scaled.pz, scaled.energy])
    np.testing.assert_allclose(mass_of(*(lepton + neutrino))[is_complex], 80.4, rtol=1e-9)


def test_released_formula_differs_by_the_lepton_mass_squared() -> None:
    events = random_events(1000)
    massless = events | {"mass": np.zeros(1000)}
    np.testing.assert_allclose(
        neutrino_pz(**massless, formula="released").pz, neutrino_pz(**massless).pz, rtol=1e-7, atol=1e-7
    )
    muons = events | {"mass": np.full(1000, 0.1056583755)}
    exact, released = neutrino_pz(**muons), neutrino_pz(**muons, formula="released")
    complex_in_both = ~exact.is_real & ~released.is_real
    mu = 0.5 * 80.4**2 + events["pt"] * events["met"] * np.cos(events["phi"] - events["met_phi"])
    real_part = mu * np.sinh(events["eta"]) / events["pt"]
    np.testing.assert_allclose(released.pz[complex_in_both], real_part[complex_in_both], rtol=1e-11)
    assert (released.pz != exact.pz)[complex_in_both].all()


@pytest.mark.parametrize(
    "change",
    [
        {"pt": NAN},
        {"eta": NAN},
        {"phi": NAN},
        {"mass": NAN},
        {"met": NAN},
        {"met_phi": NAN},
        {"eta": math.inf},
        {"phi": math.inf},
        {"pt": math.inf},
        {"met": math.inf},
        {"pt": -1.0},
        {"met": -1.0},
        {"pt": 0.0},
        {"mass": 80.4},
    ],
)
@pytest.mark.parametrize("options", [{}, {"complex_solution": "met_scaled"}, {"formula": "released"}])
def test_invalid_input_is_nan(change: dict[str, float], options: dict[str, Any]) -> None:
    if "mass" in change and options.get("formula") == "released" and not math.isnan(change["mass"]):
        pytest.skip("the released formula does not look at the lepton mass")
    event: dict[str, Any] = {
        "pt": 45.0,
        "eta": 0.7,
        "phi": 1.1,
        "mass": 0.0,
        "met": 30.0,
        "met_phi": -2.0,
    } | change
    nu = neutrino_pz(**event, **options)
    assert not nu.valid[0]
    assert not nu.is_real[0]
    for name in ("pz", "pz_minus", "pz_plus", "met", "energy", "discriminant"):
        assert math.isnan(getattr(nu, name)[0]), name


def test_a_massive_lepton_at_rest_is_valid() -> None:
    assert neutrino_pz(0.0, 0.0, 0.0, 1.0, 20.0, 0.0).valid[0]


def test_no_events() -> None:
    nu = neutrino_pz(*[np.zeros(0)] * 6)
    assert {array.shape for array in nu} == {(0,)}
    assert nu.pz.dtype == np.float64
    assert nu.valid.dtype == nu.is_real.dtype == np.bool_
    assert leptonic_w(*[np.zeros(0)] * 6).shape == (4, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"w_mass": -1.0}, "w_mass must be a positive number of GeV; found -1.0"),
        ({"complex_solution": "imaginary"}, "one of real_part, met_scaled; found 'imaginary'"),
        ({"formula": "exact"}, "one of massive, released; found 'exact'"),
        ({"formula": "released", "complex_solution": "met_scaled"}, "goes with complex_solution 'real_part'"),
    ],
)
def test_unknown_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        neutrino_pz(45.0, 0.7, 1.1, 0.0, 30.0, -2.0, **options)


def test_lengths_must_fit() -> None:
    with pytest.raises(ValueError, match=r"one number per event.*pt \(2,\).*met \(3,\)"):
        neutrino_pz([45.0, 40.0], 0.7, 1.1, 0.0, [30.0, 30.0, 30.0], -2.0)
    with pytest.raises(ValueError, match="shape"):
        event_columns(3, pt=[1.0, 2.0])


def test_leptonic_w_has_the_w_mass() -> None:
    events = random_events(500)
    real = neutrino_pz(**events).is_real
    np.testing.assert_allclose(mass_of(*leptonic_w(**events))[real], 80.4, rtol=1e-10)


def test_awkward_leptons() -> None:
    events = random_events(100)
    lepton = ak.zip({name: events[name] for name in ("pt", "eta", "phi", "mass")})
    with_gaps = ak.mask(lepton, np.arange(100) % 3 != 0)
    nu = observables.neutrino_pz(with_gaps, events["met"], ak.Array(events["met_phi"]))
    expected = neutrino_pz(**events)
    np.testing.assert_array_equal(nu.valid, np.arange(100) % 3 != 0)
    np.testing.assert_array_equal(nu.pz[nu.valid], expected.pz[nu.valid])
    assert np.isnan(nu.pz[~nu.valid]).all()


def test_a_missing_field_is_named_with_what_is_there() -> None:
    lepton = ak.Array([{"pt": 45.0, "eta": 0.7, "phi": 1.1, "energy": 60.0}])
    with pytest.raises(InputError, match=r"lepton has no field 'mass'.*energy, eta, phi, pt"):
        observables.neutrino_pz(lepton, [30.0], [1.0])


def test_lists_of_leptons_are_refused() -> None:
    leptons = ak.Array([[{"pt": 45.0, "eta": 0.7, "phi": 1.1, "mass": 0.0}]])
    with pytest.raises(InputError, match=r"one record per event, as ak\.firsts gives"):
        observables.neutrino_pz(leptons, [30.0], [1.0])
