"""Where the ellipses of two neutrinos meet, and where they come closest.

A leg is one neutrino with all momenta that its mass constraints allow: rows centre, cosine and sine of (px, py, pz, E), so
that the momentum is centre + cosine cos(phi) + sine sin(phi). :mod:`evenet_hep.kinematics.dilepton` builds and uses them.

The ellipses are intersected as follows. With the azimuth of each leg as a unit vector u1, u2, the two equations of the
MET are linear in (u1, u2), and leave a plane of the four-dimensional space. On it ``|u1|^2 + |u2|^2 = 2`` is a circle
and ``|u1|^2 - |u2|^2 = 0`` a conic. Among the sums of the two there is always one that consists of two real lines, and
lines are easily intersected with a circle.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from numba import njit

from evenet_hep.kinematics.vectors import mass_scalar, rest_frame_scalar

FloatArray = npt.NDArray[np.float64]

MAX_SOLUTIONS = 4

# A line that misses the unit circle by no more than this may touch it; whether it does, the MET will tell.
_TOUCH = 1e-8
# Solutions whose azimuths agree to this are one (radians); MET that closes to this, in units of the energies, closes.
_SAME = 1e-7
CLOSED = 1e-9
# A squared radius this little below zero, in units of the neutrino's energy squared, belongs to an ellipse that is a
# point, as when lepton, neutrino and b jet fly along one line.
_POINT = 1e-10
# Directions among which the search for the closest approach starts.
N_START = 32


@njit(cache=True, error_model="numpy")
def fill_leg(
    lepton: FloatArray, b: FloatArray, i: int, w_mass: float, top_mass: float, leg: FloatArray
) -> int:
    """Neutrino momenta that the masses of W and top allow; 1 if there are any, 0 if not, -1 for unusable input."""
    px, py = lepton[0, i] + b[0, i], lepton[1, i] + b[1, i]
    pz, energy = lepton[2, i] + b[2, i], lepton[3, i] + b[3, i]
    m_lb = mass_scalar(px, py, pz, energy)
    if not (m_lb > 0.0 and math.isfinite(energy)):
        return -1
    lx, ly, lz, l_energy = rest_frame_scalar(
        lepton[0, i], lepton[1, i], lepton[2, i], lepton[3, i], px, py, pz, energy, m_lb
    )
    length = math.sqrt(lx * lx + ly * ly + lz * lz)
    if not length > 0.0:
        return -1
    lepton_mass2 = (l_energy - length) * (l_energy + length)
    nu_energy = (top_mass * top_mass - m_lb * m_lb) / (2.0 * m_lb)
    along = (l_energy * nu_energy - 0.5 * (w_mass * w_mass - lepton_mass2)) / length
    radius2 = (nu_energy - along) * (nu_energy + along)
    if not radius2 >= -_POINT * nu_energy * nu_energy or nu_energy < 0.0:
        return 0
    lx, ly, lz, radius = lx / length, ly / length, lz / length, math.sqrt(max(radius2, 0.0))
    # A vector across the lepton: its cross product with the axis from which it is farthest.
    if abs(lx) <= abs(ly) and abs(lx) <= abs(lz):
        vx, vy, vz = 0.0, -lz, ly
    elif abs(ly) <= abs(lz):
        vx, vy, vz = lz, 0.0, -lx
    else:
        vx, vy, vz = -ly, lx, 0.0
    scale = radius / math.sqrt(vx * vx + vy * vy + vz * vz)
    vx, vy, vz = scale * vx, scale * vy, scale * vz
    back = (-px, -py, -pz, energy, m_lb)
    leg[0, 0], leg[0, 1], leg[0, 2], leg[0, 3] = rest_frame_scalar(
        along * lx, along * ly, along * lz, nu_energy, *back
    )
    leg[1, 0], leg[1, 1], leg[1, 2], leg[1, 3] = rest_frame_scalar(vx, vy, vz, 0.0, *back)
    leg[2, 0], leg[2, 1], leg[2, 2], leg[2, 3] = rest_frame_scalar(
        ly * vz - lz * vy, lz * vx - lx * vz, lx * vy - ly * vx, 0.0, *back
    )
    return 1


@njit(cache=True, error_model="numpy")
def intersect(
    leg1: FloatArray, leg2: FloatArray, wx: float, wy: float, basis: FloatArray, azimuths: FloatArray
) -> int:
    """Pairs of azimuths at which the neutrinos add up to the MET; their number."""
    alpha, beta = _fill_basis(leg1, leg2, wx, wy, basis)
    radius2 = 2.0 - alpha * alpha - beta * beta
    if not radius2 >= -_TOUCH:  # also for parallel equations, which give NaN
        return 0
    radius = math.sqrt(max(radius2, 0.0))
    # The conic a11 x^2 + 2 a12 x y + a22 y^2 + 2 h1 x + 2 h2 y + f = 0 on the plane, in units of the circle.
    a11 = a12 = a22 = h1 = h2 = f = 0.0
    for j in range(4):
        sign = 1.0 if j < 2 else -1.0
        u0 = alpha * basis[0, j] + beta * basis[1, j]
        k1, k2 = radius * basis[2, j], radius * basis[3, j]
        a11, a12, a22 = a11 + sign * k1 * k1, a12 + sign * k1 * k2, a22 + sign * k2 * k2
        h1, h2, f = h1 + sign * u0 * k1, h2 + sign * u0 * k2, f + sign * u0 * u0
    # Turned so that its quadratic part is p x^2 + q y^2 with p <= q.
    angle = 0.5 * math.atan2(2.0 * a12, a11 - a22)
    cos, sin = math.cos(angle), math.sin(angle)
    spread = math.hypot(0.5 * (a11 - a22), a12)
    p, q = 0.5 * (a11 + a22) - spread, 0.5 * (a11 + a22) + spread
    d, e = cos * h2 - sin * h1, cos * h1 + sin * h2
    lines = _two_lines(p, q, d, e, f)
    count = 0
    for nx, ny, c in lines:
        length = math.hypot(nx, ny)
        distance = -c / length
        half2 = 1.0 - distance * distance
        if not half2 >= -_TOUCH:
            continue
        half = math.sqrt(max(half2, 0.0))
        for side in (half, -half):
            x, y = (distance * nx - side * ny) / length, (distance * ny + side * nx) / length
            s1, s2 = radius * (cos * y - sin * x), radius * (sin * y + cos * x)
            count = _add_solution(leg1, leg2, wx, wy, alpha, beta, s1, s2, basis, azimuths, count)
    return count


@njit(cache=True, error_model="numpy")
def _fill_basis(
    leg1: FloatArray, leg2: FloatArray, wx: float, wy: float, basis: FloatArray
) -> tuple[float, float]:
    """Orthonormal rows: two that span the equations of the MET, two across; coordinates of the solution nearest 0."""
    for row in range(2):
        for j in range(2):
            basis[row, j], basis[row, 2 + j] = leg1[1 + j, row], leg2[1 + j, row]
    first = _normalize(basis, 0)
    overlap = _remove(basis, 1, 0)
    second = _normalize(basis, 1)
    for row in range(2, 4):
        # Start from the unit vector that lies least in the rows there are; twice against rounding.
        best, start = 2.0, 0
        for j in range(4):
            inside = 0.0
            for other in range(row):
                inside += basis[other, j] * basis[other, j]
            if inside < best:
                best, start = inside, j
        for j in range(4):
            basis[row, j] = 1.0 if j == start else 0.0
        for _ in range(2):
            for other in range(row):
                _remove(basis, row, other)
            _normalize(basis, row)
    alpha = wx / first
    return alpha, (wy - overlap * alpha) / second


@njit(cache=True, error_model="numpy")
def _normalize(basis: FloatArray, row: int) -> float:
    """Scale a row to length 1; the length it had."""
    length = math.sqrt(basis[row, 0] ** 2 + basis[row, 1] ** 2 + basis[row, 2] ** 2 + basis[row, 3] ** 2)
    for j in range(4):
        basis[row, j] /= length
    return length


@njit(cache=True, error_model="numpy")
def _remove(basis: FloatArray, row: int, other: int) -> float:
    """Take the part along another row, of length 1, out of a row; how long it was."""
    overlap = 0.0
    for j in range(4):
        overlap += basis[row, j] * basis[other, j]
    for j in range(4):
        basis[row, j] -= overlap * basis[other, j]
    return overlap


@njit(cache=True, error_model="numpy")
def _two_lines(
    p: float, q: float, d: float, e: float, f: float
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Lines n.x + c = 0 that hold all common points of p x^2 + q y^2 + 2 d x + 2 e y + f = 0 and the unit circle.

    The sum of the conic and -t times the circle consists of two lines where the cubic
    (p - t)(q - t)(f + t) - d^2 (q - t) - e^2 (p - t) vanishes. It is -d^2 (q - p) <= 0 at p and e^2 (q - p) >= 0 at q:
    there is a zero between, and the lines of that one are real.
    """
    low, high = p, q
    t = 0.5 * (p + q)
    for _ in range(100):
        value = (p - t) * (q - t) * (f + t) - d * d * (q - t) - e * e * (p - t)
        low, high = (t, high) if value < 0.0 else (low, t)
        slope = (p - t) * (q - t) - (p + q - 2.0 * t) * (f + t) + d * d + e * e
        following = t - value / slope
        if not low <= following <= high:
            following = 0.5 * (low + high)
        if abs(following - t) <= 1e-16 * (abs(p) + abs(q)):
            break
        t = following
    alpha, beta = math.sqrt(max(t - p, 0.0)), math.sqrt(max(q - t, 0.0))
    if alpha == 0.0 and beta == 0.0:  # the conic is a circle, too: one line, the other at infinity
        line = (2.0 * d, 2.0 * e, f + t)
        return line, line
    # (alpha x + beta y + c1)(-alpha x + beta y + c2): divide by the larger of alpha and beta.
    if alpha >= beta:
        difference = 2.0 * d / alpha
        total = math.copysign(math.sqrt(max(difference * difference + 4.0 * (f + t), 0.0)), e)
    else:
        total = 2.0 * e / beta
        difference = math.copysign(math.sqrt(max(total * total - 4.0 * (f + t), 0.0)), d)
    return (alpha, beta, 0.5 * (total - difference)), (-alpha, beta, 0.5 * (total + difference))


