"""Ancestry of generated particles, and which of them are written."""

from __future__ import annotations

import awkward as ak
import numpy as np

from evenet_hep.simulate.detector import TrackCard
from evenet_hep.simulate.genparticles import generated_particles, nearest_kept
from evenet_hep.simulate.leptons import impact_parameters
from evenet_hep.simulate.particles import (
    FROM_B_HADRON,
    FROM_C_HADRON,
    FROM_HADRON,
    FROM_HARD_PROCESS,
    IS_DECAYED_LEPTON_HADRON,
    IS_DIRECT_HADRON_PRODUCT,
    IS_DIRECT_PROMPT_TAU_PRODUCT,
    IS_DIRECT_TAU_PRODUCT,
    IS_FIRST_COPY,
    IS_HARD_PROCESS,
    IS_LAST_B_HADRON,
    IS_LAST_COPY,
    IS_PROMPT,
    IS_PROMPT_TAU_PRODUCT,
    Particles,
    ancestry_flags,
    flatten_particles,
    is_b_hadron,
    is_c_hadron,
    is_hadron,
)
from evenet_hep.simulate.taus import visible_taus

# number, code, status, mother, px, py, pz, mass: a top, its copy, W -> tau nu, tau -> pi- pi0 nu; b -> B* -> B -> D mu nu
EVENT = [
    (0, 90, -11, 0, 0.0, 0.0, 0.0, 13000.0),
    (1, 2212, -12, 0, 0.0, 0.0, 6500.0, 0.938),
    (2, 21, -21, 1, 0.0, 0.0, 400.0, 0.0),
    (3, 6, -22, 2, 50.0, 0.0, 100.0, 172.5),
    (4, 6, -62, 3, 60.0, 0.0, 110.0, 172.5),
    (5, 24, -22, 4, 20.0, 0.0, 60.0, 80.4),
    (6, 5, -23, 4, 40.0, 0.0, 50.0, 4.8),
    (7, -15, -23, 5, 15.0, 5.0, 30.0, 1.777),
    (8, 16, 23, 5, 5.0, -5.0, 30.0, 0.0),
    (9, 211, 91, 7, 8.0, 2.0, 15.0, 0.1396),
    (10, 111, -91, 7, 4.0, 1.0, 8.0, 0.135),
    (11, -16, 91, 7, 3.0, 2.0, 7.0, 0.0),
    (12, 22, 91, 10, 4.0, 1.0, 8.0, 0.0),
    (13, 5, -71, 6, 38.0, 0.0, 48.0, 4.8),
    (14, -513, -83, 13, 30.0, 0.0, 40.0, 5.325),
    (15, -511, -91, 14, 29.0, 0.0, 39.0, 5.28),
    (16, 411, -91, 15, 20.0, 1.0, 25.0, 1.87),
    (17, 13, 91, 15, 6.0, -1.0, 10.0, 0.1057),
    (18, -14, 91, 15, 3.0, 0.0, 4.0, 0.0),
    (19, -11, 91, 16, 3.0, 0.0, 4.0, 0.0005),
]


def listing() -> ak.Array:
    """EVENT twice, as Pythia hands over a batch."""
    columns = list(zip(*EVENT, strict=True))
    number, code, status, mother, px, py, pz, mass = (np.tile(np.array(column), 2) for column in columns)
    energy = np.sqrt(px**2 + py**2 + pz**2 + mass**2)
    counts = [len(EVENT)] * 2
    p = ak.zip({"px": px, "py": py, "pz": pz, "e": energy})
    vertex = ak.mask(ak.zip({"px": px * 0 + 1.0, "py": py * 0, "pz": pz * 0}), number >= 15)
    fields = {"id": code, "status": status, "mother1": mother, "m": mass}
    records = ak.zip({**fields, "p": p, "vProd": vertex}, depth_limit=1)
    return ak.unflatten(records, counts)


def particles() -> Particles:
    return flatten_particles(listing())


def flags_of(found: Particles) -> np.ndarray:
    return ancestry_flags(found.pdg_id, found.status, found.mother)


def test_both_events_are_alike() -> None:
    found = particles()
    n = len(EVENT)
    assert found.n_events == 2
    assert found.mother[:n].tolist() == [-1, -1, -1, *(entry[3] for entry in EVENT[3:])]
    assert (found.mother[n + 3 :] - found.mother[3:n] == n).all()
    flags = flags_of(found)
    assert (flags[:n] == flags[n:]).all()
    assert found.x[15] == 1.0
    assert found.x[14] == 0.0


