"""Curvature of a loss over any pytree of parameters, without its Hessian: products, third derivative, traces.

The loss is to be twice differentiable along what is asked, three times for `sharpness_gradient`. With piecewise linear activations (ReLU)
the Hessian is that of the current linear piece: products and sharpness keep their meaning between kinks, the third derivative does not
see the kinks, so `sharpness_gradient` and all that is built on it (progressive sharpening, the constrained trajectory and the predicted
dynamics of `track`, the central flow, the orbit of period 2) lose theirs, and nothing here can tell.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

Loss = Callable[[Any], Float[Array, ""]]
Params = Any  # a pytree of floating point arrays


class Traces(NamedTuple):
    """Estimates from random products, each with its standard error.

    Attributes:
      trace, trace_error: of the Hessian.
      square, square_error: of its square, the squared Frobenius norm.
    """

    trace: Float[Array, ""]
    trace_error: Float[Array, ""]
    square: Float[Array, ""]
    square_error: Float[Array, ""]


def check_loss(loss: Loss | None, params: Params) -> int:
    """The number of parameters; without a loss only they are checked.

    Raises:
      ValueError: a leaf is no array of float32 or float64, the leaves differ in type, there are none, or the loss is no scalar.
    """
    leaves = jax.tree.leaves(params)
    for leaf in leaves:
        if not hasattr(leaf, "dtype"):
            raise ValueError(
                f"params: expected arrays, got a leaf {leaf!r}. Keep what is no array out and close the loss over it "
                "(equinox.partition, flax.nnx.split)."
            )
    types = {str(leaf.dtype) for leaf in leaves}
    if not leaves or sum(jnp.size(leaf) for leaf in leaves) == 0:
        raise ValueError("params: expected at least one number, got an empty pytree.")
    if not types <= {"float32", "float64"}:
        raise ValueError(
            f"params: expected leaves of float32 or float64, got {', '.join(sorted(types))}. Convert half precision, whose curvature is "
            "mostly rounding; keep integer leaves out and close the loss over them (equinox.partition, flax.nnx.split)."
        )
    if len(types) > 1:
        raise ValueError(
            f"params: expected leaves of one type, got {' and '.join(sorted(types))}. Convert them to one."
        )
    count = sum(int(jnp.size(leaf)) for leaf in leaves)
    if loss is None:
        return count
    value = jax.eval_shape(loss, params)
    if getattr(value, "shape", None) != () or not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(
            f"loss: expected a function from params to one real number, got {value}. Take the mean over the samples."
        )
    return count


def flatten(loss: Loss, params: Params) -> tuple[Loss, Float[Array, " n"], Callable[[Float[Array, " n"]], Params]]:
    """The loss over one vector, that vector, and the way back to a pytree.

    Raises:
      ValueError: as `check_loss`.
    """
    check_loss(loss, params)
    vector, back = ravel_pytree(params)
    return lambda flat: loss(back(flat)), vector, back


def check_step(eta: float | Array) -> None:
    """Refuse a step size that is none; a traced one is taken as it is.

    Raises:
      ValueError: it is a Python number that is not positive and finite.
    """
    if isinstance(eta, float | int) and not (eta > 0 and math.isfinite(eta)):
        raise ValueError(f"eta (step size) must be positive and finite: got {eta}.")


def check_counts(**counts: int) -> None:
    """Refuse what is no number of things.

    Raises:
      ValueError: one of them is no whole number of at least 1; the message names it.
    """
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1: got {value!r}.")


def hessian_product(loss: Loss, params: Params, vector: Params) -> Params:
    """The Hessian times a vector, a pytree like the parameters: a forward derivative over the gradient, about two gradients."""
    product: Params = jax.jvp(jax.grad(loss), (params,), (vector,))[1]
    return product


def sharpness_gradient(loss: Loss, params: Params, eigenvector: Params) -> Params:
    r"""Gradient of the sharpness, a pytree like the parameters, in units of sharpness per parameter.

    .. math:: \nabla S = D^3 L(u, u, \cdot) = \nabla_q \, u^\top \nabla^2 L(q) \, u

    at fixed ``u``, the unit eigenvector of the largest eigenvalue, which must be simple. Three nested derivatives, about four gradients.
    """

    def along(point: Params) -> Params:
        return hessian_product(loss, point, eigenvector)

    gradient: Params = jax.jvp(along, (params,), (eigenvector,))[1]
    return gradient


def midpoint(params: Params, following: Params) -> Params:
    """The mean of two iterates: where gradient descent oscillates, the sharpness there lacks the oscillation.

    Source: Cohen et al. (2025), arXiv:2410.24206.
    """
    return jax.tree.map(lambda a, b: (a + b) / 2, params, following)


def traces(loss: Loss, params: Params, key: Array, *, probes: int = 32) -> Traces:
    """Trace of the Hessian and of its square from products with random signs.

    Args:
      loss: params -> scalar.
      params: pytree of one floating point type.
      key: JAX key.
      probes: products, at least 2; the standard errors fall like its root.

    Raises:
      ValueError: as `check_loss`, or fewer than 2 probes.

    Source: Hutchinson (1990), doi:10.1080/03610919008812866.
    """
    if probes < 2:
        raise ValueError(f"probes must be at least 2, or there is no standard error: got {probes}.")
    loss, vector, _ = flatten(loss, params)

    def one(key: Array) -> tuple[Array, Array]:
        signs = jax.random.rademacher(key, vector.shape, vector.dtype)
        product = hessian_product(loss, vector, signs)
        return signs @ product, product @ product

    first, second = jax.lax.map(one, jax.random.split(key, probes))
    root = probes**0.5
    return Traces(jnp.mean(first), jnp.std(first, ddof=1) / root, jnp.mean(second), jnp.std(second, ddof=1) / root)
