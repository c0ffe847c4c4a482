"""Entanglement of two spins from their polarisations and correlations: density matrix, markers, Bell inequality.

The state of a top and an antitop is

    rho = 1/4 (1 + B+_i s_i x 1 + B-_j 1 x s_j + C_ij s_i x s_j),

with the axes k, r, n in rows (top) and columns (antitop) of C. In this sign, ``convention="density_matrix"``, the
singlet has C = -1. ``convention="cms"`` is the sign of CMS and Bernreuther et al. (arXiv:1508.05271), who use opposite
axes for the antitop: their C is -C here. Every criterion for entanglement is meaningless in the other sign, so each
function that depends on it takes the convention of the C handed over.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
ComplexArray = npt.NDArray[np.complex128]
Convention = Literal["density_matrix", "cms"]

CONVENTIONS = ("density_matrix", "cms")

PAULI = np.array([[[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]]], np.complex128)
SPIN_FLIP = np.kron(PAULI[1], PAULI[1])
_ONE = np.eye(2)
_PLUS = np.stack([np.kron(s, _ONE) for s in PAULI])
_MINUS = np.stack([np.kron(_ONE, s) for s in PAULI])
_BOTH = np.stack([[np.kron(s, t) for t in PAULI] for s in PAULI])

# Eigenvalues this close to zero are zero: rounding of sums of sixteen numbers of order one.
ROUNDING = 1e-12


class EntanglementMarkers(NamedTuple):
    """The combinations of the diagonal of C that are called D, each under its own name.

    Each criterion is sufficient for entanglement; for unpolarised states with diagonal C one of ``d_paper`` and
    ``d_prime`` is above 1 if, and only if, the state is entangled.

    Parameters
    ----------
    d_paper : float64 array
        ``|Ckk + Crr| - Cnn``, Eq. 7 of the EveNet paper; entangled above 1.
    d_poster : float64 array
        -(Ckk + Crr + Cnn); entangled above 1. Equal to ``d_paper`` where Ckk + Crr <= 0, as at threshold.
    d_std : float64 array
        tr C / 3 = -3 <cos phi> of Afik and de Nova (arXiv:2003.02280), ATLAS and CMS; entangled below -1/3.
    d_prime : float64 array
        ``|Ckk - Crr| + Cnn``, which tests the two other Bell states; entangled above 1.
    """

    d_paper: FloatArray
    d_poster: FloatArray
    d_std: FloatArray
    d_prime: FloatArray


class SpinState(NamedTuple):
    """What a density matrix of two spins says; NaN and False where the input is not finite.

    Parameters
    ----------
    eigenvalues : float64 array, shape (..., 4)
        Of the density matrix, ascending.
    transposed_eigenvalues : float64 array, shape (..., 4)
        Of its partial transpose, ascending.
    physical : bool array
        No eigenvalue is negative. Measured coefficients may leave the physical region by their uncertainty.
    entangled : bool array
        The partial transpose has a negative eigenvalue (Peres-Horodecki, necessary and sufficient).
    negativity : float64 array
        Sum of the magnitudes of those eigenvalues, from 0 to 1/2.
    concurrence : float64 array
        From 0 (separable) to 1, :func:`concurrence`.
    chsh : float64 array
        Largest CHSH expectation value over all settings, :func:`chsh_maximum`.
    bell_violated : bool array
        ``chsh`` > 2, which means m1 + m2 > 1.
    """

    eigenvalues: FloatArray
    transposed_eigenvalues: FloatArray
    physical: BoolArray
    entangled: BoolArray
    negativity: FloatArray
    concurrence: FloatArray
    chsh: FloatArray
    bell_violated: BoolArray


class DeltaD(NamedTuple):
    """Relative uncertainty on D - 1.

    Parameters
    ----------
    value : float64 array
        ``uncertainty`` / (``d_paper`` - 1); negative where D < 1, infinite at D = 1.
    d_paper : float64 array
        ``|Ckk + Crr| - Cnn``.
    uncertainty : float64 array
        Standard deviation of ``d_paper``.
    """

    value: FloatArray
    d_paper: FloatArray
    uncertainty: FloatArray


class PublishedDeltaD(NamedTuple):
    """The quantity printed as Delta D in the EveNet paper; see :func:`delta_d_published`.

    Parameters
    ----------
    value : float64 array
        Mean of ``up`` and ``down``, divided by ``concurrence_without_roots``; infinite or NaN where that is 0.
    concurrence_without_roots : float64 array
        max(0, r1 - r2 - r3 - r4) with the eigenvalues r of rho times its spin flip.
    up, down : float64 array
        Its uncertainty from shifting every coefficient up or down.
    """

    value: FloatArray
    concurrence_without_roots: FloatArray
    up: FloatArray
    down: FloatArray


def entanglement_markers(
    correlation: npt.ArrayLike, *, convention: Convention = "density_matrix"
) -> EntanglementMarkers:
    """All variants of D of spin correlation matrices.

    Parameters
    ----------
    correlation : array-like, shape (..., 3, 3)
        C_ij with axes in the order k, r, n.
    convention : str
        Sign of ``correlation``; see the top of this module.

    Returns
    -------
    EntanglementMarkers
        Arrays of shape (...).

    Raises
    ------
    ValueError
        For another shape or convention.

    Examples
    --------
    >>> entanglement_markers(-np.eye(3)).d_paper  # the singlet
    array(3.)
    >>> entanglement_markers(np.eye(3), convention="cms").d_std
    array(-1.)
    """
    ckk, crr, cnn = np.moveaxis(np.diagonal(_signed(correlation, convention), axis1=-2, axis2=-1), -1, 0)
    return EntanglementMarkers(
        d_paper=np.asarray(np.abs(ckk + crr) - cnn),
        d_poster=np.asarray(-(ckk + crr + cnn)),
        d_std=np.asarray((ckk + crr + cnn) / 3),
        d_prime=np.asarray(np.abs(ckk - crr) + cnn),
    )


def density_matrix(
    correlation: npt.ArrayLike,
    polarization_plus: npt.ArrayLike = (0.0, 0.0, 0.0),
    polarization_minus: npt.ArrayLike = (0.0, 0.0, 0.0),
    *,
    convention: Convention = "density_matrix",
) -> ComplexArray:
    """Density matrices of two spins 1/2, EveNet paper Eq. 5.

    Parameters
    ----------
    correlation : array-like, shape (..., 3, 3)
        C_ij, rows for the axes k, r, n of the top, columns for those of the antitop.
    polarization_plus, polarization_minus : array-like, shape (..., 3)
        B of the top and of the antitop.
    convention : str
        Sign of ``correlation``; see the top of this module.

    Returns
    -------
    complex128 array, shape (..., 4, 4)
        Hermitian, of trace 1; not necessarily positive.

    Raises
    ------
    ValueError
        For another shape or convention.

    Examples
    --------
    >>> density_matrix(-np.eye(3)).real.round(2)
    array([[ 0. ,  0. ,  0. ,  0. ],
           [ 0. ,  0.5, -0.5,  0. ],
           [ 0. , -0.5,  0.5,  0. ],
           [ 0. ,  0. ,  0. ,  0. ]])
    """
    c = _signed(correlation, convention)
    plus = _with_axes("polarization_plus", polarization_plus, (3,))
    minus = _with_axes("polarization_minus", polarization_minus, (3,))
    rho = np.eye(4) + np.einsum("...ij,ijab->...ab", c, _BOTH)
    rho = rho + np.einsum("...i,iab->...ab", plus, _PLUS) + np.einsum("...i,iab->...ab", minus, _MINUS)
    return np.asarray(rho / 4)


def spin_state(
    correlation: npt.ArrayLike,
    polarization_plus: npt.ArrayLike = (0.0, 0.0, 0.0),
    polarization_minus: npt.ArrayLike = (0.0, 0.0, 0.0),
    *,
    convention: Convention = "density_matrix",
) -> SpinState:
    """Positivity, entanglement and Bell violation of two spins.

    Parameters
    ----------
    correlation, polarization_plus, polarization_minus, convention
        As for :func:`density_matrix`.

    Returns
    -------
    SpinState
        Arrays of shape (...).

    Raises
    ------
    ValueError
        For another shape or convention.

    Examples
    --------
    >>> state = spin_state(np.diag([-0.9, -0.9, -0.8]))
    >>> bool(state.entangled), round(float(state.concurrence), 3), round(float(state.chsh), 3)
    (True, 0.8, 2.546)
    """
    rho = density_matrix(correlation, polarization_plus, polarization_minus, convention=convention)
    eigenvalues = _hermitian_eigenvalues(rho)
    transposed = _hermitian_eigenvalues(partial_transpose(rho))
    # rho, not C, decides the shape: the polarisations may have more axes.
    horodecki = np.broadcast_to(_horodecki(correlation), rho.shape[:-2])
    return SpinState(
        eigenvalues=eigenvalues,
        transposed_eigenvalues=transposed,
        physical=eigenvalues[..., 0] >= -ROUNDING,
        entangled=transposed[..., 0] < -ROUNDING,
        negativity=np.asarray(np.maximum(-transposed, 0.0).sum(axis=-1)),
        concurrence=concurrence(rho),
        chsh=2.0 * np.sqrt(horodecki),
        bell_violated=horodecki > 1.0,
    )


def partial_transpose(rho: npt.ArrayLike) -> ComplexArray:
    """Density matrices with the second spin transposed.

    Parameters
    ----------
    rho : array-like, shape (..., 4, 4)

    Returns
    -------
    complex128 array, shape (..., 4, 4)

    Examples
    --------
    >>> np.linalg.eigvalsh(partial_transpose(density_matrix(-np.eye(3)))).round(2)
    array([-0.5,  0.5,  0.5,  0.5])
    """
    matrix = np.asarray(rho, np.complex128)
    qubits = matrix.reshape(*matrix.shape[:-2], 2, 2, 2, 2)  # (..., a, b, a', b')
    return np.swapaxes(qubits, -1, -3).reshape(matrix.shape)


def concurrence(rho: npt.ArrayLike) -> FloatArray:
    """Wootters' concurrence of two spins (Phys. Rev. Lett. 80, 2245), from 0 (separable) to 1.

    Parameters
    ----------
    rho : array-like, shape (..., 4, 4)
        Density matrices. Slightly negative eigenvalues, as measurements give them, are carried through the formula.

    Returns
    -------
    float64 array
        max(0, l1 - l2 - l3 - l4), where l are the square *roots* of the eigenvalues of
        rho (sy x sy) rho* (sy x sy); NaN where ``rho`` is not finite.

    Examples
    --------
    >>> round(float(concurrence(density_matrix(np.diag([-0.5, -0.5, -0.5])))), 3)
    0.25
    """
    roots = np.sqrt(_wootters_eigenvalues(np.asarray(rho, np.complex128)))
    return np.asarray(np.maximum(roots[..., 0] - roots[..., 1:].sum(axis=-1), 0.0))


def chsh_maximum(correlation: npt.ArrayLike) -> FloatArray:
    """Largest CHSH expectation value over all spin settings (Horodecki, Phys. Lett. A 200, 340).

    Parameters
    ----------
    correlation : array-like, shape (..., 3, 3)
        C_ij in either sign.

    Returns
    -------
    float64 array
        2 sqrt(m1 + m2) with the two largest eigenvalues of C^T C; local hidden variables allow at most 2.

    Examples
    --------
    >>> round(float(chsh_maximum(-np.eye(3))), 3)
    2.828
    """
    return np.asarray(2.0 * np.sqrt(_horodecki(correlation)))


def delta_d(
    correlation: npt.ArrayLike, sigma: npt.ArrayLike, *, convention: Convention = "density_matrix"
) -> DeltaD:
    """Relative uncertainty on D - 1, the figure of merit of the EveNet paper as its text defines it.

    Parameters
    ----------
    correlation : array-like, shape (..., 3, 3)
        C_ij with axes in the order k, r, n.
    sigma : array-like, shape (..., 3, 3)
        Standard deviations of C_ij; those of the diagonal are taken as uncorrelated.
    convention : str
        Sign of ``correlation``; see the top of this module.

    Returns
    -------
    DeltaD
        sigma(D) / (D - 1) with D of Eq. 7. The number published under this name is about half as large, because it is
        another quantity: :func:`delta_d_published`.

    Raises
    ------
    ValueError
        For another shape or convention.

    Examples
    --------
    >>> d = delta_d(np.diag([-0.6, -0.3, -0.6]), np.full((3, 3), 0.01))
    >>> f"{d.uncertainty:.5f} / {d.d_paper - 1:.1f} = {d.value:.5f}"
    '0.01732 / 0.5 = 0.03464'
    """
    d_paper = entanglement_markers(correlation, convention=convention).d_paper
    diagonal = np.diagonal(_with_axes("sigma", sigma, (3, 3)), axis1=-2, axis2=-1)
    uncertainty = np.sqrt((diagonal * diagonal).sum(axis=-1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return DeltaD(np.asarray(uncertainty / (d_paper - 1.0)), d_paper, np.asarray(uncertainty))


def delta_d_published(
    correlation: npt.ArrayLike,
    sigma: npt.ArrayLike,
    polarization_plus: npt.ArrayLike = (0.0, 0.0, 0.0),
    polarization_minus: npt.ArrayLike = (0.0, 0.0, 0.0),
    *,
    convention: Convention = "density_matrix",
) -> PublishedDeltaD:
    """The number published as Delta D by the EveNet paper, which is not :func:`delta_d`.

    It is the relative uncertainty of a "concurrence" whose square roots are missing, with the shifts of its four
    eigenvalues under the nine coefficients added in quadrature as if nothing were correlated. Offered to compare with
    the published 1.59%; for the same input :func:`delta_d` is about 2.05 times larger.

    Parameters
    ----------
    correlation, polarization_plus, polarization_minus, convention
        As for :func:`density_matrix`.
    sigma : array-like, shape (..., 3, 3)
        Standard deviations of C_ij.

    Returns
    -------
    PublishedDeltaD
        Arrays of shape (...).

    Raises
    ------
    ValueError
        For another shape or convention.

    Examples
    --------
    >>> c, sigma = np.diag([-0.6, -0.3, -0.6]), np.full((3, 3), 0.01)
    >>> round(float(delta_d_published(c, sigma).concurrence_without_roots), 5)  # 0.625^2 - 2 0.175^2 - 0.025^2
    0.32875
    >>> round(float(concurrence(density_matrix(c))), 5)  # 0.625 - 2 0.175 - 0.025, or (D - 1) / 2
    0.25
    """
    c = _signed(correlation, convention)
    steps = _with_axes("sigma", sigma, (3, 3))[..., None, None, :, :] * np.eye(9).reshape(3, 3, 3, 3)

    def eigenvalues(shifted: FloatArray, extra: tuple[int, ...]) -> FloatArray:
        # The nine shifts stand on two axes of their own, before the axes of the matrices.
        plus, minus = (
            np.expand_dims(np.asarray(b, np.float64), extra) for b in (polarization_plus, polarization_minus)
        )
        return _wootters_eigenvalues(density_matrix(shifted, plus, minus))

    nominal = eigenvalues(c, ())
    shifted_up = eigenvalues(c[..., None, None, :, :] + steps, (-3, -2))
    shifted_down = eigenvalues(c[..., None, None, :, :] - steps, (-3, -2))
    up, down = (
        np.asarray(np.sqrt(((shifted - nominal[..., None, None, :]) ** 2).sum(axis=(-3, -2, -1))))
        for shifted in (shifted_up, shifted_down)
    )
    without_roots = np.asarray(np.maximum(nominal[..., 0] - nominal[..., 1:].sum(axis=-1), 0.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        return PublishedDeltaD(np.asarray((up + down) / 2 / without_roots), without_roots, up, down)


def _horodecki(correlation: npt.ArrayLike) -> FloatArray:
    """m1 + m2, the sum of the two largest eigenvalues of C^T C."""
    c = _with_axes("correlation", correlation, (3, 3))
    finite = _is_finite(c)
    singular = np.linalg.svd(np.where(finite[..., None, None], c, 0.0), compute_uv=False)  # descending
    return np.where(finite, (singular[..., :2] ** 2).sum(axis=-1), np.nan)


def _wootters_eigenvalues(rho: ComplexArray) -> FloatArray:
    """Eigenvalues of rho (sy x sy) rho* (sy x sy), descending, shape (..., 4); negative ones from rounding are 0.

    With rho = A S A^+ (A the eigenvectors times the roots of the eigenvalues' magnitudes, S their signs) and
    T = A^T (sy x sy) A they are the eigenvalues of S T* S T. For a physical rho, S = 1, those are the squares of the
    singular values of T, which keeps their small square roots exact where a general eigenvalue routine loses half
    the digits.
    """
    finite = _is_finite(rho)
    values, vectors = np.linalg.eigh(np.where(finite[..., None, None], rho, np.eye(4)))
    a = vectors * np.sqrt(np.abs(values))[..., None, :]
    t: ComplexArray = np.swapaxes(a, -1, -2) @ SPIN_FLIP @ a
    squares = np.linalg.svd(t, compute_uv=False) ** 2
    unphysical = values[..., 0] < -ROUNDING
    if unphysical.any():
        s = np.sign(values[unphysical])
        product = s[:, :, None] * t[unphysical].conj() @ (s[:, :, None] * t[unphysical])
        squares[unphysical] = -np.sort(-np.maximum(np.linalg.eigvals(product).real, 0.0), axis=-1)
    return np.where(finite[..., None], squares, np.nan)


def _hermitian_eigenvalues(matrix: ComplexArray) -> FloatArray:
    """Ascending, shape (..., 4); NaN where the matrix is not finite."""
    finite = _is_finite(matrix)
    values = np.linalg.eigvalsh(np.where(finite[..., None, None], matrix, 0.0))
    return np.where(finite[..., None], values, np.nan)


def _is_finite(matrix: FloatArray | ComplexArray) -> BoolArray:
    return np.asarray(np.isfinite(matrix).all(axis=(-2, -1)))


def _signed(correlation: npt.ArrayLike, convention: str) -> FloatArray:
    """C in the sign of the density matrix."""
    if convention not in CONVENTIONS:
        msg = f"convention must be one of {', '.join(CONVENTIONS)}; found {convention!r}"
        raise ValueError(msg)
    c = _with_axes("correlation", correlation, (3, 3))
    return -c if convention == "cms" else c


def _with_axes(name: str, values: npt.ArrayLike, axes: tuple[int, ...]) -> FloatArray:
    array = np.asarray(values, np.float64)
    if array.shape[-len(axes) :] != axes:
        msg = f"{name} must have shape (..., {', '.join(map(str, axes))}) for the axes k, r, n; found {array.shape}"
        raise ValueError(msg)
    return array
