r"""The central flow: where training goes on average at the edge of stability, with any number of unstable directions.

.. math::

    \dot\theta = -P^{-1} \left[ \nabla L + \tfrac12 \nabla \langle \nabla^2 L, \Sigma \rangle \right], \quad
    0 \preceq \Sigma \perp 2 P - \nabla^2 L \succeq 0

in units of time of one step, with Sigma the covariance of the oscillation: the positive semidefinite matrix that keeps the Hessian at
most 2 P. For gradient descent :math:`P = I / \eta`; for RMSProp :math:`P = (\mathrm{diag} \sqrt\nu + \epsilon) / \eta` moves too,

.. math:: \dot\nu = \frac{1 - \beta_2}{\beta_2} \left[ (\nabla L)^2 + 4 P^2 \mathrm{diag}\, \Sigma - \nu \right],

the mean square of the gradient, whose part along an oscillation at the edge is :math:`2 P \delta`. The mean loss of the training is
predicted as :math:`L + \langle P, \Sigma \rangle`.

Source: Cohen, Damian, Talwalkar, Kolter and Lee (2025), arXiv:2410.24206; the discretisation is ours.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from pruneft.dynamics.complementarity import complementarity
from pruneft.dynamics.curvature import Loss, Params, check_counts, check_step, flatten
from pruneft.dynamics.sharpness import Sharpness, sharpness
from pruneft.status import Status

# Eigenvalue, where P is one, above which a direction may be held: it can become unstable within a substep.
CRITICAL = 1.95
Carry = tuple[Array, Array, Sharpness | None]  # theta, nu, eigenpairs
SLACK = 1e-6  # relative residual of the complementarity that is accepted


class CentralFlow(NamedTuple):
    """A run of the central flow; entry t of every array is at time t, in steps of the training that it describes.

    Attributes:
      thetas: [steps, n] if they were asked for, else [steps, 0].
      loss: [steps], on the flow.
      loss_predicted: [steps], the mean loss of the training.
      eigenvalues: [steps, k], the largest: of the Hessian, whose edge is ``2 / eta``; for RMSProp of ``P^(-1/2) H P^(-1/2)``, whose
        edge is 2.
      held: [steps], directions with a positive variance.
      residual: [steps], the larger of the two residuals of the complementarity, worst substep.
      statuses: [steps]: CONVERGED; OUT_OF_DOMAIN where all k directions are at the edge, so k is too small; BUDGET_SPENT where an
        eigenvalue or the complementarity is not accurate; NOT_FINITE.
      status: CONVERGED where all are, else the first that is not.
      theta: [n], after the last step. moments: [n], nu then; [0] for gradient descent.
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
    moments: Float[Array, " m"]


