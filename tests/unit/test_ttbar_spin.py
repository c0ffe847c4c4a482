"""The parts of the spin analysis on numbers that can be checked by hand."""

from __future__ import annotations

import awkward as ak
import hist
import numpy as np
import pytest
from evenet_hep.processors import TTbarSpinProcessor
from evenet_hep.processors.ttbar_spin import event_weights, reconstruct_tops

from evenet_hep.analyses.ttbar_spin import TTbarSpinConfig
from evenet_hep.analyses.ttbar_spin.calibration import calibration_curve, measured_moments
from evenet_hep.analyses.ttbar_spin.closure import Closure
from evenet_hep.analyses.ttbar_spin.measure import (
    ALL,
    DIAGONAL,
    FLAT_EDGES,
    Reference,
    Settings,
    data_covariance,
    fill_responses,
    fill_spectra,
    flat_bins,
    response_covariance,
    unfold_spectra,
    with_neighbours,
)
from evenet_hep.analyses.ttbar_spin.shifts import draw_shifts
from evenet_hep.errors import ConfigError, InputError, PredictionError
from evenet_hep.events.ttbar_dilepton import DileptonObjects, dilepton_candidates, dilepton_objects
from evenet_hep.inference import Predictor, Sampling
from evenet_hep.kinematics.spin import SpinAngles
from evenet_hep.stats.response import fill_response
from evenet_hep.stats.unfold import unfold_bayes, unfold_svd
from evenet_hep.stats.unfold_histogram import unfold_histogram


def lepton(pt: float, eta: float, phi: float, charge: int) -> dict[str, float]:
    return {"pt": pt, "eta": eta, "phi": phi, "mass": 0.1, "charge": charge}


def jet(pt: float, eta: float, phi: float, btag: float) -> dict[str, float]:
    return {"pt": pt, "eta": eta, "phi": phi, "mass": 8.0, "btag": btag}


def objects(leptons: list[dict[str, float]], jets: list[dict[str, float]]) -> DileptonObjects:
    met = ak.Array([{"pt": 50.0, "phi": 0.4}])
    return DileptonObjects(ak.Array([leptons]), ak.Array([jets]), met)


PAIR = [lepton(60.0, 0.1, 0.2, -1), lepton(40.0, -1.0, 2.5, 1)]
JETS = [
    jet(90.0, 0.5, -2.0, 0.0),
    jet(70.0, -0.3, 1.2, 1.0),
    jet(50.0, 1.1, -1.0, 1.0),
    jet(30.0, 0.0, 3.0, 1.0),
]


def test_candidates_are_the_charged_pair_and_the_hardest_b_jets() -> None:
    found = dilepton_candidates(objects(PAIR, JETS))
    assert found.passed.tolist() == [True]
    assert np.hypot(*found.lplus[:2, 0]) == pytest.approx(40.0)
    assert np.hypot(*found.lminus[:2, 0]) == pytest.approx(60.0)
    assert np.hypot(*found.bjet1[:2, 0]) == pytest.approx(70.0)
    assert np.hypot(*found.bjet2[:2, 0]) == pytest.approx(50.0)
    assert found.bjet_index[:, 0].tolist() == [1, 2]  # among the jets of the network, pT-ordered


@pytest.mark.parametrize(
    ("leptons", "jets"),
    [
        ([lepton(60.0, 0.1, 0.2, 1), PAIR[1]], JETS),  # same sign
        ([*PAIR, lepton(26.0, 0.3, -2.0, 1)], JETS),  # a third lepton
        ([PAIR[0], lepton(25.0, -1.0, 2.5, 1)], JETS),  # on the boundary
        (PAIR, [*JETS[:2], jet(25.0, 1.1, -1.0, 1.0)]),  # second b jet on the boundary
    ],
)
def test_events_that_do_not_pass(leptons: list[dict[str, float]], jets: list[dict[str, float]]) -> None:
    found = dilepton_candidates(objects(leptons, jets))
    assert found.passed.tolist() == [False]
    assert np.isnan(found.lplus).all()
    assert found.bjet_index.tolist() == [[-1], [-1]]


def test_a_third_lepton_too_soft_to_be_selected_does_not_matter() -> None:
    assert dilepton_candidates(objects([*PAIR, lepton(20.0, 0.3, -2.0, 1)], JETS)).passed.all()


