"""The sampled convex program: the best network over neurons whose first layer is drawn, and neurons added where it lacks one.

With unit vectors u_1..u_N fixed, a network ``sum_i alpha_i (x u_i)_+`` is linear in alpha, and the smallest penalty that gives its
outputs is ``lam ||alpha||_1``: a lasso over the features ``(X u_i)_+``. That is a relaxed `Program` with d = 1, features in place
of patterns and a column of ones for data, so `interior_point` solves it with a certified gap.

Its dual is that of the network's own program, with ``|nu' (X u)_+| <= lam`` asked for at the sampled u only. A u that breaks it is a
neuron that lowers the optimum: `worst_neurons` climbs from many starts to look for some, `fit_sampled` adds them and solves again.

Source: the sampled program, Bai, Gautam, Sojoudi, arXiv:2201.01965; the refinement is column generation, ours here.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pruneft.random import Block, normals
from pruneft.relu import gap, inputs
from pruneft.relu.interior import solve
from pruneft.relu.neurons import Network
from pruneft.relu.program import Program
from pruneft.relu.solution import Solution
from pruneft.status import Status, is_ok, message

LAM_SHARE = 0.05  # of the weight from which on all is zero, of a call that names no lam
_LENGTHS = tuple(4.0**-k for k in range(-1, 8))  # of a climbing step, tried side by side
_BLURS = 8  # widths of the blurred kinks, each a half decade below the one before; taken in turn
_EDGES, _EDGE_LENGTHS = (
    8,
    np.asarray([4.0, 0.25, 0.016]),
)  # rows that may meet where a maximum lies, and steps along what they leave
_SAME = 1e-7  # unit vectors nearer than this (1 - cosine) are one neuron


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """A network over sampled neurons, and how good it is.

    Attributes:
      objective: loss and penalty of ``network``; an upper bound of the best network's.
      dual: a lower bound of the optimum over the neurons in use, ``gap`` the relative distance of the two: rigorous, for these neurons.
      violation: the largest ``|nu' (X u)_+| / lam`` that was found over all unit u; 1 where no neuron is missing. Found by climbing, so the
        true one may be larger.
      estimate: a lower bound of the best network's objective if ``violation`` is the largest there is; an estimate, and no proof.
      network: neurons with ``||u|| = |alpha|``, dead ones left out.
      network_objective: the non-convex objective of the network; equals ``objective`` to rounding.
      rounds: how often neurons were added; ``added``: how many.
      iterations: of the last program.
      status: of the last program, a `pruneft.status.Status`.
      lam, loss: as used.
    """

    objective: float
    dual: float
    gap: float
    violation: float
    estimate: float
    network: Network = field(repr=False)
    network_objective: float
    rounds: int
    added: int
    iterations: int
    status: Status
    lam: float
    loss: str

    @property
    def ok(self) -> bool:
        """Whether the optimum over these neurons was certified to the tolerance, and is not zero."""
        return is_ok(self.status)

    @property
    def message(self) -> str:
        """What the status means and what to do about it."""
        return message(self.status, "relu")

    def predict(self, X: Any) -> np.ndarray:
        """Predictions [n]; scores for the losses of labels -1 and 1."""
        return np.asarray(self.network(jnp.asarray(X)))


def unit_vectors(seed: int, d: int, count: int, *, stream: int = 0) -> np.ndarray:
    """Unit vectors of uniform direction, [d, count] float64: the neurons of `fit_sampled`. More of them do not change the first ones."""
    drawn = np.asarray(normals(jax.random.key(seed), Block(stream, d, count))[0], np.float64)
    return drawn / np.linalg.norm(drawn, axis=0)


def sampled_program(
    X: Float[Array, "n d"],
    y: Float[Array, " n"],
    u: Float[Array, "d N"],
    *,
    lam: float | Float[Array, ""],
    weights: Float[Array, " n"],
    loss: str,
) -> Program:
    """The lasso over the neurons u as a relaxed program with blocks of one number, alpha; a zero column of u is inert."""
    features = jax.nn.relu(X @ u)
    return Program(
        X=jnp.ones((X.shape[0], 1), X.dtype),
        y=y,
        D=features,
        H=jnp.zeros((1, u.shape[1]), X.dtype),
        lam=jnp.asarray(lam, X.dtype),
        weights=weights,
        loss=loss,
        form="relaxed",
    )


@functools.partial(jax.jit, static_argnames=("steps",))
def worst_neurons(
    X: Float[Array, "n d"], nu: Float[Array, " n"], starts: Float[Array, "d K"], *, steps: int = 80
) -> tuple[Float[Array, "d K"], Float[Array, " K"]]:
    """Unit vectors to which ``|nu' (X u)_+|`` climbs from each start, and its values there: local maxima, to within some digits.

    A maximum may lie where rows meet zero, and the plain gradient only leads across such a kink. So a step goes along the gradient, or
    along that of the function with its kinks blurred, or within the nearest kinks, by the best of several lengths; only where it climbs.
    With the gradient alone 12 rounds of refinement ended up to 1e-2 above the optimum of small problems with hinge loss.
    """

    def unit(u: Array) -> Array:
        length = jnp.linalg.norm(u, axis=-2, keepdims=True)
        return u / jnp.where(length > 0, length, 1)

    def value(u: Array) -> Array:
        return jnp.abs(jnp.einsum("n,...nk->...k", nu, jax.nn.relu(X @ u)))

    lengths = jnp.asarray(_LENGTHS, X.dtype)[:, None, None]
    wide = jnp.sqrt(jnp.mean(jnp.sum(X**2, axis=1))) + jnp.finfo(X.dtype).tiny

    sizes = jnp.linalg.norm(X, axis=1)
    sizes = jnp.where(sizes > 0, sizes, jnp.finfo(X.dtype).tiny)  # a row of zeros is nobody's neighbour
    edges = min(X.shape[1] - 1, X.shape[0], _EDGES)

    def without(u: Array, across: Array) -> Array:
        """[edges, d, K]: u without its parts along the first, the first two, ... of the orthonormal columns of ``across`` [K, d, edges]."""
        parts = across * jnp.einsum("kde,dk->ke", across, u)[:, None, :]
        return u - jnp.moveaxis(jnp.cumsum(parts, axis=2), (0, 2), (2, 0))

    def climb(step: Array, found: tuple[Array, Array]) -> tuple[Array, Array]:
        u, reached = found
        seen = X @ u
        signed = nu[:, None] * jnp.sign(nu @ jax.nn.relu(seen))
        blur = wide * 10.0 ** (-(step % _BLURS + 1.0) / 2)
        sharp = unit(X.T @ jnp.where(seen > 0, signed, 0))
        smooth = unit(X.T @ (signed * jax.nn.sigmoid(seen / blur)))
        tries = [u + lengths * sharp, u + lengths * smooth]
        if edges:
            # Within the kinks: the nearest row as an exact zero, the nearest two, and so on.
            near = jnp.argsort(jnp.abs(seen) / sizes[:, None], axis=0)[:edges]
            across = jnp.linalg.qr(jnp.moveaxis(X[near], 1, 0).mT)[0]
            flat_u, flat_g = without(u, across), without(sharp, across)
            tries.append((flat_u + _EDGE_LENGTHS[:, None, None, None] * flat_g).reshape(-1, *u.shape))
        tried = unit(jnp.concatenate(tries))
        tried, values = jnp.concatenate([u[None], tried]), jnp.concatenate([reached[None], value(tried)])
        best = jnp.argmax(values, axis=0)
        return jnp.take_along_axis(tried, best[None, None, :], axis=0)[0], jnp.max(values, axis=0)

    u = unit(starts)
    return jax.lax.fori_loop(0, steps, climb, (u, value(u)))


def fit_sampled(
    X: Any,
    y: Any,
    *,
    loss: Literal["squared", "hinge", "bce"] = "squared",
    lam: float | None = None,
    n_neurons: int = 1000,
    refine: int = 0,
    tol: float = 1e-8,
    max_iterations: int = 100,
    seed: int = 0,
    bias: bool = False,
    weights: Any = None,
    reduction: Literal["sum", "mean"] | None = None,
    starts: int = 64,
) -> Sampled:
    """The best two-layer ReLU network over ``n_neurons`` random neurons, in float64.

    Args:
      X: [n, d] samples in rows.
      y: [n]; real numbers for ``squared``, -1 and 1 for ``hinge`` and ``bce``.
      loss: as in `fit`.
      lam: weight of ``sum_j (||u_j||^2 + alpha_j^2) / 2``; a twentieth of the weight from which on all is zero if not given.
      n_neurons: unit vectors drawn.
      refine: rounds in which the most violated neurons are added, ``starts`` at most in each.
      tol: relative gap of every program.
      max_iterations: budget of every program.
      seed: of the neurons and the starts.
      bias: append a column of ones to X, here and in predictions.
      weights, reduction: as in `fit`.
      starts: from how many points a violated neuron is looked for: half of them the most violated sampled ones, half drawn anew.

    Raises:
      ValueError: an argument makes no sense; the message says what was expected, what came and what to do.
    """
    data = inputs.data(X, y, loss=loss, bias=bias, weights=weights, reduction=reduction, dtype=np.float64)
    inputs.check_options(form="relaxed", lam=lam, tol=tol, max_iterations=max_iterations, dtype=data.X.dtype)
    if not data.single:
        raise ValueError(f"y must be a vector, one output: got shape {data.y.shape}. Fit each column on its own.")
    for name, count, least in (("n_neurons", n_neurons, 1), ("refine (rounds)", refine, 0), ("starts", starts, 2)):
        if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < least:
            raise ValueError(f"{name} must be a whole number of at least {least}: got {count!r}.")
    rows, labels, c = jnp.asarray(data.X), jnp.asarray(data.y[:, 0]), jnp.asarray(data.weights)
    d = data.X.shape[1]
    fresh = unit_vectors(seed, d, (refine + 1) * starts, stream=1)
    # Room for what refinement may add: one shape for all rounds, so that the solver is compiled once.
    u = np.zeros((d, n_neurons + refine * starts))
    u[:, :n_neurons] = unit_vectors(seed, d, n_neurons)

    def program(weight: float) -> Program:
        return sampled_program(rows, labels, jnp.asarray(u), lam=weight, weights=c, loss=loss)

    if lam is None:
        lam = LAM_SHARE * float(gap.lam_max(program(1.0)))
        if not lam > 0:
            raise ValueError("every weight is zero whatever lam is, because X or y is zero: there is nothing to fit.")
    used, rounds = n_neurons, 0
    while True:
        now = program(lam)
        solution, nu = solve(now, tol=tol, max_iterations=int(max_iterations))
        slopes = now.losses.dual_point(nu, now.y, now.weights)
        scores = np.abs(np.asarray(now.pull(slopes))[0])
        begin = np.concatenate(
            [u[:, np.argsort(-scores)[: starts // 2]], fresh[:, rounds * starts : (rounds + 1) * starts - starts // 2]],
            axis=1,
        )
        found, values = (np.asarray(part) for part in worst_neurons(rows, slopes, jnp.asarray(begin)))
        if rounds == refine or not np.isfinite(values).all():
            break
        new = _different(found[:, values > lam * (1 + tol)], values[values > lam * (1 + tol)], u[:, :used])
        if not new.shape[1]:
            break
        u[:, used : used + new.shape[1]] = new
        used, rounds = used + new.shape[1], rounds + 1
    most = max(float(np.max(values)), float(np.max(scores)))
    limit = jnp.asarray(lam / max(most, np.finfo(np.float64).tiny))
    estimate = float(now.losses.dual_value(slopes, now.y, now.weights, limit)[0])
    return _result(
        now, solution, u, bias, violation=most / lam, estimate=estimate, rounds=rounds, added=used - n_neurons, X=rows
    )


def _different(u: np.ndarray, values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The columns of u that are not nearly equal to a known one or to a better one of their own."""
    kept = known
    for j in np.argsort(-values):
        if np.max(kept.T @ u[:, j], initial=-1.0) < 1 - _SAME:
            kept = np.concatenate([kept, u[:, [j]]], axis=1)
    return kept[:, known.shape[1] :]


def _result(program: Program, solution: Solution, u: np.ndarray, bias: bool, *, X: Array, **found: Any) -> Sampled:
    weight = np.asarray(solution.U)[0]
    live = weight != 0
    root = np.sqrt(np.abs(weight[live]))
    network = Network(
        u=jnp.asarray(u[:, live] * root),
        alpha=jnp.asarray(np.sign(weight[live]) * root),
        linear=jnp.zeros(u.shape[0]),
        bias=bias,
    )
    outputs = jax.nn.relu(X @ network.u) @ network.alpha
    again = program.losses.value(outputs, program.y, program.weights) + program.lam * network.penalty()
    return Sampled(
        objective=float(solution.objective),
        dual=float(solution.dual),
        gap=float(solution.gap),
        network=network,
        network_objective=float(again),
        iterations=int(solution.iterations),
        status=Status(int(solution.status)),
        lam=float(program.lam),
        loss=program.loss,
        **found,
    )
