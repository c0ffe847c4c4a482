"""Muon pairs: order, features by hand, the shipped file, mixing, and the resonance of the closure tests."""

from __future__ import annotations

from pathlib import Path

import awkward as ak
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evenet_hep.analyses.dimuon_anomaly.injection import MAX_ETA, MIN_PT, injected_sample, resonance_pairs
from evenet_hep.errors import FileError, InputError
from evenet_hep.events.dimuons import (
    FEATURES,
    make_pairs,
    mix_pairs,
    pair_features,
    pairs_of,
    read_dimuons,
)
from evenet_hep.share import dimuon_file


def test_features_by_hand() -> None:
    # Two muons of 3 and 4 GeV at right angles in the transverse plane: pT = 5, HT = 7, y = 0.
    pairs = make_pairs([[3.0], [0.0], [0.0]], [[0.0], [4.0], [0.0]], [[1], [-1]])
    assert pairs.charges.tolist() == [[-1], [1]]  # the harder muon comes first, with its charge
    found = dict(zip(FEATURES, pair_features(pairs, list(FEATURES))[0], strict=True))
    assert found["pair_pt"] == pytest.approx(5.0)
    assert found["abs_rapidity"] == pytest.approx(0.0)
    assert found["ht"] == pytest.approx(7.0)
    assert found["pt_balance"] == pytest.approx(5 / 7)
    assert found["delta_r"] == pytest.approx(np.pi / 2)
    # |E1 - E2| / |p| with massless muons: 1 / 5
    assert found["cos_theta"] == pytest.approx(0.2, abs=1e-3)
    assert pairs.mass[0] == pytest.approx(np.sqrt(24), abs=5e-3)  # 2 * 3 * 4 (1 - cos 90 degrees)


def test_cos_theta_is_the_decay_angle() -> None:
    mass, cos = 10.0, np.array([0.0, 0.3, 0.9])
    p_star = np.sqrt(25 - 0.1056583755**2)
    along, across = p_star * cos, p_star * np.sqrt(1 - cos**2)
    gamma, beta = 2.0, np.sqrt(1 - 1 / 4)
    first = np.stack([across, np.zeros(3), gamma * (along + beta * 5)])
    second = np.stack([-across, np.zeros(3), gamma * (-along + beta * 5)])
    pairs = make_pairs(first, second, np.array([[1] * 3, [-1] * 3]))
    assert pairs.mass == pytest.approx([mass] * 3)
    # |E1 - E2| / |p1 + p2| = 2 gamma beta p* cos / (gamma beta M)
    assert pair_features(pairs, ["cos_theta"])[:, 0] == pytest.approx(cos * 2 * p_star / mass)


def test_shipped_pairs() -> None:
    pairs = read_dimuons(dimuon_file())
    assert pairs.n == 20000
    mass = pairs.mass
    assert 8 < mass.min() < 8.01
    assert 11.99 < mass.max() < 12
    assert ((mass > 9.1) & (mass < 10.7)).sum() == 10837
    table = pq.read_table(dimuon_file())
    # The first line of the source: px1 = -4.2666, py1 = 0.4565, pz1 = -4.4793
    assert [table[name][0].as_py() for name in ("run", "event", "px1", "py1", "pz1")] == [
        165617, 75100943, -42666, 4565, -44793,
    ]  # fmt: skip


def test_shipped_pairs_are_those_of_the_source(shared_data: Path) -> None:
    source = np.genfromtxt(
        shared_data / "real" / "Ymumu.csv", delimiter=",", skip_header=1, usecols=(0, 1, 4, 5, 6, 13, 14, 15)
    )
    table = pq.read_table(dimuon_file())
    for column, name in enumerate(("run", "event", "px1", "py1", "pz1", "px2", "py2", "pz2")):
        unit = 1e-4 if name.startswith("p") else 1
        np.testing.assert_allclose(table[name].to_numpy() * unit, source[:, column], rtol=0, atol=1e-9)


