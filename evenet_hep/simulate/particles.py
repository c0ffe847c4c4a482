"""Generated particles of many events as flat arrays, and what their ancestry says about them.

Pythia lists particles so that mothers come before daughters, with the exception of incoming partons, whose ancestry
is of no interest here. One pass in that order is therefore enough for all flags.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import awkward as ak
import numpy as np
import numpy.typing as npt
from numba import njit

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

# Bits of GenPart_statusFlags in NanoAOD. Bits 11 and 14 (copies before final-state radiation) are never set here.
IS_PROMPT = 1 << 0
IS_DECAYED_LEPTON_HADRON = 1 << 1
IS_TAU_PRODUCT = 1 << 2
IS_PROMPT_TAU_PRODUCT = 1 << 3
IS_DIRECT_TAU_PRODUCT = 1 << 4
IS_DIRECT_PROMPT_TAU_PRODUCT = 1 << 5
IS_DIRECT_HADRON_PRODUCT = 1 << 6
IS_HARD_PROCESS = 1 << 7
FROM_HARD_PROCESS = 1 << 8
IS_HARD_TAU_PRODUCT = 1 << 9
IS_DIRECT_HARD_TAU_PRODUCT = 1 << 10
IS_FIRST_COPY = 1 << 12
IS_LAST_COPY = 1 << 13
NANOAOD_BITS = (1 << 15) - 1
# Further facts of our own, above the bits of NanoAOD.
FROM_HADRON = 1 << 16
FROM_B_HADRON = 1 << 17
FROM_C_HADRON = 1 << 18
IS_LAST_B_HADRON = 1 << 19
IS_LAST_C_HADRON = 1 << 20
_COPIED = (
    IS_TAU_PRODUCT | IS_PROMPT_TAU_PRODUCT | IS_HARD_TAU_PRODUCT | FROM_HADRON | FROM_B_HADRON | FROM_C_HADRON
)
_COPIED_DIRECT = (
    FROM_HARD_PROCESS
    | IS_DIRECT_TAU_PRODUCT
    | IS_DIRECT_PROMPT_TAU_PRODUCT
    | IS_DIRECT_HADRON_PRODUCT
    | IS_DIRECT_HARD_TAU_PRODUCT
)


class Particles(NamedTuple):
    """Everything Pythia lists of a batch of events, flat.

    Parameters
    ----------
    offsets : int64 array, shape (n_events + 1,)
        Start of each event in the arrays of particles.
    event : int64 array, shape (n_particles,)
        Event of each particle.
    pdg_id, status : int32 array
        Particle code and Pythia's status; positive for particles in the final state.
    mother : int64 array
        Position of the mother in these arrays; -1 where there is none but the beams.
    px, py, pz, energy, mass : float64 array
        GeV.
    pt, eta, phi : float64 array
        GeV and radians; eta is clipped to +-30.
    x, y, z : float64 array
        Production vertex in millimetres.
    """

    offsets: IntArray
    event: IntArray
    pdg_id: npt.NDArray[np.int32]
    status: npt.NDArray[np.int32]
    mother: IntArray
    px: FloatArray
    py: FloatArray
    pz: FloatArray
    energy: FloatArray
    mass: FloatArray
    pt: FloatArray
    eta: FloatArray
    phi: FloatArray
    x: FloatArray
    y: FloatArray
    z: FloatArray

    @property
    def n_events(self) -> int:
        """Number of events."""
        return len(self.offsets) - 1

    def offsets_of(self, chosen: BoolArray | IntArray) -> IntArray:
        """Start of each event among chosen particles, given as a mask or as positions that keep the order."""
        counts = np.bincount(self.event[chosen], minlength=self.n_events)
        return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    @property
    def is_final(self) -> BoolArray:
        """True for particles that reach the detector."""
        return self.status > 0

    @property
    def is_neutrino(self) -> BoolArray:
        """True for neutrinos of all kinds."""
        return np.isin(np.abs(self.pdg_id), (12, 14, 16))

    @property
    def is_visible(self) -> BoolArray:
        """True for final particles that leave energy within abs(eta) < 5."""
        return self.is_final & ~self.is_neutrino & (np.abs(self.eta) < 5.0)


def flatten_particles(listing: ak.Array) -> Particles:
    """Flat arrays of Pythia's listing of a batch.

    Parameters
    ----------
    listing : ak.Array of lists of records
        Field ``prt`` of what ``Pythia.nextBatch`` returns.

    Returns
    -------
    Particles
        In the order of the listing.
    """
    counts = ak.to_numpy(ak.num(listing["id"], axis=1))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    event = np.repeat(np.arange(len(counts)), counts)
    pdg_id, status, mother = (_flat(listing[name]) for name in ("id", "status", "mother1"))
    px, py, pz, energy = (_flat(listing["p"][name]) for name in ("px", "py", "pz", "e"))
    x, y, z = (_flat(ak.fill_none(listing["vProd"][name], 0.0)) for name in ("px", "py", "pz"))
    pt = np.hypot(px, py)
    with np.errstate(divide="ignore", invalid="ignore"):
        eta = np.where(pt > 0.0, np.arcsinh(pz / pt), np.sign(pz) * 30.0)
    mother = np.where(mother > 0, offsets[event] + mother, -1)
    from_beam = (mother >= 0) & np.isin(status[mother], (-11, -12))
    return Particles(
        offsets=offsets,
        event=event,
        pdg_id=pdg_id.astype(np.int32),
        status=status.astype(np.int32),
        mother=np.where(from_beam, -1, mother),
        px=px,
        py=py,
        pz=pz,
        energy=energy,
        mass=np.maximum(_flat(listing["m"]), 0.0),
        pt=pt,
        eta=np.clip(eta, -30.0, 30.0),
        phi=np.arctan2(py, px),
        x=x,
        y=y,
        z=z,
    )


def _flat(values: ak.Array) -> npt.NDArray[Any]:
    return np.asarray(ak.to_numpy(ak.flatten(values, axis=1)))


def ancestry_flags(
    pdg_id: npt.ArrayLike, status: npt.ArrayLike, mother: npt.ArrayLike
) -> npt.NDArray[np.int32]:
    """What the ancestors of each particle say about it, as bits.

    Parameters
    ----------
    pdg_id, status : int array, shape (n_particles,)
        Particle codes and Pythia's status codes.
    mother : int array
        Position of the mother, or -1.

    Returns
    -------
    int32 array, shape (n_particles,)
        The bits of ``GenPart_statusFlags`` (:data:`NANOAOD_BITS`) and, above them, those of this module.

    Examples
    --------
    A top of the hard process, its copy after the shower, the W and the lepton:

    >>> flags = ancestry_flags([6, 6, 24, -13], [-22, -62, -22, 23], [-1, 0, 1, 2])
    >>> (flags & IS_LAST_COPY > 0).tolist(), (flags & IS_HARD_PROCESS > 0).tolist()
    ([False, True, True, True], [True, False, True, True])
    """
    codes = np.ascontiguousarray(pdg_id, np.int32)
    states = np.ascontiguousarray(status, np.int32)
    mothers = np.ascontiguousarray(mother, np.int64)
    flags = np.zeros(len(codes), np.int32)
    _fill_flags(codes, states, mothers, flags)
    _fill_ends(codes, states, mothers, flags)
    return flags


@njit(cache=True)
def is_hadron(pdg_id: int) -> bool:
    """True for mesons and baryons; False for diquarks, partons, leptons and bosons."""
    code = abs(pdg_id)
    return code > 100 and code < 1_000_000_000 and (code // 10) % 10 != 0


@njit(cache=True)
def is_b_hadron(pdg_id: int) -> bool:
    """True for hadrons with a b quark, bottomonium included."""
    code = abs(pdg_id)
    return is_hadron(pdg_id) and ((code // 100) % 10 == 5 or (code // 1000) % 10 == 5)


@njit(cache=True)
def is_c_hadron(pdg_id: int) -> bool:
    """True for hadrons with a c quark and no b quark, charmonium included."""
    code = abs(pdg_id)
    charmed = (code // 100) % 10 == 4 or (code // 1000) % 10 == 4
    return is_hadron(pdg_id) and charmed and not is_b_hadron(pdg_id)


@njit(cache=True)
def _inherited(pdg_id: int, mother_id: int, mother_flags: int) -> int:
    """Flags that a particle has because of its mother."""
    is_copy = pdg_id == mother_id
    flags = mother_flags & _COPIED
    if is_copy:
        return flags | (mother_flags & (_COPIED_DIRECT | IS_PROMPT))
    flags |= IS_FIRST_COPY
    if is_hadron(mother_id):
        flags |= FROM_HADRON | IS_DIRECT_HADRON_PRODUCT
        if is_b_hadron(mother_id):
            flags |= FROM_B_HADRON
        elif is_c_hadron(mother_id):
            flags |= FROM_C_HADRON
    if abs(mother_id) == 15:
        flags |= IS_TAU_PRODUCT | IS_DIRECT_TAU_PRODUCT
        if mother_flags & IS_PROMPT:
            flags |= IS_PROMPT_TAU_PRODUCT | IS_DIRECT_PROMPT_TAU_PRODUCT
        if mother_flags & FROM_HARD_PROCESS:
            flags |= IS_HARD_TAU_PRODUCT | IS_DIRECT_HARD_TAU_PRODUCT
    if not flags & (FROM_HADRON | IS_TAU_PRODUCT):
        flags |= IS_PROMPT
    return flags


@njit(cache=True)
def _fill_flags(
    pdg_id: npt.NDArray[np.int32],
    status: npt.NDArray[np.int32],
    mother: IntArray,
    flags: npt.NDArray[np.int32],
) -> None:
    for i in range(len(pdg_id)):
        m = mother[i]
        found = IS_PROMPT | IS_FIRST_COPY if m < 0 or m >= i else _inherited(pdg_id[i], pdg_id[m], flags[m])
        if 21 <= abs(status[i]) <= 29:
            found |= IS_HARD_PROCESS | FROM_HARD_PROCESS
        flags[i] = found


@njit(cache=True)
def _fill_ends(
    pdg_id: npt.NDArray[np.int32],
    status: npt.NDArray[np.int32],
    mother: IntArray,
    flags: npt.NDArray[np.int32],
) -> None:
    """Flags that depend on what comes after: last copies, decays, last heavy hadrons of a chain."""
    for i in range(len(pdg_id)):
        flags[i] |= IS_LAST_COPY
        if is_b_hadron(pdg_id[i]):
            flags[i] |= IS_LAST_B_HADRON
        elif is_c_hadron(pdg_id[i]):
            flags[i] |= IS_LAST_C_HADRON
    for i in range(len(pdg_id)):
        m = mother[i]
        if m < 0 or m >= i:
            continue
        if pdg_id[m] == pdg_id[i]:
            flags[m] &= ~IS_LAST_COPY
        if is_b_hadron(pdg_id[i]):
            flags[m] &= ~IS_LAST_B_HADRON
        elif is_c_hadron(pdg_id[i]):
            flags[m] &= ~IS_LAST_C_HADRON
    for i in range(len(pdg_id)):
        decays = status[i] < 0 and (is_hadron(pdg_id[i]) or abs(pdg_id[i]) in (13, 15))
        if decays and flags[i] & IS_LAST_COPY:
            flags[i] |= IS_DECAYED_LEPTON_HADRON