def test_flags_of_a_top_and_its_tau() -> None:
    flags = flags_of(particles())

    def has(i: int, bits: int) -> bool:
        return bool((flags[i] & bits) == bits)

    assert has(3, IS_PROMPT | IS_HARD_PROCESS | IS_FIRST_COPY)
    assert not has(3, IS_LAST_COPY)
    assert has(4, FROM_HARD_PROCESS | IS_LAST_COPY)
    assert not flags[4] & (IS_HARD_PROCESS | IS_FIRST_COPY)
    assert has(7, IS_PROMPT | IS_HARD_PROCESS | IS_DECAYED_LEPTON_HADRON | IS_FIRST_COPY | IS_LAST_COPY)
    for i in (9, 10, 11):
        assert has(i, IS_PROMPT_TAU_PRODUCT | IS_DIRECT_TAU_PRODUCT | IS_DIRECT_PROMPT_TAU_PRODUCT)
        assert not has(i, IS_PROMPT)
    assert has(12, IS_PROMPT_TAU_PRODUCT)
    assert not has(12, IS_DIRECT_TAU_PRODUCT)


def test_flags_of_heavy_hadrons() -> None:
    flags = flags_of(particles())
    assert flags[13] & FROM_HARD_PROCESS
    assert not flags[14] & IS_LAST_B_HADRON  # the B* is followed by a B
    assert flags[15] & IS_LAST_B_HADRON
    assert flags[17] & FROM_B_HADRON
    assert flags[17] & IS_DIRECT_HADRON_PRODUCT
    assert not flags[17] & (IS_PROMPT | FROM_C_HADRON)
    assert flags[19] & FROM_B_HADRON
    assert flags[19] & FROM_C_HADRON
    assert not flags[8] & FROM_HADRON


def test_kinds_of_hadrons() -> None:
    assert all(map(is_hadron, (211, -2212, 130, 310, 511, 5122, 553, 443, 111)))
    assert not any(map(is_hadron, (21, 5, 24, 2101, 1103, 90, 25, 15)))
    assert all(map(is_b_hadron, (511, -5122, 553, 20553, 541)))
    assert all(map(is_c_hadron, (411, 4122, 443, -431)))
    assert not is_c_hadron(541)


def test_what_is_written_and_how_it_is_linked() -> None:
    found = particles()
    collection, position = generated_particles(found, flags_of(found))
    n = collection.counts[0]
    written = collection["pdgId"][:n].tolist()
    assert written == [21, 6, 6, 24, 5, -15, 16, 211, 111, -16, 5, -513, -511, 411, 13, -14, -11]
    mothers = [written[m] if m >= 0 else None for m in collection["genPartIdxMother"][:n]]
    assert mothers == [None, 21, 6, 6, 6, 24, 24, -15, -15, -15, 5, 5, -513, -511, -511, -511, 411]
    assert collection["genPartIdxMother"][n:].tolist() == collection["genPartIdxMother"][:n].tolist()
    statuses = dict(zip(written, collection["status"][:n].tolist(), strict=True))
    assert (statuses[-15], statuses[13], statuses[-511], statuses[24]) == (2, 1, 2, 22)
    assert position[12] == -1


def test_the_closest_written_ancestor() -> None:
    kept = np.array([True, False, False, True])
    assert nearest_kept(np.array([-1, 0, 1, 2]), kept).tolist() == [-1, 0, 0, 0]


def test_the_visible_part_of_a_tau() -> None:
    found = particles()
    taus = visible_taus(found, flags_of(found))
    assert taus.particle.tolist() == [7, 7 + len(EVENT)]
    assert taus.decay_mode.tolist() == [1, 1]
    np.testing.assert_allclose(taus.momentum[:3, 0], [12.0, 3.0, 23.0])


def test_impact_parameters_of_a_displaced_muon() -> None:
    found = particles()
    card = TrackCard(dxy=1e-12, dz=1e-12, soft=0.0)
    tracks = impact_parameters(found, np.array([17]), card, np.random.default_rng(1))
    # produced at x = 1 mm with px = 6, py = -1, pz = 10
    pt = np.hypot(6.0, 1.0)
    np.testing.assert_allclose(tracks["dxy"], 0.1 * 1.0 / pt, rtol=1e-6)
    np.testing.assert_allclose(tracks["dz"], -0.1 * 6.0 * 10.0 / pt**2, rtol=1e-6)
    true_distance = 0.1 * np.sqrt(1.0 + 100.0) / np.sqrt(137.0)  # of the origin from the line
    np.testing.assert_allclose(tracks["ip3d"], true_distance, rtol=1e-6)