class RMSProp(NamedTuple):
    """``nu <- beta2 nu + (1 - beta2) g^2``, then ``theta <- theta - eta g / (sqrt(nu) + eps)``: optax.rmsprop with ``eps_in_sqrt=False``.

    Attributes:
      beta2: decay of the mean square, in (0, 1).
      eps: in units of the gradient.
      moments: nu of the first step of the flow, the gradient there included, like the parameters; the squared gradient there if not
        given, which is what small steps lead to.
    """

    beta2: float
    eps: float = 1e-8
    moments: Any = None


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
    rmsprop: RMSProp | None = None,
) -> CentralFlow:
    """Run the central flow of gradient descent, or of RMSProp.

    A substep costs one eigen-solve for k eigenpairs and k (k + 1) / 2 third derivatives.

    Args:
      loss: params -> scalar, three times differentiable.
      params: pytree of one floating point type.
      eta: step size of the training that is described.
      steps: of that training.
      k: eigenpairs followed, one more than are expected at the edge; 0 is the flow without oscillation: gradient flow, or that of
        RMSProp.
      substeps: Euler steps for one step of the training.
      iterations: of the complementarity.
      keep: return the points of the flow too.
      key: as in `sharpness`.
      rmsprop: the constants of RMSProp; gradient descent if not given.

    Raises:
      ValueError: steps, substeps, iterations, k, eta, beta2 or eps out of range, moments of other shapes, or as `sharpness`.
    """
    loss, start, _ = flatten(loss, params)
    n = start.shape[0]
    check_counts(steps=steps, substeps=substeps, iterations=iterations)
    check_step(eta)
    if not 0 <= k <= n:
        raise ValueError(f"k (eigenpairs) must be from 0 to the number of parameters, {n}: got {k}.")
    eta, dt = jnp.asarray(eta, start.dtype), 1 / substeps
    gradient = jax.value_and_grad(loss)
    moments = _moments(rmsprop, params, gradient(start)[1])
    rows, columns = np.triu_indices(k)

    def scale(nu: Array) -> Array:
        """The root of P^-1: [n], or a number for gradient descent."""
        return jnp.sqrt(eta if rmsprop is None else eta / (jnp.sqrt(nu) + rmsprop.eps))

    def eigenpairs(theta: Array, root: Array, old: Sharpness | None) -> Sharpness:
        """Of the Hessian in the coordinates in which P is one."""
        return sharpness(lambda z: loss(root * z), theta / root, k, previous=old, key=key, keep=True, check=False)

    def turning(theta: Array, vectors: Array) -> Array:
        """[k, k, n]: the gradients of ``u_a . H u_b``."""

        def one(a: Array, b: Array) -> Array:
            return jax.jvp(lambda q: jax.jvp(jax.grad(loss), (q,), (a,))[1], (theta,), (b,))[1]

        found = jax.vmap(one)(vectors[rows], vectors[columns])
        return jnp.zeros((k, k, n), theta.dtype).at[rows, columns].set(found).at[columns, rows].set(found)

    def substep(carry: Carry, _: None) -> tuple[Carry, dict[str, Array]]:
        theta, nu, old = carry
        value, slope = gradient(theta)
        root = scale(nu)
        entry = {"loss": value, "finite": jnp.isfinite(value) & jnp.all(jnp.isfinite(slope))}
        pull, push = slope, slope**2 - nu if rmsprop else nu  # of theta and of nu
        if old is None:
            zero = jnp.zeros((), theta.dtype)
            none = jnp.zeros((), jnp.int32)
            entry |= {"eigenvalues": jnp.zeros(0, theta.dtype), "spread": zero, "held": none, "residual": zero}
            entry["status"] = none + int(Status.CONVERGED)
            eigen = None
        else:
            eigen = eigenpairs(theta, root, old)
            vectors = eigen.eigenvectors * root  # v_a P v_b = 1 where a = b
            G = turning(theta, vectors)
            # How fast 2 P - H rises between two directions: without an oscillation, and by one of unit variance.
            A = G @ (root**2 * slope)
            B = jnp.einsum("abn,cdn->abcd", G * root**2, G) / 2
            if rmsprop:
                # What never had a gradient, as the weights of a pixel that is always blank, takes no part.
                firm = jnp.where(nu > 0, _rate(rmsprop) / (eta * jnp.sqrt(jnp.where(nu > 0, nu, 1))), 0)
                pairs = jnp.einsum("an,bn->abn", vectors, vectors)
                A = A + pairs @ (firm * push)
                B = B + jnp.einsum("abn,cdn->abcd", pairs * 4 * firm / root**4, pairs)
            live = eigen.eigenvalues > CRITICAL
            found = complementarity(jnp.diag(2 - eigen.eigenvalues) + dt * A, dt * B, live=live, iterations=iterations)
            pull = slope + jnp.einsum("ab,abn->n", found.X, G) / 2
            if rmsprop:
                push = push + 4 / root**4 * jnp.einsum("ab,an,bn->n", found.X, vectors, vectors)
            residual = jnp.maximum(found.infeasible, found.gap)
            spread = jnp.trace(found.X)
            few = live[-1] & (k < n)
            status = jnp.where(few, Status.OUT_OF_DOMAIN, Status.CONVERGED)
            poor = (eigen.status != Status.CONVERGED) | ~(residual <= SLACK)
            entry |= {
                "eigenvalues": eigen.eigenvalues if rmsprop else eigen.eigenvalues / eta,
                "spread": spread,
                "held": jnp.sum(jnp.linalg.eigvalsh(found.X) > 1e-6 * spread).astype(jnp.int32),
                "residual": residual,
                "status": jnp.where(poor, Status.BUDGET_SPENT, status).astype(jnp.int32),
            }
            # Where only the curvature is infinite, loss and gradient do not tell.
            entry["finite"] &= eigen.status != Status.NOT_FINITE
        if rmsprop:
            nu = nu + dt * _rate(rmsprop) * push
        return (theta - dt * root**2 * pull, nu, eigen), entry

    def step(carry: Carry, _: None) -> tuple[Carry, dict[str, Array]]:
        theta = carry[0]
        carry, seen = jax.lax.scan(substep, carry, None, length=substeps)
        entry = {name: seen[name][0] for name in ("loss", "eigenvalues", "held", "spread")}
        entry["residual"] = jnp.max(seen["residual"])
        bad = seen["status"] != Status.CONVERGED
        status = jnp.where(jnp.any(bad), seen["status"][jnp.argmax(bad)], Status.CONVERGED)
        entry["status"] = jnp.where(jnp.all(seen["finite"]), status, Status.NOT_FINITE).astype(jnp.int32)
        entry["thetas"] = theta if keep else theta[:0]
        return carry, entry

    root = scale(moments)
    first = sharpness(lambda z: loss(root * z), start / root, k, key=key, keep=True) if k else None
    (theta, moments, _), seen = jax.lax.scan(step, (start, moments, first), None, length=steps)
    bad = seen["status"] != Status.CONVERGED
    status = jnp.where(jnp.any(bad), seen["status"][jnp.argmax(bad)], Status.CONVERGED)
    return CentralFlow(
        thetas=seen["thetas"],
        loss=seen["loss"],
        loss_predicted=seen["loss"] + seen["spread"],
        eigenvalues=seen["eigenvalues"],
        held=seen["held"],
        residual=seen["residual"],
        statuses=seen["status"],
        status=status.astype(jnp.int32),
        theta=theta,
        moments=moments,
    )


def _rate(rmsprop: RMSProp) -> float:
    """How fast nu follows, in units of one over a step.

    Paired with the parameters before the step, nu has seen their gradient already, so the rule is an implicit Euler step.
    """
    return (1 - rmsprop.beta2) / rmsprop.beta2


def _moments(rmsprop: RMSProp | None, params: Params, slope: Array) -> Array:
    """The second moments that a flow starts with, in one row.

    Raises:
      ValueError: they do not fit the parameters, or beta2 or eps is out of range.
    """
    if rmsprop is None:
        return slope[:0]
    if not 0 < rmsprop.beta2 < 1:
        raise ValueError(f"beta2 (decay of the mean square) must lie in (0, 1): got {rmsprop.beta2}.")
    if not rmsprop.eps >= 0:
        raise ValueError(f"eps must not be negative: got {rmsprop.eps}.")
    if rmsprop.moments is None:
        return slope**2
    if jax.tree.map(jnp.shape, rmsprop.moments) != jax.tree.map(jnp.shape, params):
        raise ValueError(
            f"moments must be like the parameters: expected shapes {jax.tree.map(jnp.shape, params)}, got "
            f"{jax.tree.map(jnp.shape, rmsprop.moments)}."
        )
    return ravel_pytree(rmsprop.moments)[0].astype(slope.dtype)