@njit(cache=True, error_model="numpy")
def _add_solution(
    leg1: FloatArray,
    leg2: FloatArray,
    wx: float,
    wy: float,
    alpha: float,
    beta: float,
    s1: float,
    s2: float,
    basis: FloatArray,
    azimuths: FloatArray,
    count: int,
) -> int:
    """Polish a candidate and keep it if it closes the MET and is new; the number of solutions then."""
    phi1, phi2 = _azimuths_at(basis, alpha, beta, s1, s2)
    x1, y1, ax, ay = _point(leg1, phi1)
    x2, y2, bx, by = _point(leg2, phi2)
    fx, fy = x1 + x2 - wx, y1 + y2 - wy
    for _ in range(5):
        determinant = ax * by - ay * bx
        step1, step2 = (fy * bx - fx * by) / determinant, (fx * ay - fy * ax) / determinant
        new1, new2 = _point(leg1, phi1 + step1), _point(leg2, phi2 + step2)
        new_x, new_y = new1[0] + new2[0] - wx, new1[1] + new2[1] - wy
        # Where the ellipses touch the determinant vanishes, and the candidate is as good as it gets.
        if not math.hypot(new_x, new_y) < math.hypot(fx, fy):
            break
        phi1, phi2, fx, fy = phi1 + step1, phi2 + step2, new_x, new_y
        x1, y1, ax, ay = new1
        x2, y2, bx, by = new2
        # The steps square the error, the next would be rounding.
        if abs(step1) + abs(step2) < 1e-9:
            break
    if not math.hypot(fx, fy) <= CLOSED * (leg1[0, 3] + leg2[0, 3]):
        return count
    for k in range(count):
        apart1, apart2 = (
            abs(math.sin(0.5 * (phi1 - azimuths[k, 0]))),
            abs(math.sin(0.5 * (phi2 - azimuths[k, 1]))),
        )
        if 2.0 * max(apart1, apart2) < _SAME:
            return count
    if count == MAX_SOLUTIONS:
        return count
    azimuths[count, 0], azimuths[count, 1] = phi1, phi2
    return count + 1


