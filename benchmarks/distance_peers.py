"""Other ways from some squared distances to positions, each as its source has it; plain NumPy, SciPy, scikit-learn and CVXPY, float64.

Every function takes ``pairs`` [n, 2], squared distances ``y`` [n] and the number of points, and returns positions [N, r] (or a Gram
matrix [N, N], where it says so).
"""

from __future__ import annotations

import warnings

import numpy as np
from scipy.optimize import least_squares
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import shortest_path


def completed(pairs: np.ndarray, y: np.ndarray, N: int) -> np.ndarray:
    """[N, N] distances, those not measured by shortest paths; what no path reaches by the longest of them."""
    lengths = np.sqrt(np.maximum(y, 1e-300))
    graph = coo_matrix((lengths, (pairs[:, 0], pairs[:, 1])), shape=(N, N)).tocsr()
    paths: np.ndarray = shortest_path(graph, directed=False)
    finite = np.isfinite(paths)
    return np.where(finite, paths, np.max(paths[finite]))


def classical_scaling(distances: np.ndarray, r: int) -> np.ndarray:
    """Classical multidimensional scaling (Torgerson 1952)."""
    N = len(distances)
    centre = np.eye(N) - 1 / N
    values, vectors = np.linalg.eigh(-centre @ np.square(distances) @ centre / 2)
    positions: np.ndarray = vectors[:, ::-1][:, :r] * np.sqrt(np.maximum(values[::-1][:r], 0))
    return positions


def shortest_path_scaling(pairs: np.ndarray, y: np.ndarray, N: int, r: int) -> np.ndarray:
    """Shortest paths, then classical scaling (Shang et al. 2003)."""
    return classical_scaling(completed(pairs, y, N), r)


def smacof(pairs: np.ndarray, y: np.ndarray, N: int, r: int) -> np.ndarray:
    """scikit-learn's SMACOF, 4 starts, on distances completed by shortest paths: it takes no weights, so nothing may be missing."""
    from sklearn.manifold import smacof as fit

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        positions, _ = fit(completed(pairs, y, N), n_components=r, n_init=4, max_iter=1000, eps=1e-9, random_state=0)
    return np.asarray(positions)


def weighted_smacof(
    pairs: np.ndarray, y: np.ndarray, N: int, r: int, *, random_starts: int = 3, steps: int = 3000, seed: int = 0
) -> np.ndarray:
    """SMACOF, weight 1 on measured pairs and 0 elsewhere (de Leeuw 1977), from shortest-path scaling and at random; the least stress."""
    first, second = pairs.T
    lengths = np.sqrt(np.maximum(y, 0))
    laplacian = np.zeros((N, N))
    np.add.at(laplacian, (first, second), -1.0)
    laplacian += laplacian.T
    laplacian -= np.diag(laplacian.sum(axis=1))
    inverse = np.linalg.pinv(laplacian)
    rng = np.random.default_rng(seed)
    start = shortest_path_scaling(pairs, y, N, r)
    spread = float(np.std(start)) or 1.0
    best, least = start, np.inf
    for positions in [start, *(spread * rng.standard_normal((N, r)) for _ in range(random_starts))]:
        before = np.inf
        for _ in range(steps):
            moved = positions[first] - positions[second]
            now = np.linalg.norm(moved, axis=1)
            stress = float(np.sum((now - lengths) ** 2))
            if before - stress <= 1e-12 * float(np.sum(lengths**2)):
                break
            before = stress
            pull = (lengths / np.maximum(now, 1e-300))[:, None] * moved
            sums = np.zeros((N, r))
            np.add.at(sums, first, pull)
            np.add.at(sums, second, -pull)
            positions = inverse @ sums
        if before < least:
            best, least = positions, before
    return best


def least_squares_from(pairs: np.ndarray, y: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, float]:
    """SciPy's trust region on squared distances from given positions: positions and residual sum of squares."""
    N, r = start.shape
    first, second = pairs.T
    rows = np.arange(len(pairs))

    def errors(x: np.ndarray) -> np.ndarray:
        X = x.reshape(N, r)
        return np.asarray(np.sum((X[first] - X[second]) ** 2, axis=1) - y)

    def slopes(x: np.ndarray) -> np.ndarray:
        X = x.reshape(N, r)
        moved = 2 * (X[first] - X[second])
        J = np.zeros((len(pairs), N, r))
        J[rows, first], J[rows, second] = moved, -moved
        return J.reshape(len(pairs), -1)

    found = least_squares(errors, start.ravel(), slopes, xtol=1e-14, ftol=1e-14, gtol=1e-14, max_nfev=300)
    return found.x.reshape(N, r), float(2 * found.cost)


def scaled_then_fitted(pairs: np.ndarray, y: np.ndarray, N: int, r: int) -> np.ndarray:
    """Shortest-path scaling, then least squares from it."""
    return least_squares_from(pairs, y, shortest_path_scaling(pairs, y, N, r))[0]


def restarted(pairs: np.ndarray, y: np.ndarray, N: int, r: int, *, starts: int = 20, seed: int = 0) -> np.ndarray:
    """Least squares from shortest-path scaling and from random positions until one fits exactly, the best of them."""
    rng = np.random.default_rng(seed)
    spread = np.sqrt(np.mean(np.abs(y)) / (2 * r))
    size = float(y @ y)
    best, least = least_squares_from(pairs, y, shortest_path_scaling(pairs, y, N, r))
    for _ in range(starts):
        if least <= 1e-16 * size:
            break
        positions, rss = least_squares_from(pairs, y, spread * rng.standard_normal((N, r)))
        if rss < least:
            best, least = positions, rss
    return best


def semidefinite(pairs: np.ndarray, y: np.ndarray, N: int, *, sigma: float = 0.0, unfold: bool = False) -> np.ndarray:
    """The centred Gram matrix [N, N] of least (``unfold``: of largest) trace that fits, by Clarabel through CVXPY.

    With noise the data are met to within sigma sqrt(n). Least trace: Fazel, Hindi, Boyd (2003); largest, which pulls points apart:
    Weinberger, Saul (2006), and Biswas et al. (2006) for sensors.
    """
    import cvxpy as cp

    unit = float(np.mean(np.abs(y)))  # an interior point method has tolerances of its own, for data near 1
    y, sigma = y / unit, sigma / unit
    matrix = cp.Variable((N, N), PSD=True)
    diagonal = cp.diag(matrix)
    first, second = pairs.T
    flat = cp.vec(matrix, order="C")
    errors = diagonal[first] + diagonal[second] - 2 * flat[first * N + second] - y
    data = cp.norm(errors, 2) <= sigma * np.sqrt(len(y)) if sigma > 0 else errors == 0
    trace = cp.trace(matrix)
    problem = cp.Problem(cp.Maximize(trace) if unfold else cp.Minimize(trace), [data, cp.sum(matrix, axis=0) == 0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an inaccurate solution shows in its error
        problem.solve(solver=cp.CLARABEL)
    if matrix.value is None:
        raise ValueError(f"Clarabel ended with status {problem.status}.")
    return unit * np.asarray(matrix.value)
