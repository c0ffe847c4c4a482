from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest

from evenet_hep import EventCloud, EventSchema
from evenet_hep.errors import InputError
from evenet_hep.events import systematics as syst

SHARED_VECTORS = Path(__file__).parents[3] / "shared" / "vectors" / "systematics.json"


def events_of(seed: int = 1, n: int = 50) -> ak.Array:
    rng = np.random.default_rng(seed)

    def table(mean: float) -> ak.Array:
        counts = rng.poisson(mean, n)
        m = int(counts.sum())
        columns = {
            "pt": 20 + rng.exponential(40, m), "eta": rng.normal(0, 1.5, m), "phi": rng.uniform(-3.1, 3.1, m),
            "mass": rng.exponential(8, m), "charge": rng.choice([-1.0, 1.0], m), "btagDeepFlavB": rng.uniform(size=m),
        }  # fmt: skip
        return ak.zip({k: ak.unflatten(v, counts) for k, v in columns.items()})

    met = ak.zip({"pt": rng.exponential(40, n), "phi": rng.uniform(-3.1, 3.1, n)})
    return ak.zip({"Electron": table(0.5), "Muon": table(0.5), "Jet": table(5), "MET": met}, depth_limit=1)


def transverse_sum(jets: ak.Array, met: ak.Array) -> tuple[np.ndarray, np.ndarray]:
    x = ak.sum(jets["pt"] * np.cos(jets["phi"]), axis=1) + met["pt"] * np.cos(met["phi"])
    y = ak.sum(jets["pt"] * np.sin(jets["phi"]), axis=1) + met["pt"] * np.sin(met["phi"])
    return ak.to_numpy(x), ak.to_numpy(y)


@pytest.mark.parametrize("alpha", [0.03, -0.02, np.linspace(-0.1, 0.1, 50)])
def test_energy_scale_conserves_transverse_momentum(alpha: Any) -> None:
    events = events_of()
    shifted = syst.shift_energy_scale(events["Jet"], events["MET"], alpha)
    np.testing.assert_allclose(
        transverse_sum(*shifted), transverse_sum(events["Jet"], events["MET"]), atol=1e-9
    )
    assert ak.all(abs(shifted.jets["pt"] / events["Jet"]["pt"] - 1 - np.asarray(alpha)) < 1e-12)
    for name in ("eta", "phi", "mass", "btagDeepFlavB"):
        assert ak.all(shifted.jets[name] == events["Jet"][name])


def test_energy_scale_moves_a_stored_energy_along() -> None:
    jets = events_of()["Jet"]
    energy = np.sqrt((jets["pt"] * np.cosh(jets["eta"])) ** 2 + jets["mass"] ** 2)
    met = events_of()["MET"]
    shifted = syst.shift_energy_scale(ak.with_field(jets, energy, "energy"), met, 0.05).jets
    expected = np.sqrt((shifted["pt"] * np.cosh(jets["eta"])) ** 2 + jets["mass"] ** 2)
    np.testing.assert_allclose(ak.flatten(shifted["energy"]), ak.flatten(expected), rtol=1e-12)
    with pytest.raises(InputError, match="jets has no field 'eta'"):
        syst.shift_energy_scale(ak.zip({"pt": [[20.0]], "phi": [[0.0]], "E": [[25.0]]}), met[:1], 0.05)


def test_no_shift_is_the_identity_on_all_features() -> None:
    events, schema = events_of(), EventSchema.standard()
    nominal = EventCloud.from_awkward(events, schema)
    same = syst.shift_energy_scale(events["Jet"], events["MET"], 0.0)
    met = syst.shift_soft_met_components(syst.shift_soft_met_magnitude(same.met, 0.0), 0.0, 0.0)
    shifted = EventCloud.from_awkward(events, schema, collections={"Jet": same.jets}, met=met)
    assert np.array_equal(shifted.objects, nominal.objects)
    np.testing.assert_allclose(shifted.event_features, nominal.event_features, rtol=1e-6)


def test_every_feature_follows() -> None:
    events, schema = events_of(), EventSchema.standard()
    up = syst.shift_energy_scale(events["Jet"], events["MET"], 0.05)
    nominal = EventCloud.from_awkward(events, schema)
    shifted = EventCloud.from_awkward(events, schema, collections={"Jet": up.jets}, met=up.met)
    ht, m_lep = schema.event_names.index("ht"), schema.event_names.index("m_lep")
    np.testing.assert_allclose(shifted.event_features[:, ht], 1.05 * nominal.event_features[:, ht], rtol=1e-5)
    np.testing.assert_allclose(shifted.event_features[:, m_lep], nominal.event_features[:, m_lep], rtol=1e-6)
    np.testing.assert_allclose(shifted.event_features[:, 0], ak.to_numpy(up.met["pt"]), rtol=1e-6)


