"""Gradient descent at the edge of stability beside its constrained trajectory and its prediction; where the edge is met.

`onset` runs gradient flow and says with which step size the edge is met, and where; `track` goes on from there.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pruneft.dynamics import constrained, predicted
from pruneft.dynamics.constrained import Domain, Point
from pruneft.dynamics.curvature import Loss, Params, check_counts, check_step, flatten
from pruneft.dynamics.sharpness import Sharpness, sharpness
from pruneft.status import Status

EULER = 0.3  # step of gradient flow, over the sharpness


class Onset(NamedTuple):
    """Where gradient flow meets the edge of a step size.

    Attributes:
      theta: [n], the first point with ``S >= 2 / eta`` while the sharpness rises; the last point where there is none.
      eta: ``2 / (f peak)``; infinite where the peak is not positive, and nothing limits the step.
      sharpness: [steps], of gradient flow.
      peak: the top of the largest rise of the sharpness above its lowest value before.
      steps: index of ``theta``.
      status: CONVERGED; BUDGET_SPENT where the sharpness was still rising at the last step, so the peak is not known; OUT_OF_DOMAIN where
        it never rises above rounding, or is nowhere positive, so that there is no edge to meet; NOT_FINITE.
    """

    theta: Float[Array, " n"]
    eta: Float[Array, ""]
    sharpness: Float[Array, " steps"]
    peak: Float[Array, ""]
    steps: Int[Array, ""]
    status: Int[Array, ""]


def onset(
    loss: Loss, params: Params, f: float | Float[Array, ""] = 0.97, *, steps: int = 2000, key: Array | None = None
) -> Onset:
    """The step size at which gradient descent spends ``1 / f - 1`` of the sharpness beyond the edge, and the point where it meets it.

    Gradient flow by Euler steps of 0.3 / S. The nearer f is to 1, the more the theory predicts: over 120 steps of matrix sensing (m = 25)
    6 of 24 instances stay in its `Domain` at f = .97 and none at .93, where eps is above .1; the generalised form has correlations of x
    of at least .99 in 24 and 23 of them, of y of at least .95 in 23 and 18.

    Args:
      loss: params -> scalar.
      params: pytree of one floating point type.
      f: share of the peak of the sharpness at which ``2 / eta`` lies, in (0, 1].
      steps: of gradient flow.
      key: as in `sharpness`.

    Raises:
      ValueError: f or steps out of range, or as `sharpness`.
    """
    check_counts(steps=steps)
    if isinstance(f, float | int) and not 0 < f <= 1:
        raise ValueError(f"f (share of the largest sharpness) must be above 0 and at most 1: got {f}.")
    loss, start, _ = flatten(loss, params)
    # A zero Hessian would give an infinite step.
    least = jnp.finfo(start.dtype).tiny ** 0.5

    def flow(carry: tuple[Array, Sharpness], _: None) -> tuple[tuple[Array, Sharpness], Array]:
        theta, old = carry
        eigen = sharpness(loss, theta, previous=old, key=key, keep=True, check=False)
        size = jnp.maximum(jnp.abs(eigen.eigenvalues[0]), least)
        return (theta - EULER / size * jax.grad(loss)(theta), eigen), eigen.eigenvalues[0]

    first = sharpness(loss, start, key=key, keep=True)
    _, seen = jax.lax.scan(flow, (start, first), None, length=steps)
    lowest = jax.lax.cummin(seen)
    top = jnp.argmax(seen - lowest).astype(jnp.int32)
    peak = seen[top]
    eta = jnp.where(peak > 0, 2 / (f * jnp.where(peak > 0, peak, 1)), jnp.inf)
    places = jnp.arange(steps, dtype=jnp.int32)
    # The rise that ends at the top begins where the value was last the lowest so far.
    begin = jnp.max(jnp.where((seen == lowest) & (places <= top), places, 0))
    met = (places >= begin) & (seen >= 2 / eta)
    at = jnp.where(jnp.any(met), jnp.argmax(met), steps - 1).astype(jnp.int32)

    def again(i: Array, theta: Array) -> Array:
        return theta - EULER / jnp.maximum(jnp.abs(seen[i]), least) * jax.grad(loss)(theta)

    theta = jax.lax.fori_loop(0, at, again, start)
    status = jnp.where(top == steps - 1, Status.BUDGET_SPENT, Status.CONVERGED)
    rise, rounding = peak - lowest[top], float(jnp.finfo(start.dtype).eps) ** 0.5
    status = jnp.where((peak > 0) & (rise > rounding * peak), status, Status.OUT_OF_DOMAIN)
    finite = jnp.all(jnp.isfinite(seen)) & jnp.all(jnp.isfinite(theta))
    return Onset(
        theta=theta,
        eta=eta,
        sharpness=seen,
        peak=peak,
        steps=at,
        status=jnp.where(finite, status, Status.NOT_FINITE).astype(jnp.int32),
    )


class Track(NamedTuple):
    """A run of gradient descent, its constrained trajectory and its prediction; entry t of every array is before step t.

    Attributes:
      loss, loss_constrained, loss_predicted: [steps], of gradient descent, of theta+, and predicted.
      sharpness, sharpness_constrained, sharpness_predicted: [steps], likewise.
      x, y: [steps], coordinates of gradient descent from theta+ along u and b; ``x_predicted``, ``y_predicted``.
      alpha, beta, delta, eps, share, second: [steps], as in `Point`, at theta+.
      distance: [steps], ``|theta - theta+|``; ``distance_predicted``: ``|theta - theta+ - v|``.
      tangency: [steps], ``|u . grad L| / |grad L|`` at theta+, which is to be 0.
      statuses: [steps], `constrained.verdict` of each; NOT_FINITE where gradient descent has diverged.
      status: CONVERGED where all of them are, else the first that is not.
      inside: steps before that one.
      eta: step size.
      theta, constrained: [n], after the last step.
    """

    loss: Float[Array, " steps"]
    loss_constrained: Float[Array, " steps"]
    loss_predicted: Float[Array, " steps"]
    sharpness: Float[Array, " steps"]
    sharpness_constrained: Float[Array, " steps"]
    sharpness_predicted: Float[Array, " steps"]
    x: Float[Array, " steps"]
    x_predicted: Float[Array, " steps"]
    y: Float[Array, " steps"]
    y_predicted: Float[Array, " steps"]
    alpha: Float[Array, " steps"]
    beta: Float[Array, " steps"]
    delta: Float[Array, " steps"]
    eps: Float[Array, " steps"]
    share: Float[Array, " steps"]
    second: Float[Array, " steps"]
    distance: Float[Array, " steps"]
    distance_predicted: Float[Array, " steps"]
    tangency: Float[Array, " steps"]
    statuses: Int[Array, " steps"]
    status: Int[Array, ""]
    inside: Int[Array, ""]
    eta: Float[Array, ""]
    theta: Float[Array, " n"]
    constrained: Float[Array, " n"]


def track(
    loss: Loss,
    params: Params,
    eta: float | Float[Array, ""],
    *,
    steps: int,
    kick: float | Float[Array, ""] = 0.7,
    form: str = "generalised",
    sweeps: int = 3,
    domain: Domain = Domain(),
    key: Array | None = None,
) -> Track:
    """Run gradient descent beside its constrained trajectory and its prediction.

    The constrained trajectory begins at the projection of ``params``, gradient descent ``kick delta`` along u from it. A step costs
    ``sweeps + 2`` eigen-solves. Under jit and vmap; vectors are not kept, so memory does not grow with ``steps`` times parameters.

    Args:
      loss: params -> scalar, three times differentiable.
      params: pytree of one floating point type, near the edge: of `onset`, if its status is good. Use float64, for the third derivative and
        the projection.
      eta: step size.
      steps: how many.
      kick: in units of delta; 0 starts at rest, and then the time of the first growth is not predicted.
      form: of the prediction, one of `predicted.FORMS`; the generalised one was the best on every problem tried.
      sweeps: of each projection.
      domain: where the prediction is believed; the run goes on outside, and says so in ``statuses``.
      key: as in `sharpness`.

    Raises:
      ValueError: steps below 1, a step size that is not positive and finite, an unknown form, or as `sharpness`.
    """
    predicted.check_form(form)
    check_counts(steps=steps)
    check_step(eta)
    loss, start, _ = flatten(loss, params)
    eta = jnp.asarray(eta, start.dtype)
    held = constrained.project(loss, start, eta, sweeps=sweeps, key=key)
    out = predicted.kicked(held, jnp.asarray(kick, start.dtype))

    def step(
        carry: tuple[Array, Sharpness, Point, Array], _: None
    ) -> tuple[tuple[Array, Sharpness, Point, Array], dict[str, Array]]:
        theta, old, held, v = carry
        eigen = sharpness(loss, theta, previous=old, key=key, keep=True, check=False)
        value, gradient = jax.value_and_grad(loss)(theta)
        said = predicted.predict(held, v, eta)
        away = theta - held.theta
        status = constrained.verdict(held, eta, domain)
        finite = jnp.isfinite(value) & jnp.isfinite(eigen.eigenvalues[0]) & jnp.all(jnp.isfinite(v))
        entry = {
            "loss": value,
            "loss_constrained": held.loss,
            "loss_predicted": said.loss,
            "sharpness": jnp.where(eigen.status == Status.CONVERGED, eigen.eigenvalues[0], jnp.nan),
            "sharpness_constrained": held.sharpness,
            "sharpness_predicted": said.sharpness,
            "x": held.u @ away,
            "x_predicted": said.x,
            "y": held.b @ away,
            "y_predicted": said.y,
            **{name: getattr(held, name) for name in ("alpha", "beta", "delta", "eps", "share", "second")},
            "distance": jnp.linalg.norm(away),
            "distance_predicted": jnp.linalg.norm(away - v),
            "tangency": jnp.abs(held.u @ held.gradient) / jnp.linalg.norm(held.gradient),
            "statuses": jnp.where(finite, status, Status.NOT_FINITE).astype(jnp.int32),
        }
        following = constrained.advance(loss, held, eta, sweeps=sweeps, key=key)
        v = predicted.step(form, loss, held, following, v, eta)
        return (theta - eta * gradient, eigen, following, v), entry

    first = held.eigen._replace(
        eigenvalues=held.eigen.eigenvalues[:1],
        eigenvectors=held.eigen.eigenvectors[:1],
        residuals=held.eigen.residuals[:1],
    )
    (theta, _, held, _), seen = jax.lax.scan(step, (held.theta + out, first, held, out), None, length=steps)
    bad = seen["statuses"] != Status.CONVERGED
    at = jnp.where(jnp.any(bad), jnp.argmax(bad), steps).astype(jnp.int32)
    status = jnp.where(jnp.any(bad), seen["statuses"][jnp.minimum(at, steps - 1)], Status.CONVERGED)
    return Track(**seen, status=status.astype(jnp.int32), inside=at, eta=eta, theta=theta, constrained=held.theta)


class Agreement(NamedTuple):
    """How well a run followed its prediction.

    Attributes:
      x, y, sharpness, loss: correlations over the steps; ``loss`` is that of the excess above the constrained trajectory.
      amplitude: mean of x^2 over the mean of delta^2, 1 in theory.
      edge: mean of eta times the sharpness, 2 in theory.
      miss: ``|v - v*| / |v*|``, root mean squares over the steps.
      steps: that were taken into account.
    """

    x: Float[Array, ""]
    y: Float[Array, ""]
    sharpness: Float[Array, ""]
    loss: Float[Array, ""]
    amplitude: Float[Array, ""]
    edge: Float[Array, ""]
    miss: Float[Array, ""]
    steps: Int[Array, ""]


def agreement(track: Track, *, steps: int | Int[Array, ""] | None = None) -> Agreement:
    """Correlations and averages of the first ``steps`` steps of a run; those within the domain of the theory if not given."""
    steps = jnp.asarray(track.inside if steps is None else steps, jnp.int32)
    weight = (jnp.arange(track.x.shape[0], dtype=jnp.int32) < steps).astype(track.x.dtype)

    def mean(values: Array) -> Array:
        return jnp.sum(jnp.where(weight > 0, values, 0)) / jnp.sum(weight)

    def correlation(a: Array, b: Array) -> Array:
        a, b = a - mean(a), b - mean(b)
        return mean(a * b) / jnp.sqrt(mean(a * a) * mean(b * b))

    return Agreement(
        x=correlation(track.x, track.x_predicted),
        y=correlation(track.y, track.y_predicted),
        sharpness=correlation(track.sharpness, track.sharpness_predicted),
        loss=correlation(track.loss - track.loss_constrained, track.loss_predicted - track.loss_constrained),
        amplitude=mean(track.x**2) / mean(track.delta**2),
        edge=mean(track.eta * track.sharpness),
        miss=jnp.sqrt(mean(track.distance_predicted**2) / mean(track.distance**2)),
        steps=steps,
    )
