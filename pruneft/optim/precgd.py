"""Preconditioned gradient descent whose damping falls with the loss: for factors with more columns than rank."""

from __future__ import annotations

from typing import Any, Literal

import jax.numpy as jnp
import optax

from pruneft.optim.factor import check_factors, column_gram, map_factors, solve_right


def scale_by_precgd(
    by: Literal["loss", "gradient"] = "loss", scale: float = 1.0
) -> optax.GradientTransformationExtraArgs:
    """Gradient times ``(UᵀU + eta I)^{-1}`` with eta the size of what is left to fit; see `precgd`."""
    if by not in ("loss", "gradient"):
        raise ValueError(f"the damping goes by 'loss' or by 'gradient': got {by!r}.")

    def init(params: Any) -> optax.EmptyState:
        check_factors(params)
        return optax.EmptyState()

    def update(
        updates: Any, state: optax.EmptyState, params: Any = None, *, value: Any = None, **_: Any
    ) -> tuple[Any, optax.EmptyState]:
        if by == "loss" and value is None:
            raise ValueError(
                "damping by the loss needs it: call update(gradient, state, params, value=loss), one value per matrix of a "
                "stack, or make the transformation with by='gradient'."
            )

        def precondition(g: Any, factor: Any) -> Any:
            if by == "loss":
                damping = jnp.sqrt(jnp.asarray(value).astype(g.dtype))
            else:
                damping = jnp.sqrt(jnp.maximum(jnp.sum(g * solve_right(g, column_gram(factor)), axis=(-1, -2)), 0))
            return solve_right(g, column_gram(factor, scale * damping))

        return map_factors(precondition, updates, params), state

    return optax.GradientTransformationExtraArgs(init, update)


def precgd(
    learning_rate: Any, by: Literal["loss", "gradient"] = "loss", scale: float = 1.0
) -> optax.GradientTransformationExtraArgs:
    r"""PrecGD: ScaledGD with a damping that falls with the loss.

    .. math:: U \leftarrow U - \eta \, \nabla f(U) \, (U^T U + s \sqrt{f(U)} I)^{-1}

    The loss is a squared error of ``U Uᵀ``, so its root is in squared units of U as the damping has to be. It keeps the step
    bounded where surplus columns go to zero, and vanishes at an exact fit, so convergence stays linear with more
    columns than rank. With noise the loss does not vanish and neither does the damping; see `noisy_precgd`.

    Args:
      learning_rate: eta; for the mean squared error, whose gradient is 4 G U, ``0.9 / (4 a)`` as for `scaled_gd`.
      by: ``"loss"`` is the published method and needs ``update(..., value=loss)``. ``"gradient"`` (ours) takes
        ``||grad f (UᵀU)^{-1/2}||_F`` in place of the loss' root, which needs nothing but the gradient: for 4 G U it is
        ``4 ||G P||_F`` with P the projection onto the columns.
      scale: s, multiplies the damping; 1/4 makes ``"gradient"`` the size of G.

    Source: published: Zhang, Fattahi and Zhang (2021), NeurIPS 34; ``by="gradient"`` is ours.
    """
    return optax.chain(scale_by_precgd(by, scale), optax.scale_by_learning_rate(learning_rate))
