"""What criteria compute for groups: sums over their members, products with the Hessian, and which numbers belong to a group."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from pruneft.network.families import Families, Family, Member
from pruneft.network.trees import named_arrays, with_arrays

Loss = Callable[[Any, Any], Float[Array, ""]]
Scores = dict[str, Float[Array, " n"]]
STATISTICS = r"(^|/)(running_)?(mean|var)$"  # running averages of batch normalisation: no weights


def floating(params: Any) -> tuple[dict[str, Array], Callable[[Any], Any]]:
    """The arrays that can be differentiated by, and how they go back into the parameters."""
    floats = {name: leaf for name, leaf in named_arrays(params).items() if jnp.issubdtype(leaf.dtype, jnp.floating)}
    return floats, lambda weights: with_arrays(params, weights)


def product(first: dict[str, Array], second: dict[str, Array]) -> dict[str, Array]:
    """Entry by entry."""
    return {name: leaf * second[name] for name, leaf in first.items()}


class Groups:
    """Sums over groups, of the members that count: ``chosen`` is ``"all"`` or ``"producers"``, and none of ``beside``."""

    def __init__(self, families: Families, chosen: str, statistics: str, beside: frozenset[str]) -> None:
        self.families = families
        self.members: dict[str, list[Member]] = {}
        for family in families:
            some = family.members if chosen == "all" else family.producers
            some = tuple(m for m in some if m.path not in beside)
            self.members[family.name] = [m for m in some if not (statistics and re.search(statistics, m.path))]

    def sums(self, values: Any) -> Scores:
        """Of numbers with the shapes of the parameters."""
        arrays = named_arrays(values)
        found = {}
        for family in self.families:
            total: Any = 0
            for member in self.members[family.name]:
                leaf = arrays[member.path]
                along = jnp.sum(leaf, axis=tuple(axis for axis in range(leaf.ndim) if axis != member.axis))
                total = total + (along if member.spread(along.size) is None else jnp.sum(along[member.indices], axis=1))
            found[family.name] = total if self.members[family.name] else jnp.zeros(family.width)
        return found

    def size(self, family: Family, params: Any) -> int:
        """Numbers in one group."""
        arrays = named_arrays(params)
        return sum(
            member.indices.shape[1] * arrays[member.path].size // arrays[member.path].shape[member.axis]
            for member in self.members[family.name]
        )

    def fisher(self, value: Loss, floats: dict[str, Array], batch: Any) -> Scores:
        """Half the mean over samples of the square of the sum of weights times slopes."""

        def of(sample: Any) -> Scores:
            slope = jax.grad(value)(floats, jax.tree.map(lambda leaf: leaf[None], sample))
            return {name: total**2 for name, total in self.sums(product(floats, slope)).items()}

        # One sample after the other: gradients of all at once would be as many copies of the model.
        return {name: jnp.mean(each, axis=0) / 2 for name, each in jax.lax.map(of, batch).items()}

    def diagonal(self, value: Loss, floats: dict[str, Array], batch: Any, key: Any, probes: int) -> Scores:
        """Half the sum of squared weights times the Hessian's diagonal, by probes of random signs."""

        def of(key: Array) -> Scores:
            keys = jax.random.split(key, len(floats))
            sign = {
                n: jax.random.rademacher(k, w.shape, w.dtype) for k, (n, w) in zip(keys, floats.items(), strict=True)
            }
            curved = hessian_times(value, floats, batch, sign)
            return self.sums({name: sign[name] * curved[name] * leaf**2 for name, leaf in floats.items()})

        drawn = jax.lax.map(of, jax.random.split(key, probes))
        return {name: jnp.mean(each, axis=0) / 2 for name, each in drawn.items()}

    def mask(self, family: Family, floats: dict[str, Array]) -> Array:
        """Of all numbers in one row, which belong to each group, boolean [n, numbers]."""

        def row(group: Array) -> Array:
            marked = {name: jnp.zeros(leaf.shape, jnp.bool_) for name, leaf in floats.items()}
            for member in self.members[family.name]:
                where = (slice(None),) * member.axis + (jnp.asarray(member.indices)[group],)
                marked[member.path] = marked[member.path].at[where].set(True)
            return ravel_pytree(marked)[0]

        return jax.vmap(row)(jnp.arange(family.width))

    def hessian(self, value: Loss, floats: dict[str, Array], batch: Any) -> Scores:
        """Half the quadratic form of each group."""
        flat, back = ravel_pytree(floats)

        def of(mask: Array) -> Array:
            part = jnp.where(mask, flat, 0)
            return jnp.vdot(part, ravel_pytree(hessian_times(value, floats, batch, back(part)))[0]) / 2

        return {family.name: jax.lax.map(of, self.mask(family, floats)) for family in self.families}


def hessian_times(value: Loss, floats: dict[str, Array], batch: Any, direction: dict[str, Array]) -> dict[str, Array]:
    """The Hessian times a direction."""
    curved: dict[str, Array] = jax.jvp(lambda weights: jax.grad(value)(weights, batch), (floats,), (direction,))[1]
    return curved
