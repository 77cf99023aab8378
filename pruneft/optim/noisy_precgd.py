"""Preconditioned gradient descent whose damping decays by itself: for noisy data, where the loss does not vanish."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from pruneft.optim.factor import check_factors, column_gram, map_factors, solve_right


class NoisyPrecGDState(NamedTuple):
    """What is carried.

    Attributes:
      damping: like the parameters, one number for every matrix: the damping of the next step.
      floor: likewise, what it decays to.
    """

    damping: Any
    floor: Any


def scale_by_noisy_precgd(decay: float = 0.9, start: float = 1.0, floor: float = 1e-8) -> optax.GradientTransformation:
    """Gradient times ``(UᵀU + eta_t I)^{-1}``, eta_t decaying geometrically to a floor; see `noisy_precgd`."""
    if not (0 < decay <= 1 and start > 0 and 0 <= floor <= start):
        raise ValueError(
            "the damping starts above its floor and decays by a factor between 0 and 1: "
            f"got decay={decay}, start={start}, floor={floor}."
        )

    def largest(factor: Any) -> Any:
        # Not `column_gram`, whose ones at zero columns are no eigenvalues of the problem.
        return jnp.linalg.eigvalsh(jnp.swapaxes(factor, -1, -2) @ factor)[..., -1]

    def init(params: Any) -> NoisyPrecGDState:
        check_factors(params)
        sizes = jax.tree.map(largest, params)
        damping, least = (optax.tree_utils.tree_scale(share, sizes) for share in (start, floor))
        return NoisyPrecGDState(damping, least)

    def update(updates: Any, state: NoisyPrecGDState, params: Any = None) -> tuple[Any, NoisyPrecGDState]:
        def precondition(g: Any, factor: Any, damping: Any) -> Any:
            return solve_right(g, column_gram(factor, damping))

        scaled = map_factors(precondition, updates, params, state.damping)
        damping = jax.tree.map(lambda now, least: jnp.maximum(decay * now, least), state.damping, state.floor)
        return scaled, state._replace(damping=damping)

    return optax.GradientTransformation(init, update)


def noisy_precgd(
    learning_rate: Any, decay: float = 0.9, start: float = 1.0, floor: float = 1e-8
) -> optax.GradientTransformation:
    r"""PrecGD for noisy data: the damping decays geometrically, whatever the loss does.

    .. math:: U \leftarrow U - \eta \, \nabla f(U) \, (U^T U + \eta_t I)^{-1}, \quad
              \eta_t = \max(q^t \eta_0, \eta_{min})

    Args:
      learning_rate: eta; for the mean squared error, whose gradient is 4 G U, ``0.9 / (4 a)`` as for `scaled_gd`.
      decay: q. It should fall no faster than the error does, or surplus columns are no longer damped.
      start, floor: eta_0 and its least value, as shares of the largest eigenvalue of ``U Uᵀ`` at ``init``.

    Raises:
      ValueError: ``decay`` is not in (0, 1], or the start is not positive, or the floor lies above it.

    Source: published: Zhang, Chiu and Zhang, arXiv:2305.17224; the constants are ours.
    """
    return optax.chain(scale_by_noisy_precgd(decay, start, floor), optax.scale_by_learning_rate(learning_rate))