def test_pairs_of_nanoaod_muons() -> None:
    muons = ak.Array(
        [
            [
                {"pt": 10.0, "eta": 0.5, "phi": 1.0, "charge": -1},
                {"pt": 20.0, "eta": -1.0, "phi": 2.0, "charge": 1},
            ]
        ]
    )
    pairs = pairs_of(muons)
    assert np.hypot(*pairs.leading[:2, 0]) == pytest.approx(20)
    assert pairs.leading[2, 0] == pytest.approx(20 * np.sinh(-1.0))
    assert pairs.charges[:, 0].tolist() == [1, -1]
    with pytest.raises(InputError, match="two muons"):
        pairs_of(muons[:, :1])


def test_tables_in_gev_and_what_is_missing(tmp_path: Path) -> None:
    columns = {
        "px1": [3.0],
        "py1": [0.0],
        "pz1": [0.0],
        "charge1": [1],
        "px2": [0.0],
        "py2": [4.0],
        "pz2": [0.0],
        "charge2": [-1],
    }
    pq.write_table(pa.table(columns), tmp_path / "pairs.parquet")
    assert read_dimuons(tmp_path / "pairs.parquet").leading[:, 0].tolist() == [0.0, 4.0, 0.0]
    columns.pop("charge2")
    pq.write_table(pa.table(columns), tmp_path / "few.parquet")
    with pytest.raises(FileError, match="lacks charge2"):
        read_dimuons(tmp_path / "few.parquet")
    with pytest.raises(FileError, match="cannot read"):
        read_dimuons(tmp_path / "none.parquet")


@pytest.mark.parametrize("same_sign", [False, True])
def test_mixed_pairs_have_two_events_and_no_resonance(same_sign: bool) -> None:
    pairs = read_dimuons(dimuon_file()).take(slice(0, 4000))
    mixed = mix_pairs(pairs, 1500, span=(8.0, 12.0), same_sign=same_sign, seed=3)
    assert mixed.n == 1500
    assert (mixed.is_opposite_sign != same_sign).all()
    assert ((mixed.mass > 8) & (mixed.mass < 12)).all()
    # No mixed pair is a real one: leading and trailing muons of an event never meet.
    partner = {tuple(a): tuple(b) for a, b in zip(pairs.leading.T, pairs.trailing.T, strict=True)}
    assert not any(
        partner.get(tuple(a)) == tuple(b) for a, b in zip(mixed.leading.T, mixed.trailing.T, strict=True)
    )
    # The Upsilon makes 1.8 times the neighbouring bins in data; mixed, the bin is an average of its neighbours.
    content = np.histogram(mixed.mass, [8.7, 9.2, 9.7, 10.2])[0]
    assert abs(content[1] - (content[0] + content[2]) / 2) < 4 * np.sqrt(1.5 * content[1])


def test_mixing_is_seeded_and_refuses_what_it_cannot_do() -> None:
    pairs = read_dimuons(dimuon_file()).take(slice(0, 500))
    first, again, other = (mix_pairs(pairs, 50, span=(8.0, 12.0), seed=seed).mass for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()
    with pytest.raises(InputError, match="no mixed pair"):
        mix_pairs(pairs, 50, span=(900.0, 901.0), seed=1)
    with pytest.raises(InputError, match="opposite sign"):
        mix_pairs(pairs.take(slice(1)), 50, span=(8.0, 12.0), seed=1)


def test_resonance_is_where_it_should_be() -> None:
    pairs = resonance_pairs(800, window=(9.1, 10.7), seed=5)
    assert pairs.n == 800
    assert pairs.mass.mean() == pytest.approx(9.9, abs=0.04)
    for p in (pairs.leading, pairs.trailing):
        pt = np.hypot(p[0], p[1])
        assert pt.min() > MIN_PT
        assert np.abs(np.arcsinh(p[2] / pt)).max() < MAX_ETA


def test_injected_numbers_fluctuate_and_are_known() -> None:
    source = read_dimuons(dimuon_file()).take(slice(1, None, 4))
    made = [
        injected_sample(source, 300, 40, span=(8.0, 12.0), window=(9.1, 10.7), seed=[1, k]) for k in range(12)
    ]
    signal = np.array([sample.is_signal.sum() for sample in made])
    total = np.array([sample.pairs.n for sample in made])
    assert signal.mean() == pytest.approx(40, abs=6)
    assert (total - signal).mean() == pytest.approx(300, abs=16)
    assert len(set(total)) > 5
    inside = made[0].pairs.take(made[0].is_signal).mass
    assert ((inside > 9.1) & (inside < 10.7)).all()
