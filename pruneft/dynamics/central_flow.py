r"""The central flow: where gradient descent goes on average at the edge of stability, with any number of unstable directions.

.. math:: \dot\theta = -\eta \left[ \nabla L + \tfrac12 \nabla \langle \nabla^2 L, \Sigma \rangle \right], \quad \Sigma = U X U^\top

in units of time of one step, with U the eigenvectors at the edge and X the covariance of the oscillation: the positive semidefinite
matrix that keeps the Hessian at most ``2 / eta``. The mean loss of gradient descent is predicted as ``L + tr(Sigma) / eta``.

Source: Cohen, Damian, Talwalkar, Kolter and Lee (2025), arXiv:2410.24206; the discretisation is ours.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pruneft.dynamics.complementarity import complementarity
from pruneft.dynamics.curvature import Loss, Params, check_counts, check_step, flatten
from pruneft.dynamics.sharpness import Sharpness, sharpness
from pruneft.status import Status

CRITICAL = 1.95  # eta lambda above which a direction may be held: it can become unstable within a substep
SLACK = 1e-6  # relative residual of the complementarity that is accepted


class CentralFlow(NamedTuple):
    """A run of the central flow; entry t of every array is at time t, in steps of gradient descent.

    Attributes:
      thetas: [steps, n] if they were asked for, else [steps, 0].
      loss: [steps], on the flow.
      loss_predicted: [steps], the mean loss of gradient descent, ``L + tr(X) / eta``.
      eigenvalues: [steps, k], of the Hessian, the largest.
      held: [steps], directions with a positive variance.
      residual: [steps], the larger of the two residuals of the complementarity, worst substep.
      statuses: [steps]: CONVERGED; OUT_OF_DOMAIN where all k directions are at the edge, so k is too small; BUDGET_SPENT where an
        eigenvalue or the complementarity is not accurate; NOT_FINITE.
      status: CONVERGED where all are, else the first that is not.
      theta: [n], after the last step.
    """

    thetas: Float[Array, "steps m"]
    loss: Float[Array, " steps"]
    loss_predicted: Float[Array, " steps"]
    eigenvalues: Float[Array, "steps k"]
    held: Int[Array, " steps"]
    residual: Float[Array, " steps"]
    statuses: Int[Array, " steps"]
    status: Int[Array, ""]
    theta: Float[Array, " n"]


def central_flow(
    loss: Loss,
    params: Params,
    eta: float | Float[Array, ""],
    *,
    steps: int,
    k: int = 3,
    substeps: int = 4,
    iterations: int = 200,
    keep: bool = False,
    key: Array | None = None,
) -> CentralFlow:
    """Run the central flow of gradient descent.

    A substep costs one eigen-solve for k eigenpairs and k (k + 1) / 2 third derivatives.

    Args:
      loss: params -> scalar, three times differentiable.
      params: pytree of one floating point type.
      eta: step size of the gradient descent that is described.
      steps: of that gradient descent.
      k: eigenpairs followed, one more than are expected at the edge; 0 is plain gradient flow.
      substeps: Euler steps for one step of gradient descent.
      iterations: of the complementarity.
      keep: return the points of the flow too.
      key: as in `sharpness`.

    Raises:
      ValueError: steps, substeps, iterations, k or eta out of range, or as `sharpness`.
    """
    loss, start, _ = flatten(loss, params)
    n = start.shape[0]
    check_counts(steps=steps, substeps=substeps, iterations=iterations)
    check_step(eta)
    if not 0 <= k <= n:
        raise ValueError(f"k (eigenpairs) must be from 0 to the number of parameters, {n}: got {k}.")
    eta, dt = jnp.asarray(eta, start.dtype), 1 / substeps
    gradient = jax.value_and_grad(loss)
    rows, columns = np.triu_indices(k)

    def turning(theta: Array, vectors: Array) -> Array:
        """[k, k, n]: the gradients of ``u_a . H u_b``."""

        def one(a: Array, b: Array) -> Array:
            return jax.jvp(lambda q: jax.jvp(jax.grad(loss), (q,), (a,))[1], (theta,), (b,))[1]

        found = jax.vmap(one)(vectors[rows], vectors[columns])
        return jnp.zeros((k, k, n), theta.dtype).at[rows, columns].set(found).at[columns, rows].set(found)

    def substep(
        carry: tuple[Array, Sharpness | None], _: None
    ) -> tuple[tuple[Array, Sharpness | None], dict[str, Array]]:
        theta, old = carry
        value, slope = gradient(theta)
        entry = {"loss": value, "finite": jnp.isfinite(value) & jnp.all(jnp.isfinite(slope))}
        if old is None:
            zero = jnp.zeros((), theta.dtype)
            none = jnp.zeros((), jnp.int32)
            entry |= {"eigenvalues": jnp.zeros(0, theta.dtype), "spread": zero, "held": none, "residual": zero}
            return (theta - dt * eta * slope, None), entry | {"status": none + int(Status.CONVERGED)}
        eigen = sharpness(loss, theta, k, previous=old, key=key, keep=True, check=False)
        G = turning(theta, eigen.eigenvectors)
        A = jnp.diag(2 / eta - eigen.eigenvalues) + dt * eta * (G @ slope)
        B = dt * eta / 2 * jnp.einsum("abn,cdn->abcd", G, G)
        live = eta * eigen.eigenvalues > CRITICAL
        found = complementarity(A, B, live=live, iterations=iterations)
        move = -eta * slope - eta / 2 * jnp.einsum("ab,abn->n", found.X, G)
        residual = jnp.maximum(found.infeasible, found.gap)
        spread = jnp.trace(found.X)
        few = live[-1] & (k < n)
        status = jnp.where(few, Status.OUT_OF_DOMAIN, Status.CONVERGED)
        poor = (eigen.status != Status.CONVERGED) | ~(residual <= SLACK)
        entry |= {
            "eigenvalues": eigen.eigenvalues,
            "spread": spread,
            "held": jnp.sum(jnp.linalg.eigvalsh(found.X) > 1e-6 * spread).astype(jnp.int32),
            "residual": residual,
            "status": jnp.where(poor, Status.BUDGET_SPENT, status).astype(jnp.int32),
        }
        # Where only the curvature is infinite, loss and gradient do not tell.
        entry["finite"] &= eigen.status != Status.NOT_FINITE
        return (theta + dt * move, eigen), entry

    def step(carry: tuple[Array, Sharpness | None], _: None) -> tuple[tuple[Array, Sharpness | None], dict[str, Array]]:
        theta = carry[0]
        carry, seen = jax.lax.scan(substep, carry, None, length=substeps)
        entry = {name: seen[name][0] for name in ("loss", "eigenvalues", "held", "spread")}
        entry["residual"] = jnp.max(seen["residual"])
        bad = seen["status"] != Status.CONVERGED
        status = jnp.where(jnp.any(bad), seen["status"][jnp.argmax(bad)], Status.CONVERGED)
        entry["status"] = jnp.where(jnp.all(seen["finite"]), status, Status.NOT_FINITE).astype(jnp.int32)
        entry["thetas"] = theta if keep else theta[:0]
        return carry, entry

    first = sharpness(loss, start, k, key=key, keep=True) if k else None
    (theta, _), seen = jax.lax.scan(step, (start, first), None, length=steps)
    bad = seen["status"] != Status.CONVERGED
    status = jnp.where(jnp.any(bad), seen["status"][jnp.argmax(bad)], Status.CONVERGED)
    return CentralFlow(
        thetas=seen["thetas"],
        loss=seen["loss"],
        loss_predicted=seen["loss"] + seen["spread"] / eta,
        eigenvalues=seen["eigenvalues"],
        held=seen["held"],
        residual=seen["residual"],
        statuses=seen["status"],
        status=status.astype(jnp.int32),
        theta=theta,
    )
