"""Muon pairs: from a table or from selected NanoAOD muons, their features, and pairs mixed from different events.

A pair is the two momenta of an event, the harder muon (in pT) first. Mixed pairs take their muons from different events:
real muons whose mass has no resonance, in any combination of charges.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import awkward as ak
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from evenet_hep.errors import FileError, InputError
from evenet_hep.kinematics.dimuon import MUON_MASS, dimuon_features
from evenet_hep.kinematics.vectors import from_cartesian

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Where = slice | npt.NDArray[Any]

COLUMNS = ("px1", "py1", "pz1", "charge1", "px2", "py2", "pz2", "charge2")
UNIT = 1e-4  # GeV per count, where momenta are stored as whole numbers


class DimuonPairs(NamedTuple):
    """Muon pairs, the muon of higher pT first.

    Parameters
    ----------
    leading, trailing : float64 array, shape (3, n_pairs)
        px, py, pz in GeV.
    charges : int array, shape (2, n_pairs)
        Of the leading and of the trailing muon.

    Examples
    --------
    >>> pairs = make_pairs([[0.0], [4.0], [0.0]], [[5.0], [0.0], [0.0]], [[1], [-1]])
    >>> pairs.leading[:, 0].tolist(), pairs.mass.round(3).tolist(), pairs.is_opposite_sign.tolist()
    ([5.0, 0.0, 0.0], [6.328], [True])
    """

    leading: FloatArray
    trailing: FloatArray
    charges: npt.NDArray[np.int64]

    @property
    def n(self) -> int:
        """Number of pairs."""
        return int(self.leading.shape[1])

    @property
    def momenta(self) -> tuple[FloatArray, FloatArray]:
        """px, py, pz, energy of both muons in GeV, each of shape (4, n_pairs)."""
        first, second = (
            np.vstack([p, np.sqrt((p**2).sum(axis=0) + MUON_MASS**2)]) for p in (self.leading, self.trailing)
        )
        return first, second

    @property
    def mass(self) -> FloatArray:
        """Invariant mass in GeV, shape (n_pairs,)."""
        px, py, pz, energy = np.add(*self.momenta)
        return np.asarray(np.sqrt(np.maximum(energy**2 - px**2 - py**2 - pz**2, 0.0)))

    @property
    def is_opposite_sign(self) -> BoolArray:
        """Whether the charges differ, shape (n_pairs,)."""
        return np.asarray(self.charges[0] * self.charges[1] < 0)

    def take(self, where: Where) -> DimuonPairs:
        """Some of the pairs, by slice, mask or indices."""
        return DimuonPairs(self.leading[:, where], self.trailing[:, where], self.charges[:, where])

    def scaled(self, factor: float) -> DimuonPairs:
        """The pairs with all momenta multiplied: a muon momentum scale that is off."""
        return self._replace(leading=self.leading * factor, trailing=self.trailing * factor)


def make_pairs(muon1: npt.ArrayLike, muon2: npt.ArrayLike, charges: npt.ArrayLike) -> DimuonPairs:
    """Pairs of momenta in any order, ordered by pT.

    Parameters
    ----------
    muon1, muon2 : array-like, shape (3, n_pairs)
        px, py, pz in GeV.
    charges : array-like, shape (2, n_pairs)
        Of both.

    Returns
    -------
    DimuonPairs

    Raises
    ------
    InputError
        For other shapes, or numbers that are not finite.
    """
    a, b, q = np.asarray(muon1, np.float64), np.asarray(muon2, np.float64), np.asarray(charges, np.int64)
    if a.ndim != 2 or len(a) != 3 or a.shape != b.shape or q.shape != (2, a.shape[1]):
        msg = f"muons must have shape (3, n) and charges (2, n); found {a.shape}, {b.shape} and {q.shape}"
        raise InputError(msg)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        msg = "momenta of muons must be finite; found NaN or infinity"
        raise InputError(msg)
    swapped = (a[:2] ** 2).sum(axis=0) < (b[:2] ** 2).sum(axis=0)
    return DimuonPairs(np.where(swapped, b, a), np.where(swapped, a, b), np.where(swapped, q[::-1], q))


def join_pairs(parts: Sequence[DimuonPairs]) -> DimuonPairs:
    """Several lists of pairs one after the other."""
    return DimuonPairs(*(np.concatenate(columns, axis=1) for columns in zip(*parts, strict=True)))


def read_dimuons(path: str | Path) -> DimuonPairs:
    """Pairs of a Parquet table such as the one that comes with the package.

    Parameters
    ----------
    path : path
        Table with px, py, pz and charge of muon 1 and muon 2; momenta in GeV, or whole numbers in units of 0.0001 GeV.

    Returns
    -------
    DimuonPairs

    Raises
    ------
    FileError
        If the file cannot be read or lacks a column.

    Examples
    --------
    >>> from evenet_hep.share import dimuon_file
    >>> pairs = read_dimuons(dimuon_file())
    >>> pairs.n, f"{pairs.mass.min():.3f} to {pairs.mass.max():.3f} GeV", bool(pairs.is_opposite_sign.all())
    (20000, '8.001 to 12.000 GeV', True)
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        msg = f"cannot read the muon pairs in {path}: {error}"
        raise FileError(msg) from error
    if missing := [name for name in COLUMNS if name not in table.column_names]:
        msg = f"{path} lacks {', '.join(missing)}; it has {', '.join(table.column_names)}"
        raise FileError(msg)
    column = {name: table[name].to_numpy() for name in COLUMNS}
    muons = []
    for k in (1, 2):
        p = np.stack([column[f"{axis}{k}"] for axis in ("px", "py", "pz")])
        muons.append(p * UNIT if p.dtype.kind in "iu" else p.astype(np.float64))
    return make_pairs(muons[0], muons[1], [column["charge1"], column["charge2"]])


