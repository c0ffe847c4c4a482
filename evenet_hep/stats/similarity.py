"""Similarity of what two networks have learnt: centred kernel alignment of their representations.

Kornblith et al., arXiv:1905.00414. K and L are kernel matrices of the same events in two representations, HSIC their
centred scalar product:

    CKA = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)).

It does not change under rotations and a common scale of either representation. The biased estimate does not vanish for
unrelated representations of few events and many features; ``debiased`` uses the unbiased HSIC of Song et al.
(J. Mach. Learn. Res. 13 (2012) 1393, Eq. 5), which does, and which may turn negative.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from evenet_hep.errors import InputError

FloatArray = npt.NDArray[np.float64]
Kernel = Literal["linear", "rbf"]


class EnsembleSimilarity(NamedTuple):
    """Similarity of two ensembles of networks.

    Parameters
    ----------
    value : float
        Mean over pairs.
    uncertainty : float
        Standard deviation of the pairs, as arXiv:2412.10665 quotes it: the spread of networks, not the error of the
        mean. NaN for a single pair.
    pairs : float64 array, shape (n_first, n_second)
        Similarity of every pair; NaN on the diagonal of an ensemble with itself, which is left out.
    """

    value: float
    uncertainty: float
    pairs: FloatArray


def cka(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    *,
    kernel: Kernel = "linear",
    threshold: float = 0.5,
    debiased: bool = False,
) -> float:
    """Centred kernel alignment of two representations of the same events.

    Parameters
    ----------
    first, second : array-like, shape (n_events, n_features)
        Row by row the same events; the numbers of features may differ. More axes are flattened into features.
    kernel : str
        ``"linear"``, or ``"rbf"``: exp(-d^2 / (2 sigma^2)) with sigma^2 = ``threshold``^2 times the median of the
        squared distances between all pairs of events, each with itself included. ``"rbf"`` with 0.5 reproduces
        Table II of arXiv:2412.10665, which the linear kernel does not.
    threshold : float
        Width of the RBF kernel.
    debiased : bool
        Unbiased HSIC.

    Returns
    -------
    float
        1 for representations that differ by rotation and scale; from 0 (biased), or about 0 (debiased) for unrelated
        ones.

    Raises
    ------
    InputError
        For different or too few events (2, debiased 4), numbers that are not finite, a representation in which all
        events are the same, or options that do not exist.

    Examples
    --------
    >>> x = np.random.default_rng(1).normal(size=(200, 16))
    >>> noisy = x + np.random.default_rng(2).normal(size=(200, 16))
    >>> round(cka(x, 3 * x[:, ::-1]), 3), round(cka(x, noisy), 2), round(cka(x, noisy, kernel="rbf"), 2)
    (1.0, 0.54, 0.65)
    """
    kind = _Kind(kernel, threshold, debiased)
    x, y = (_features(name, a) for name, a in (("first", first), ("second", second)))
    _check(kind, {"first": x, "second": y})
    prepare, compare = kind.ways([x, y])
    return compare(prepare(x), prepare(y))


def cka_of_ensembles(
    first: Sequence[npt.ArrayLike],
    second: Sequence[npt.ArrayLike] | None = None,
    *,
    kernel: Kernel = "linear",
    threshold: float = 0.5,
    debiased: bool = False,
) -> EnsembleSimilarity:
    """Similarity of two ensembles of networks, or of the members of one with each other.

    Parameters
    ----------
    first, second : sequence of array-like, each of shape (n_events, n_features)
        Representations of the same events by every member. Without ``second``: pairs of different members of
        ``first``.
    kernel, threshold, debiased
        As for :func:`cka`.

    Returns
    -------
    EnsembleSimilarity

    Raises
    ------
    InputError
        As for :func:`cka`, and for ensembles without a pair.

    Notes
    -----
    The kernels of all members of ``first`` are held at once, n_events times n_events numbers each.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> x = rng.normal(size=(300, 8))
    >>> members = [x + 0.5 * rng.normal(size=x.shape) for _ in range(4)]
    >>> similarity = cka_of_ensembles(members)
    >>> f"{similarity.value:.2f} +- {similarity.uncertainty:.2f}"
    '0.66 +- 0.01'
    """
    others = first if second is None else second
    if len(first) < (2 if second is None else 1) or len(others) < 1:
        msg = (
            f"ensembles must have at least one pair of members; found {len(first)} and {len(others)} members"
        )
        raise InputError(msg)
    kind = _Kind(kernel, threshold, debiased)
    x = [_features("first", member) for member in first]
    y = x if second is None else [_features("second", member) for member in second]
    for member in x:
        _check(kind, {"first": x[0], "a member of first": member})
    for member in y if second is not None else []:
        _check(kind, {"first": x[0], "a member of second": member})
    prepare, compare = kind.ways([*x, *y])
    ours = [prepare(member) for member in x]  # once for all pairs: that is most of the work
    pairs = np.full((len(x), len(y)), np.nan)
    for j, member in enumerate(y):
        theirs = ours[j] if second is None else prepare(member)
        for i in range(j if second is None else len(x)):
            pairs[i, j] = compare(ours[i], theirs)
            if second is None:
                pairs[j, i] = pairs[i, j]
    found = pairs[np.isfinite(pairs)]
    spread = float(found.std()) if len(found) > 1 else float("nan")
    return EnsembleSimilarity(float(found.mean()), spread, pairs)


class _Kind(NamedTuple):
    """Which similarity."""

    kernel: str
    threshold: float
    debiased: bool

    def ways(
        self, members: Sequence[FloatArray]
    ) -> tuple[Callable[[FloatArray], FloatArray], Callable[[FloatArray, FloatArray], float]]:
        """What is done to each representation, and then to each pair of them."""
        is_narrow = max(x.shape[1] for x in members) < len(members[0])
        if self.kernel == "linear" and not self.debiased and is_narrow:
            return _unit_features, lambda x, y: float(np.linalg.norm(x.T @ y) ** 2)
        return self._unit_kernel, lambda k, m: float(np.vdot(k, m))

    def _unit_kernel(self, x: FloatArray) -> FloatArray:
        center = _center_unbiased if self.debiased else _center
        k = center(_gram(x, self.kernel, self.threshold))
        return np.asarray(k / np.linalg.norm(k))


def _check(kind: _Kind, members: Mapping[str, FloatArray]) -> None:
    least = 4 if kind.debiased else 2
    x, y = members.values()
    if len(x) != len(y) or len(x) < least:
        names = " and ".join(members)
        msg = f"{names} must hold the same events, at least {least}; found {len(x)} and {len(y)}"
        raise InputError(msg)
    if kind.kernel not in ("linear", "rbf"):
        msg = f"kernel must be linear or rbf; found {kind.kernel!r}"
        raise InputError(msg)
    if not kind.threshold > 0:
        msg = f"threshold must be positive; found {kind.threshold}"
        raise InputError(msg)
    for name, a in members.items():
        if not np.ptp(a, axis=0).any():
            msg = f"{name} must differ between events; all {len(a)} are the same"
            raise InputError(msg)


def _unit_features(x: FloatArray) -> FloatArray:
    """Scaled such that CKA = |X^T Y|^2: the linear case without matrices of n_events by n_events."""
    xc = x - x.mean(axis=0)
    return np.asarray(xc / np.sqrt(np.linalg.norm(xc.T @ xc)))


def _gram(x: FloatArray, kernel: str, threshold: float) -> FloatArray:
    # The mean goes first: kernels of differences do not see it, but rounding does.
    x = x - x.mean(axis=0)
    products = x @ x.T
    if kernel == "linear":
        return products
    norms = np.diagonal(products)
    squares = np.maximum(norms[:, None] + norms[None, :] - 2 * products, 0.0)
    median = np.median(squares)
    if median == 0:
        msg = "an rbf kernel needs events of which more than half differ; the median distance is 0"
        raise InputError(msg)
    return np.asarray(np.exp(-squares / (2 * threshold**2 * median)))


def _center(gram: FloatArray) -> FloatArray:
    means = gram.mean(axis=0)
    return np.asarray(gram - means[:, None] - means[None, :] + means.mean())


def _center_unbiased(gram: FloatArray) -> FloatArray:
    """Centred without its diagonal, so that sums over pairs of different events have no bias."""
    n = len(gram)
    k = gram.copy()
    np.fill_diagonal(k, 0.0)
    means = k.sum(axis=0) / (n - 2)
    means -= means.sum() / (2 * (n - 1))
    k -= means[:, None] + means[None, :]
    np.fill_diagonal(k, 0.0)
    return k


def _features(name: str, values: npt.ArrayLike) -> FloatArray:
    x = np.asarray(values, np.float64)
    if x.ndim < 2 or x.shape[0] == 0:
        msg = f"{name} must have shape (n_events, n_features) with at least one event; found {x.shape}"
        raise InputError(msg)
    if not np.isfinite(x).all():
        msg = f"{name} must be finite; {int((~np.isfinite(x)).sum())} numbers are not"
        raise InputError(msg)
    return x.reshape(len(x), -1)