def test_an_energy_scale_moves_events_into_the_selection() -> None:
    softer = objects(PAIR, [JETS[1], jet(24.9, 1.1, -1.0, 1.0)])
    assert not dilepton_candidates(softer).passed.any()
    shifted = softer.with_energy_scale(0.01)
    assert dilepton_candidates(shifted).passed.all()
    lost = 0.01 * np.array(
        [70.0 * np.cos(1.2) + 24.9 * np.cos(-1.0), 70.0 * np.sin(1.2) + 24.9 * np.sin(-1.0)]
    )
    expected = 50.0 * np.array([np.cos(0.4), np.sin(0.4)]) - lost
    met = shifted.met[0]
    assert [met.pt * np.cos(met.phi), met.pt * np.sin(met.phi)] == pytest.approx(expected, rel=1e-6)


def test_objects_of_nanoaod_events() -> None:
    electron = lepton(50.0, 0.0, 0.0, -1)
    events = ak.Array(
        [
            {
                "Electron": [
                    electron | {"pfRelIso03_all": 0.1},
                    electron | {"pfRelIso03_all": 0.2, "phi": 2.0},
                ],
                "Muon": [lepton(30.0, 1.0, 1.0, 1) | {"pfRelIso04_all": 0.0}],
                "Jet": [
                    {
                        "pt": 55.0,
                        "eta": 0.1,
                        "phi": 0.1,
                        "mass": 5.0,
                        "btagDeepFlavB": 0.0,
                    },  # the electron again
                    {"pt": 70.0, "eta": 0.1, "phi": 2.0, "mass": 5.0, "btagDeepFlavB": 0.2489},
                    {"pt": 60.0, "eta": 0.1, "phi": -2.0, "mass": 5.0, "btagDeepFlavB": 0.25},
                ],
                "MET": {"pt": 10.0, "phi": 0.0},
            }
        ]
    )
    found = dilepton_objects(events)
    assert found.leptons.pt.to_list() == [[50.0, 30.0]]
    assert found.jets.pt.to_list() == [[70.0, 60.0]]
    assert found.jets.btag.to_list() == [[0.0, 1.0]]  # a score on the working point is not tagged


def test_classical_reconstruction_says_which_jet_is_whose() -> None:
    found = reconstruct_tops(objects(PAIR, JETS))
    assert found.passed.all()
    if found.valid.all():
        assert sorted(found.bjet_index[:, 0].tolist()) == [1, 2]
    nothing = reconstruct_tops(objects(PAIR[:1], JETS))
    assert not nothing.valid.any()
    assert np.isnan(nothing.angles.m_tt).all()


def test_a_network_without_the_heads_is_refused() -> None:
    with pytest.raises(ConfigError, match="lacks assignment, invisible"):
        TTbarSpinProcessor(Predictor("demo"))


def test_sampling_without_noise_is_one_draw() -> None:
    with pytest.raises(PredictionError, match="samples must be 1"):
        Sampling(samples=3, noise="none")
    with pytest.raises(PredictionError, match="'content' or 'none'"):
        Sampling(noise="some")  # type: ignore[arg-type]


def test_spin_weights_of_any_strength() -> None:
    events = ak.Array({"genWeight": [1.0, -1.0], "spinWeight": [1.5, 0.2]})
    assert event_weights(events, 1.0) == pytest.approx([1.5, -0.2])
    assert event_weights(events, 0.5) == pytest.approx([1.25, -0.6])
    assert event_weights(events, 0.0).tolist() == [1.0, -1.0]
    assert event_weights(ak.Array({"MET": [1, 2]}), 1.0).tolist() == [1.0, 1.0]


def test_true_bins_that_are_never_measured_take_their_neighbour() -> None:
    reco, true = [0.5, 0.5, 20.5, np.nan, np.nan], [0.5, 0.5, 21.5, 1.5, 20.5]
    response = with_neighbours(fill_response(reco, true, reco_edges=FLAT_EDGES, truth_edges=FLAT_EDGES))
    assert response.probabilities[0, 1] == pytest.approx(1.0)  # of bin 0, in the same bin of m(ttbar)
    assert response.probabilities[20, 20] == pytest.approx(1.0)  # of bin 21, not of the closer bin 0
    assert response.truth[1] == pytest.approx(1.0)
    assert (response.migrations.sum(axis=0) > 0).all()


def isotropic(n: int, rng: np.random.Generator, correlation: float) -> tuple[SpinAngles, np.ndarray]:
    """Leptons in random directions, a mass below 400 GeV, and weights for C = correlation times the unit matrix."""
    plus, minus = (x / np.linalg.norm(x, axis=0) for x in rng.normal(size=(2, 3, n)))
    cos_phi = (plus * minus).sum(axis=0)
    angles = SpinAngles(np.full(n, 380.0), plus[0], plus, minus, cos_phi, np.ones(n, bool))
    return angles, 1.0 - correlation * cos_phi  # kappa+ kappa- = -1