@njit(cache=True, error_model="numpy")
def _azimuths_at(basis: FloatArray, alpha: float, beta: float, s1: float, s2: float) -> tuple[float, float]:
    """Azimuths of both legs for the vector with these coordinates."""
    cos1 = alpha * basis[0, 0] + beta * basis[1, 0] + (s1 * basis[2, 0] + s2 * basis[3, 0])
    sin1 = alpha * basis[0, 1] + beta * basis[1, 1] + (s1 * basis[2, 1] + s2 * basis[3, 1])
    cos2 = alpha * basis[0, 2] + beta * basis[1, 2] + (s1 * basis[2, 2] + s2 * basis[3, 2])
    sin2 = alpha * basis[0, 3] + beta * basis[1, 3] + (s1 * basis[2, 3] + s2 * basis[3, 3])
    return math.atan2(sin1, cos1), math.atan2(sin2, cos2)


@njit(cache=True, error_model="numpy")
def approach(
    leg1: FloatArray, leg2: FloatArray, wx: float, wy: float, table: FloatArray, azimuths: FloatArray
) -> float:
    """Azimuths at which the sum of the neutrinos comes closest to the MET, put first; the distance in GeV.

    With h(n), the largest component of an ellipse along a direction n, the MET w is farther out than the sum of both
    ellipses reaches if w.n - h1 - h2 is positive for some n, and its largest value is the distance. Where the one
    ellipse is too small to fill the other, w lies in a hole, and the distance is the smallest of h1 - h2 - w.n or of
    h2 - h1 - w.n. At most one of the three is positive.
    """
    closest = -np.inf
    nx = ny = side1 = side2 = 0.0
    for sign1, sign2 in ((1.0, 1.0), (1.0, -1.0), (-1.0, 1.0)):
        hole = sign1 != sign2
        # Where the largest value of a hole reaches above this, another of the three has won already.
        ceiling = -closest if hole else np.inf
        largest, mx, my = _largest_gap(leg1, leg2, wx, wy, sign1, sign2, ceiling, table)
        gap = -largest if hole else largest
        if gap > closest:
            closest, nx, ny, side1, side2 = gap, mx, my, sign1, sign2
    phi1, phi2 = _azimuth_along(leg1, nx, ny, side1), _azimuth_along(leg2, nx, ny, side2)
    # A flat ellipse has no certain point along n: let it slide to where nothing is missing across n.
    x1, y1, _, _ = _point(leg1, phi1)
    x2, y2, _, _ = _point(leg2, phi2)
    missing = nx * (wy - y1 - y2) - ny * (wx - x1 - x2)
    if _flatness(leg1, nx, ny) <= _flatness(leg2, nx, ny):
        phi1 = _slide(leg1, nx, ny, phi1, missing)
    else:
        phi2 = _slide(leg2, nx, ny, phi2, missing)
    x1, y1, _, _ = _point(leg1, phi1)
    x2, y2, _, _ = _point(leg2, phi2)
    azimuths[0, 0], azimuths[0, 1] = phi1, phi2
    return math.hypot(x1 + x2 - wx, y1 + y2 - wy)