def pairs_of(muons: ak.Array) -> DimuonPairs:
    """Pairs of selected muons, two in every event.

    Parameters
    ----------
    muons : ak.Array of lists of records
        As :func:`~evenet_hep.events.selection.select_dimuon` gives them for events that pass: with ``pt``, ``eta``,
        ``phi``, ``charge`` in GeV and radians.

    Raises
    ------
    InputError
        For an event without two muons.
    """
    if not bool(ak.all(ak.num(muons, axis=1) == 2)):
        msg = "every event must have two muons; select them first"
        raise InputError(msg)
    found = []
    for k in (0, 1):
        pt, eta, phi = (np.asarray(muons[name][:, k], np.float64) for name in ("pt", "eta", "phi"))
        found.append(np.stack([pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)]))
    charges = np.stack([np.asarray(muons["charge"][:, k], np.int64) for k in (0, 1)])
    return make_pairs(found[0], found[1], charges)


# Name -> what it is; the first three describe a pair by its motion, not by its mass.
FEATURES = {
    "pair_pt": "transverse momentum of the pair in GeV",
    "abs_rapidity": "absolute rapidity of the pair",
    "cos_theta": "|E1 - E2| / |p1 + p2|: cosine between the flight of the pair and of a muon in its rest frame, absolute",
    "eta_leading": "pseudorapidity of the leading muon",
    "eta_trailing": "pseudorapidity of the trailing muon",
    "ht": "pT1 + pT2 in GeV",
    "delta_r": "distance of the muons in pseudorapidity and azimuth",
    "pt_balance": "|pT1 + pT2| / (pT1 + pT2)",
}


def pair_features(pairs: DimuonPairs, names: Sequence[str]) -> FloatArray:
    """Features of pairs, one column per name of :data:`FEATURES`.

    Parameters
    ----------
    pairs : DimuonPairs
    names : sequence of str

    Returns
    -------
    float64 array, shape (n_pairs, n_features)

    Raises
    ------
    InputError
        For an unknown name.

    Examples
    --------
    >>> pairs = make_pairs([[3.0], [0.0], [0.0]], [[0.0], [4.0], [0.0]], [[1], [-1]])
    >>> pair_features(pairs, ["pair_pt", "abs_rapidity", "ht"]).tolist()
    [[5.0, 0.0, 7.0]]
    """
    if unknown := [name for name in names if name not in FEATURES]:
        msg = f"features must be some of {', '.join(FEATURES)}; found {unknown[0]!r}"
        raise InputError(msg)
    first, second = pairs.momenta
    px, py, pz, energy = first + second
    angular = dimuon_features(first, second)
    found = {
        "pair_pt": np.hypot(px, py),
        "abs_rapidity": np.abs(np.arctanh(pz / energy)),
        "cos_theta": np.abs(first[3] - second[3]) / np.sqrt(px**2 + py**2 + pz**2),
        "eta_leading": from_cartesian(*first).eta,
        "eta_trailing": from_cartesian(*second).eta,
        "ht": angular.ht,
        "delta_r": angular.delta_r,
        "pt_balance": angular.pt_balance,
    }
    return np.stack([np.asarray(found[name], np.float64) for name in names], axis=1)


def mix_pairs(
    pairs: DimuonPairs,
    n: int,
    *,
    span: tuple[float, float],
    same_sign: bool = False,
    seed: int | Sequence[int],
) -> DimuonPairs:
    """Pairs of muons from different events, without any resonance.

    Parameters
    ----------
    pairs : DimuonPairs
        Pairs of opposite sign.
    n : int
        How many to make. Every round of the procedure uses every muon once at most, with a new partner.
    span : tuple of two floats
        Mass in GeV that a mixed pair must have.
    same_sign : bool
        False pairs a positive with a negative muon, True muons of one charge.
    seed : int or sequence of ints
        Of the random numbers.

    Returns
    -------
    DimuonPairs

    Raises
    ------
    InputError
        If no mixed pair falls into the span, or there are fewer than two pairs of opposite sign.
    """
    kept: list[DimuonPairs] = []
    found, rng = 0, np.random.default_rng(seed)
    chosen = pairs.take(pairs.is_opposite_sign)
    if chosen.n < 2:
        msg = f"pairs of opposite sign are needed to mix their muons; found {chosen.n}"
        raise InputError(msg)
    is_positive = chosen.charges[0] > 0
    positive, negative = (
        np.where(is_positive == sign, chosen.leading, chosen.trailing) for sign in (True, False)
    )
    while found < n:
        # A shift of a random order by at least one: no muon meets its own partner or itself.
        order = rng.permutation(chosen.n)
        partner = np.roll(order, int(rng.integers(1, chosen.n)))
        charge = int(rng.choice([-1, 1])) if same_sign else 1
        one = positive if charge > 0 else negative
        other = one if same_sign else negative
        charges = np.full((2, chosen.n), charge)
        charges[1] = charge if same_sign else -charge
        made = make_pairs(one[:, order], other[:, partner], charges)
        made = made.take((made.mass > span[0]) & (made.mass < span[1]))
        if not made.n and not kept and len(order) > 100:
            msg = f"no mixed pair has a mass between {span[0]} and {span[1]} GeV"
            raise InputError(msg)
        kept.append(made)
        found += made.n
        if len(kept) > 10_000:
            msg = f"fewer than {n} mixed pairs have a mass between {span[0]} and {span[1]} GeV; found {found}"
            raise InputError(msg)
    return join_pairs(kept).take(slice(n))