@pytest.mark.parametrize("settings", [Settings("bayes", 1), Settings("svd", k=81)])
def test_a_perfect_reconstruction_gives_back_the_moments(settings: Settings) -> None:
    rng = np.random.default_rng(3)
    angles, weights = isotropic(20_000, rng, -0.4)
    # Spread over all four bins, so that no true bin is empty.
    angles = angles._replace(m_tt=rng.choice([380.0, 450.0, 600.0, 900.0], 20_000))
    bins = flat_bins(angles, angles.valid, DIAGONAL)
    reference = Reference(bins, bins, np.ones(20_000))
    spectra, variances = fill_spectra(bins, weights), fill_spectra(bins, weights**2)
    found = unfold_spectra(spectra, variances, fill_responses(reference), DIAGONAL, settings)
    covariance = data_covariance(found, bins, weights**2)
    sigma = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    assert sigma == pytest.approx(3.0 / np.sqrt(5000), rel=0.1)  # 9 s(xi) / sqrt(N) with s(xi) = 1/3
    assert (np.abs(found.values + 0.4) < 4.5 * sigma).all()
    centers = -1 + (bins % 20).astype(int) / 10 + 0.05
    for m, mass in enumerate((380.0, 450.0, 600.0, 900.0)):
        mine = angles.m_tt == mass
        direct = -9.0 * (centers[:, mine] * weights[mine]).sum(axis=1) / weights[mine].sum()
        assert found.values[m] == pytest.approx(direct, abs=1e-6)


def test_covariances_of_data_and_simulation_are_those_of_repetitions() -> None:
    rng = np.random.default_rng(5)
    settings = Settings("bayes", 2)

    def smeared(n: int) -> tuple[np.ndarray, np.ndarray]:
        angles, _ = isotropic(n, rng, 0.0)
        angles = angles._replace(m_tt=rng.choice([380.0, 450.0, 600.0, 900.0], n))
        noisy = angles._replace(cos_plus=np.clip(angles.cos_plus + rng.normal(0, 0.3, (3, n)), -1, 1))
        return flat_bins(noisy, noisy.valid, DIAGONAL), flat_bins(angles, angles.valid, DIAGONAL)

    measured, true = smeared(4000)
    responses = fill_responses(Reference(measured, true, np.ones(4000)))
    repeated, predicted = [], []
    for _ in range(60):
        data, _ = smeared(rng.poisson(2000))
        spectra, one = fill_spectra(data, np.ones(data.shape[1])), np.ones(data.shape[1])
        found = unfold_spectra(spectra, spectra, responses, DIAGONAL, settings)
        repeated.append(-found.values.sum(axis=1))
        predicted.append(np.sqrt(data_covariance(found, data, one).sum(axis=(1, 2))))
    assert np.std(repeated, axis=0) == pytest.approx(np.mean(predicted, axis=0), rel=0.35)
    # And other simulations with the same data.
    by_simulation = [
        unfold_spectra(
            spectra, spectra, fill_responses(Reference(*smeared(4000), np.ones(4000))), DIAGONAL, settings
        )
        for _ in range(40)
    ]
    spread = np.std([-found.values.sum(axis=1) for found in by_simulation], axis=0)
    covariance = response_covariance(
        spectra, spectra, Reference(measured, true, np.ones(4000)), DIAGONAL, settings, replicas=40, seed=1
    )
    assert np.sqrt(covariance.sum(axis=(1, 2))) == pytest.approx(spread, rel=0.5)


def test_the_jacobian_of_an_unfolding_is_its_derivative() -> None:
    rng = np.random.default_rng(2)
    truth = rng.uniform(0, 1, 4000)
    response = fill_response(
        np.clip(truth + rng.normal(0, 0.1, 4000), 0, 1), truth,
        reco_edges=np.linspace(0, 1, 7), truth_edges=np.linspace(0, 1, 5),
    )  # fmt: skip
    contents = np.array([120.0, 150.0, 170.0, 160.0, 140.0, 130.0])
    step = np.array([0.0, 0.0, 1e-4, 0.0, 0.0, 0.0])
    for unfold, options in ((unfold_bayes, {"iterations": 3}), (unfold_svd, {"k": 3})):
        one, other = (
            unfold((x, response.reco_edges, contents), response, **options)
            for x in (contents, contents + step)
        )
        assert one.jacobian[:, 2] == pytest.approx((other.values - one.values) / 1e-4, rel=1e-3, abs=1e-5)