@njit(cache=True, error_model="numpy")
def _largest_gap(
    leg1: FloatArray,
    leg2: FloatArray,
    wx: float,
    wy: float,
    sign1: float,
    sign2: float,
    ceiling: float,
    table: FloatArray,
) -> tuple[float, float, float]:
    """Largest w.n - sign1 h1(n) - sign2 h2(n) over all directions n, and its n; not searched to the end above a ceiling.

    The first two columns of ``table`` are directions around the circle.
    """
    count = len(table)
    largest, best = -np.inf, 0
    for k in range(count):
        table[k, 2], table[k, 3] = _gap(leg1, leg2, wx, wy, sign1, sign2, table[k, 0], table[k, 1])
        if table[k, 2] > largest:
            largest, best = table[k, 2], k
    nx, ny = table[best, 0], table[best, 1]
    if largest > ceiling:
        return largest, nx, ny
    # No value between two neighbours is above both by more than half a step times the steepest slope.
    steepest = math.hypot(wx, wy)
    for leg in (leg1, leg2):
        steepest += math.hypot(math.hypot(leg[1, 0], leg[1, 1]), math.hypot(leg[2, 0], leg[2, 1]))
    margin = steepest * math.pi / count
    for k in range(count):
        after = (k + 1) % count
        rises_and_falls = table[k, 3] >= 0.0 > table[after, 3]
        if rises_and_falls and max(table[k, 2], table[after, 2]) + margin > largest:
            gap, x, y = _summit(leg1, leg2, wx, wy, sign1, sign2, table, k, after, steepest)
            if gap > largest:
                largest, nx, ny = gap, x, y
    return largest, nx, ny


@njit(cache=True, error_model="numpy")
def _summit(
    leg1: FloatArray,
    leg2: FloatArray,
    wx: float,
    wy: float,
    sign1: float,
    sign2: float,
    table: FloatArray,
    k: int,
    after: int,
    steepest: float,
) -> tuple[float, float, float]:
    """The maximum between two directions where the slope changes sign, by false position (Illinois), and its n."""
    low_x, low_y, rising = table[k, 0], table[k, 1], table[k, 3]
    high_x, high_y, falling = table[after, 0], table[after, 1], table[after, 3]
    gap, x, y, last = -np.inf, low_x, low_y, 0
    for _ in range(100):
        x, y = low_x * -falling + high_x * rising, low_y * -falling + high_y * rising
        length = math.hypot(x, y)
        x, y = x / length, y / length
        gap, slope = _gap(leg1, leg2, wx, wy, sign1, sign2, x, y)
        if abs(slope) <= 1e-14 * steepest or abs(low_x * high_y - low_y * high_x) < 1e-15:
            break
        if slope >= 0.0:
            low_x, low_y, rising = x, y, slope
            falling = 0.5 * falling if last == 1 else falling
            last = 1
        else:
            high_x, high_y, falling = x, y, slope
            rising = 0.5 * rising if last == -1 else rising
            last = -1
    return gap, x, y


