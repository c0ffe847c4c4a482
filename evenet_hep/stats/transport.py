"""Cheapest way to move one set of weights onto another: the work of an energy mover's distance, compiled."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

FloatArray = npt.NDArray[np.float64]

RESIDUE = 1e-13  # of all that is moved, which counts as nothing


def transport_cost(supply: FloatArray, demand: FloatArray, cost: FloatArray) -> float:
    """Smallest cost of moving as much as the smaller side has.

    Parameters
    ----------
    supply, demand : float64 array, shape (n,) and (m,)
        Positive; their sums may differ.
    cost : float64 array, shape (n, m)
        Of moving a unit; not negative.

    Returns
    -------
    float
        Exact up to rounding: shortest augmenting paths with potentials, as in the Hungarian algorithm.

    Examples
    --------
    >>> transport_cost(np.array([1.0, 1.0]), np.array([0.5, 1.0]), np.array([[0.0, 2.0], [3.0, 1.0]]))
    1.0
    """
    a, b, c = (np.array(x, np.float64) for x in (supply, demand, cost))
    if a.sum() > b.sum():  # sources give all they have
        a, b, c = b, a, np.ascontiguousarray(c.T)
    return float(_transport(a, b, c, RESIDUE * a.sum()))


@njit(cache=True)
def _transport(a, b, cost, nothing):  # type: ignore[no-untyped-def]
    n, m = cost.shape
    flow = np.zeros((n, m))
    u, v = np.zeros(n), np.zeros(m)  # cost - u - v is not negative, and zero where something flows
    distance, leads = np.empty(m), np.empty(m, np.int64)
    is_done, is_reached = np.empty(m, np.bool_), np.empty(n, np.bool_)
    at_source, via = np.empty(n), np.empty(n, np.int64)
    queue = np.empty(n, np.int64)
    for start in range(n):
        while a[start] > nothing:
            distance[:], is_done[:], is_reached[:] = np.inf, False, False
            is_reached[start], at_source[start] = True, 0.0
            queue[0], first, last = start, 0, 1
            end = -1
            while end < 0:
                for q in range(first, last):
                    i = queue[q]
                    for j in range(m):
                        if not is_done[j]:
                            d = at_source[i] + cost[i, j] - u[i] - v[j]
                            if d < distance[j]:
                                distance[j], leads[j] = d, i
                first = last
                nearest = -1
                for j in range(m):
                    if not is_done[j] and (nearest < 0 or distance[j] < distance[nearest]):
                        nearest = j
                if nearest < 0:  # only rounding is left to be moved
                    break
                is_done[nearest] = True
                if b[nearest] > nothing:
                    end = nearest
                    break
                for i in range(n):
                    if flow[i, nearest] > 0.0 and not is_reached[i]:
                        is_reached[i], at_source[i], via[i] = True, distance[nearest], nearest
                        queue[last] = i
                        last += 1
            if end < 0:
                break
            for i in range(n):
                if is_reached[i]:
                    u[i] += distance[end] - at_source[i]
            for j in range(m):
                if is_done[j]:
                    v[j] -= distance[end] - distance[j]
            amount = _push(flow, leads, via, start, end, min(a[start], b[end]))
            a[start] -= amount
            b[end] -= amount
    return (flow * cost).sum()


@njit(cache=True)
def _push(flow, leads, via, start, end, most):  # type: ignore[no-untyped-def]
    """Move as much as the path from a source to a sink allows; returns how much that was."""
    amount, i = most, leads[end]
    while i != start:
        amount = min(amount, flow[i, via[i]])
        i = leads[via[i]]
    i = leads[end]
    flow[i, end] += amount
    while i != start:
        j = via[i]
        flow[i, j] -= amount
        i = leads[j]
        flow[i, j] += amount
    return amount