def test_soft_met() -> None:
    met = ak.Array([{"pt": 3.0, "phi": 0.0}, {"pt": 4.0, "phi": np.pi / 2}])
    moved = syst.shift_soft_met_components(met, 0.0, 4.0)
    np.testing.assert_allclose(moved["pt"], [5.0, 8.0])
    np.testing.assert_allclose(moved["phi"], [np.arctan2(4, 3), np.pi / 2])
    larger = syst.shift_soft_met_magnitude(met, [-5.0, 1.0])
    assert larger["pt"].to_list() == [0.0, 5.0]
    assert larger["phi"].to_list() == met["phi"].to_list()


def test_draws_have_their_distributions() -> None:
    rng = np.random.default_rng(7)
    alpha = syst.draw_energy_scales(20_000, rng)
    assert abs(alpha.mean()) < 4 * 0.01 / np.sqrt(20_000)
    assert alpha.std() == pytest.approx(0.01, rel=0.03)
    soft = syst.draw_soft_met(20_000, rng)
    assert soft.min() >= 0
    assert soft.max() <= 5
    assert (soft > 4.99).mean() < 0.002  # truncated, not clipped
    assert (syst.clipped_lognormal(rng.normal(size=20_000)) == 5).mean() == pytest.approx(0.0538, abs=0.006)
    assert np.median(soft) == pytest.approx(float(syst.truncated_lognormal(0.5)), rel=0.03)
    dx, dy = syst.draw_soft_met_noise(20_000, rng)
    assert dx.std() == pytest.approx(dy.std(), rel=0.05)
    assert abs(np.corrcoef(dx, dy)[0, 1]) < 0.03
    assert syst.truncated_lognormal([0.0, 1.0]).tolist() == [0.0, 5.0]
    assert np.isnan(syst.truncated_lognormal([-0.1, 1.1, np.nan])).all()


def test_bad_input() -> None:
    events = events_of()
    with pytest.raises(InputError, match="jets has no field 'phi'"):
        syst.shift_energy_scale(events["Jet"][["pt", "eta"]], events["MET"], 0.1)
    with pytest.raises(InputError, match="one length"):
        syst.shift_energy_scale(events["Jet"], events["MET"][:3], 0.1)
    with pytest.raises(InputError, match="above -1"):
        syst.shift_energy_scale(events["Jet"], events["MET"], -1.0)


def test_empty_chunk() -> None:
    events = events_of()[:0]
    shifted = syst.shift_energy_scale(events["Jet"], events["MET"], 0.01)
    assert len(shifted.jets) == len(shifted.met) == 0


@pytest.mark.skipif(not SHARED_VECTORS.is_file(), reason="no vectors beside this checkout")
def test_vectors() -> None:
    doc = json.loads(SHARED_VECTORS.read_text())
    tolerance = {"rtol": doc["tolerance"]["rtol"], "atol": doc["tolerance"]["atol"]}
    simple: dict[str, Callable[[dict[str, Any], ak.Array], Any]] = {
        "soft_met_magnitude": lambda x, met: syst.shift_soft_met_magnitude(met, x["d"]),
        "soft_met_components": lambda x, met: syst.shift_soft_met_components(met, x["dx"], x["dy"]),
    }
    for case in doc["cases"]:
        given, expected = case["input"], case["expected"]
        if case["function"] == "truncated_lognormal_ppf":
            np.testing.assert_allclose(syst.truncated_lognormal(given["u"]), expected["value"], **tolerance)
            continue
        if case["function"] == "clipped_lognormal_from_normal":
            np.testing.assert_allclose(syst.clipped_lognormal(given["z"]), expected["value"], **tolerance)
            continue
        met = ak.Array([{"pt": given["met"], "phi": given["met_phi"]}])
        if case["function"] == "jes":
            template = {"pt": 1.0, "eta": 0.0, "phi": 0.0, "mass": 0.0}
            jets = ak.Array([[template], given["jets"]])[1:]
            out = syst.shift_energy_scale(jets, met, given["alpha"])
            for name in ("pt", "eta", "phi", "mass"):
                np.testing.assert_allclose(
                    out.jets[name][0], [j[name] for j in expected["jets"]], **tolerance
                )
            momentum = out.jets["pt"][0] * np.cosh(out.jets["eta"][0])
            energy = np.hypot(momentum, out.jets["mass"][0])
            np.testing.assert_allclose(energy, [j["energy"] for j in expected["jets"]], **tolerance)
            found = out.met
        else:
            found = simple[case["function"]](given, met)
        np.testing.assert_allclose(found["pt"][0], expected["met"], **tolerance)
        np.testing.assert_allclose(found["phi"][0], expected["met_phi"], **tolerance)
