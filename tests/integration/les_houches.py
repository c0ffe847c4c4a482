"""A small Les Houches file with top pairs and a W, for the tests of the simulation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from evenet_hep.kinematics.vectors import boost

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