@njit(cache=True, error_model="numpy")
def _gap(
    leg1: FloatArray,
    leg2: FloatArray,
    wx: float,
    wy: float,
    sign1: float,
    sign2: float,
    nx: float,
    ny: float,
) -> tuple[float, float]:
    """w.n - sign1 h1(n) - sign2 h2(n) and its slope when n turns to the left."""
    h1, slope1 = _support(leg1, nx, ny)
    h2, slope2 = _support(leg2, nx, ny)
    return (
        wx * nx + wy * ny - sign1 * h1 - sign2 * h2,
        wy * nx - wx * ny - sign1 * slope1 - sign2 * slope2,
    )


@njit(cache=True, error_model="numpy")
def _support(leg: FloatArray, nx: float, ny: float) -> tuple[float, float]:
    """The largest component of an ellipse along n, and its slope when n turns to the left."""
    cosine, sine = leg[1, 0] * nx + leg[1, 1] * ny, leg[2, 0] * nx + leg[2, 1] * ny
    reach = math.sqrt(cosine * cosine + sine * sine)
    if reach == 0.0:
        return 0.0, 0.0
    turned_cosine, turned_sine = leg[1, 1] * nx - leg[1, 0] * ny, leg[2, 1] * nx - leg[2, 0] * ny
    return reach, (cosine * turned_cosine + sine * turned_sine) / reach


@njit(cache=True, error_model="numpy")
def _azimuth_along(leg: FloatArray, nx: float, ny: float, side: float) -> float:
    """Azimuth of the point of an ellipse that is farthest along n (or, for side -1, against it)."""
    cosine, sine = leg[1, 0] * nx + leg[1, 1] * ny, leg[2, 0] * nx + leg[2, 1] * ny
    return math.atan2(side * sine, side * cosine)


@njit(cache=True, error_model="numpy")
def _flatness(leg: FloatArray, nx: float, ny: float) -> float:
    """How far an ellipse reaches along n, in units of how far it reaches across."""
    return _support(leg, nx, ny)[0] / _support(leg, -ny, nx)[0]


@njit(cache=True, error_model="numpy")
def _slide(leg: FloatArray, nx: float, ny: float, phi: float, missing: float) -> float:
    """Azimuth on the same side of an ellipse where its component across n is larger by ``missing``, if it reaches."""
    reach = _support(leg, -ny, nx)[0]
    if not reach > 0.0:
        return phi
    # The component across n is reach cos(phi - end).
    end = _azimuth_along(leg, -ny, nx, 1.0)
    target = math.cos(phi - end) + missing / reach
    return end + math.copysign(math.acos(min(1.0, max(-1.0, target))), math.sin(phi - end))


@njit(cache=True, error_model="numpy")
def _point(leg: FloatArray, phi: float) -> tuple[float, float, float, float]:
    """Transverse momentum relative to the centre of the ellipse, and its derivative."""
    cos, sin = math.cos(phi), math.sin(phi)
    x, y = leg[1, 0] * cos + leg[2, 0] * sin, leg[1, 1] * cos + leg[2, 1] * sin
    return x, y, leg[2, 0] * cos - leg[1, 0] * sin, leg[2, 1] * cos - leg[1, 1] * sin


@njit(cache=True, error_model="numpy")
def sort_by_px(leg: FloatArray, azimuths: FloatArray, count: int) -> None:
    """Put the first ``count`` pairs of azimuths in the order of the px of the first leg."""
    for k in range(1, count):
        for j in range(k, 0, -1):
            here = leg[1, 0] * math.cos(azimuths[j, 0]) + leg[2, 0] * math.sin(azimuths[j, 0])
            before = leg[1, 0] * math.cos(azimuths[j - 1, 0]) + leg[2, 0] * math.sin(azimuths[j - 1, 0])
            if here < before:
                for which in range(2):
                    later = azimuths[j - 1, which]
                    azimuths[j - 1, which] = azimuths[j, which]
                    azimuths[j, which] = later


@njit(cache=True, error_model="numpy")
def fill_neutrino(leg: FloatArray, phi: float, neutrino: FloatArray, event: int, solution: int) -> None:
    """Write the momentum of a leg at an azimuth into ``neutrino`` (4, n_events, n_solutions)."""
    cos, sin = math.cos(phi), math.sin(phi)
    for axis in range(4):
        neutrino[axis, event, solution] = leg[0, axis] + cos * leg[1, axis] + sin * leg[2, axis]
