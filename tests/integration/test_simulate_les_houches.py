"""Les Houches events of a process that Pythia lacks: a small file with top pairs and a W goes through everything."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import uproot

from evenet_hep.errors import ConfigError, FileError
from evenet_hep.kinematics.vectors import boost
from evenet_hep.simulate.checks import read_files
from evenet_hep.simulate.plan import requests_from_words
from evenet_hep.simulate.run import RunSummary, count_les_houches_events, simulate
from evenet_hep.simulate.shards import SimulationSettings

pytest.importorskip("pythia8mc")
pytest.importorskip("fastjet")

TOP, W = 172.5, 80.4
BEAM = 6500.0


def write_ttw(path: Path, n_events: int, *, seed: int = 1) -> None:
    """u dbar -> t tbar W+ with flat angles and weights +1 and -1: right in every conserved quantity, not in rate."""
    random = np.random.default_rng(seed)
    lines = [
        '<LesHouchesEvents version="3.0">', "<init>",
        f"2212 2212 {BEAM} {BEAM} 0 0 247000 247000 -4 1", "0.6 0.01 1.0 1", "</init>",
    ]  # fmt: skip
    for number in range(n_events):
        lines += event_lines(random, -1.0 if number % 5 == 4 else 1.0)
    path.write_text("\n".join([*lines, "</LesHouchesEvents>", ""]))


def event_lines(random: np.random.Generator, weight: float) -> list[str]:
    mass = 2.0 * TOP + W + random.exponential(150.0) + 20.0
    rapidity = random.normal(0.0, 0.4)
    fractions = [mass / (2.0 * BEAM) * np.exp(sign * rapidity) for sign in (1.0, -1.0)]
    incoming = [
        np.array([0.0, 0.0, sign * x * BEAM, x * BEAM])
        for sign, x in zip((1.0, -1.0), fractions, strict=True)
    ]
    pair_mass = random.uniform(2.0 * TOP + 1.0, mass - W - 1.0)
    pair, boson = two_body(incoming[0] + incoming[1], pair_mass, W, random)
    top, antitop = two_body(pair, TOP, TOP, random)
    rows = [(2, -1, 0, 0, 501, 0, incoming[0], 0.0), (-1, -1, 0, 0, 0, 502, incoming[1], 0.0)]
    rows += [
        (6, 1, 1, 2, 501, 0, top, TOP),
        (-6, 1, 1, 2, 0, 502, antitop, TOP),
        (24, 1, 1, 2, 0, 0, boson, W),
    ]
    head = f"{len(rows)} 1 {weight} {mass:.6f} 0.0078 0.108"
    return ["<event>", head, *map(particle_line, rows), "</event>"]


def particle_line(row: tuple[int, int, int, int, int, int, npt.NDArray[np.float64], float]) -> str:
    *codes, momentum, mass = row
    numbers = " ".join(f"{value:.10e}" for value in (*momentum, mass))
    return f"{' '.join(map(str, codes))} {numbers} 0.0 9.0"


def two_body(
    parent: npt.NDArray[np.float64], first: float, second: float, random: np.random.Generator
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Momenta (px, py, pz, energy) of an isotropic decay."""
    mass2 = parent[3] ** 2 - np.sum(parent[:3] ** 2)
    momentum = np.sqrt((mass2 - (first + second) ** 2) * (mass2 - (first - second) ** 2) / (4.0 * mass2))
    direction = random.normal(size=3)
    direction *= momentum / np.linalg.norm(direction)
    velocity = parent[:3] / parent[3]
    return (
        boost(np.append(direction, np.hypot(momentum, first)), velocity),
        boost(np.append(-direction, np.hypot(momentum, second)), velocity),
    )


def run(words: list[str], out: Path, **settings: Any) -> RunSummary:
    return simulate(requests_from_words(words, None), out, SimulationSettings(**settings))


def test_les_houches_events(tmp_path: Path) -> None:
    (tmp_path / "of mine").mkdir()
    file = tmp_path / "of mine" / "ttw.lhe"
    write_ttw(file, 25)
    assert count_les_houches_events(file) == 25
    result = run(["ttW:events=25"], tmp_path / "out", lhe=file, shard_size=10)
    assert [shard["events"] for shard in result.shards] == [10, 10, 5]
    events = read_files(sorted((tmp_path / "out" / "ttW").glob("*.root")))
    assert events.columns["genWeight"].tolist() == [1.0, 1.0, 1.0, 1.0, -1.0] * 5
    particles = events.objects["GenPart"]
    last = (particles["statusFlags"] & (1 << 13)) > 0
    assert (particles.count(last & (np.abs(particles["pdgId"]) == 24)) == 3).all()
    assert (particles.count(last & (np.abs(particles["pdgId"]) == 6)) == 2).all()
    assert (events.columns["spinWeight"] == 1.0).all()
    runs = uproot.open(tmp_path / "out" / "ttW" / "ttW_0000.root")["Runs"].arrays()
    assert runs["genEventSumw"].to_list() == [6.0]


def test_les_houches_options_that_contradict_each_other(tmp_path: Path) -> None:
    file = tmp_path / "ttw.lhe"
    write_ttw(file, 3)
    with pytest.raises(ConfigError, match="no hard process ttZ: give Les Houches events with --lhe"):
        run(["ttZ:events=5"], tmp_path)
    with pytest.raises(ConfigError, match="holds 3 events; 5 are asked for"):
        run(["ttW:events=5"], tmp_path, lhe=file)
    with pytest.raises(ConfigError, match="--lhe goes with one process that needs it"):
        run(["TT:events=5"], tmp_path, lhe=file)
    with pytest.raises(FileError, match="there is no file"):
        run(["ttW:events=5"], tmp_path, lhe=tmp_path / "none.lhe")


def test_compressed_files_are_counted(tmp_path: Path) -> None:
    write_ttw(tmp_path / "ttw.lhe", 4)
    packed = tmp_path / "ttw.lhe.gz"
    packed.write_bytes(gzip.compress((tmp_path / "ttw.lhe").read_bytes()))
    assert count_les_houches_events(packed) == 4
    (tmp_path / "broken.lhe.gz").write_bytes(b"no gzip")
    with pytest.raises(FileError, match="is not a file with Les Houches events"):
        count_les_houches_events(tmp_path / "broken.lhe.gz")