def test_the_calibration_curve_undoes_dilution_and_shift() -> None:
    cos_phi, bins = np.array([-0.5, 0.5, -0.5, 0.5]), np.zeros(4, int)
    without, full = np.ones(4), np.array([0.8, 1.2, 0.8, 1.2])  # 9 <cos phi>: 0 and 0.9
    true = np.array([[0.1] * 4, [1.9] * 4])
    curve = calibration_curve(cos_phi, bins, without, full, true)
    assert curve.slope[0] == pytest.approx(0.5)
    data = measured_moments(cos_phi, bins, np.array([0.9, 1.1, 0.9, 1.1]), np.ones(4))
    found = curve.apply(data)
    assert found.values[0] == pytest.approx(1.0)  # half way
    assert found.errors[0] == pytest.approx(data.errors[0] / 0.5)
    assert np.isnan(found.values[1])


def test_claims_and_pulls_of_a_closure() -> None:
    own = np.array([[[0.0]], [[2.0]], [[4.0]]])
    errors = np.full((3, 1, 1), 0.6)
    simulation = np.full((1, 1), 0.8)
    found = Closure(np.zeros(1), np.full((1, 1), 1.0), own, own, errors, errors, simulation)
    assert found.pulls()[:, 0, 0] == pytest.approx([-1.0, 1.0, 3.0])
    assert found.claims()[0, 0] == pytest.approx(1 / 3)  # (4 - 1) / 1 is above 1.64, (2 - 1) / 1 is not
    assert found.claims(bias=10.0)[0, 0] == 0.0


def test_every_kind_of_shift_changes_what_it_says() -> None:
    nominal = objects(PAIR, JETS)
    rng = np.random.default_rng(4)
    (alpha, shift), *rest = draw_shifts("energy scale", 3, 1, rng)
    assert len(rest) == 2
    assert shift(nominal).jets.pt[0, 0] == pytest.approx(90.0 * (1 + alpha))
    size, shift = draw_shifts("soft MET magnitude", 1, 1, rng)[0]
    assert np.isnan(size)
    assert 50.0 < shift(nominal).met.pt[0] <= 55.0
    assert shift(nominal).met.phi[0] == pytest.approx(0.4)
    x, y = (50.0 * f(0.4) for f in (np.cos, np.sin))
    moved = draw_shifts("soft MET components", 1, 1, rng)[0][1](nominal).met[0]
    assert 0 <= moved.pt * np.cos(moved.phi) - x <= 5
    assert 0 <= moved.pt * np.sin(moved.phi) - y <= 5
    assert draw_shifts("soft MET noise", 1, 1, rng)[0][1](nominal).met.pt[0] != 50.0


def test_settings_that_contradict_themselves() -> None:
    with pytest.raises(ConfigError, match="fractions must be"):
        TTbarSpinConfig(fractions=(0.5, 0.3, 0.2))
    with pytest.raises(ConfigError, match="strengths"):
        TTbarSpinConfig(strengths=(0.0, 2.0))
    assert len(ALL) == 15


def test_a_histogram_unfolds_like_its_bins() -> None:
    rng = np.random.default_rng(6)
    mass, x = rng.choice([1.0, 3.0], 6000), rng.uniform(0, 1, 6000)
    seen = np.where(rng.uniform(size=6000) < 0.8, np.clip(x + rng.normal(0, 0.1, 6000), 0, 0.999), np.nan)
    seen_mass = np.where(rng.uniform(size=6000) < 0.9, mass, 4.0 - mass)
    axes = hist.Hist.new.Var([0, 2, 4], name="m").Reg(4, 0, 1, name="x")
    measured = axes.Weight().fill(seen_mass, seen)
    response = (
        hist.Hist.new.Var([0, 2, 4], name="m").Reg(4, 0, 1, name="x")
        .Var([0, 2, 4], name="true_m").Reg(4, 0, 1, name="true_x").Weight()
        .fill(seen_mass, seen, mass, x)
    )  # fmt: skip
    found = unfold_histogram(measured, response, iterations=3)
    flat = np.where(np.isnan(seen), np.nan, 4 * (seen_mass > 2) + np.floor(4 * np.nan_to_num(seen)) + 0.5)
    edges = np.arange(9.0)
    direct = fill_response(flat, 4 * (mass > 2) + np.floor(4 * x) + 0.5, reco_edges=edges, truth_edges=edges)
    assert found.values.ravel() == pytest.approx(direct.truth, rel=1e-6)  # unfolded with its own response
    assert found.unfolded.measured.values == pytest.approx(direct.reco)
    # A slice: what is true beyond it is a fake, what is measured beyond it is a miss.
    low = unfold_histogram(
        measured[{"m": slice(None, hist.loc(2))}],
        response[{"m": slice(None, hist.loc(2)), "true_m": slice(None, hist.loc(2))}],
    )
    assert low.values[0] == pytest.approx(direct.truth[:4], rel=1e-6)
    with pytest.raises(InputError, match="axes of the measured histogram"):
        unfold_histogram(measured, measured)
