"""How much each group matters: norms, first and second order estimates of what its removal costs, and chance.

Every criterion gives {family: scores [n]}, larger for what should stay, by `scores`. All are pure and safe under jit and vmap, but
for ``"obs"``, which wants a Hessian that fits into memory.

After fine-tuning the criteria are close to one another, and on a converged network those that use gradients need not beat chance, because
the gradient is nearly zero; how long one fine-tunes matters more. On the digits, a dense network with half, a quarter and a tenth of its
units, after fine-tuning: norm 98.1, 97.8, 95.8 percent, chance 97.9, 97.4, 94.9 (four seeds, standard deviation about 1). Always compare
with ``"random"`` and with a small network trained from scratch, as ``pruneft reproduce network`` does.

Source: Molchanov et al., arXiv:1611.06440 and arXiv:1906.10771 (Taylor, Fisher); LeCun, Denker, Solla (1990) (OBD); Hassibi, Stork
(1993) (OBS); the forms for groups are derived (ours).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from pruneft.network.families import Families, Family, Member
from pruneft.network.trees import kept_beside, map_arrays, named_arrays, with_arrays

Loss = Callable[[Any, Any], Float[Array, ""]]
Scores = dict[str, Float[Array, " n"]]
STATISTICS = r"(^|/)(running_)?(mean|var)$"  # running averages of batch normalisation: no weights
CRITERIA = ("norm", "normalised", "taylor", "fisher", "obd", "hessian", "obs", "random")
_MOST = 6000  # numbers whose Hessian is still made whole


def scores(
    criterion: str,
    params: Any,
    families: Families,
    *,
    loss: Loss | None = None,
    batch: Any = None,
    key: Array | None = None,
    power: int = 2,
    members: str | None = None,
    statistics: str = STATISTICS,
    damping: float = 1e-4,
    probes: int = 16,
) -> Scores:
    """A score for every group of every family.

    Args:
      criterion: ``"norm"`` ||w_g||; ``"normalised"`` the same over the root of the number of entries; ``"taylor"`` |sum w_i dL/dw_i|;
        ``"fisher"`` half the mean over samples of the square of that sum; ``"obd"`` half the sum of h_ii w_i^2, the diagonal of the
        Hessian by Hutchinson's probes; ``"hessian"`` half w_g^T H_gg w_g; ``"obs"`` half w_g^T ([H^-1]_gg)^-1 w_g; ``"random"``.
      params: the parameters.
      families: of the model.
      loss: (params, batch) -> mean loss over the samples of the batch; not for norms and chance.
      batch: pytree whose leaves have the samples along their first axis.
      key: for ``"random"`` and ``"obd"``.
      power: of the norm, 1 or 2.
      members: which count, ``"all"`` or ``"producers"``; all for norms, producers for the others, whose sums over producers and
        over consumers estimate the same.
      statistics: regular expression of paths that count for nothing, as an `equinox.nn.State` never does.
      damping: mu in H + mu I, ``"obs"`` only. probes: of the diagonal.

    Raises:
      ValueError: the criterion is unknown, or lacks loss, batch or key; a Hessian would be too large.
    """
    if criterion not in CRITERIA:
        raise ValueError(f"unknown criterion {criterion!r}: known are {', '.join(CRITERIA)}.")
    if power not in (1, 2):
        raise ValueError(f"power of the norm must be 1 or 2: got {power!r}.")
    if members not in (None, "all", "producers"):
        raise ValueError(f"members must be 'all' or 'producers': got {members!r}.")
    if criterion not in ("norm", "normalised", "random") and (loss is None or batch is None):
        raise ValueError(f"the criterion {criterion!r} needs loss and batch.")
    if criterion in ("random", "obd") and key is None:
        raise ValueError(f"the criterion {criterion!r} draws: give it a key.")
    chosen = members or ("all" if criterion in ("norm", "normalised") else "producers")
    groups = Groups(families, chosen, statistics, kept_beside(params))
    if criterion == "random":
        assert key is not None
        return {f.name: jax.random.uniform(jax.random.fold_in(key, i), (f.width,)) for i, f in enumerate(families)}
    if criterion in ("norm", "normalised"):
        found = groups.sums(map_arrays(lambda _, leaf: jnp.abs(leaf) ** power, params))
        # A root whose slope at zero would be infinite is never differentiated here.
        norms = {name: total if power == 1 else jnp.sqrt(total) for name, total in found.items()}
        if criterion == "norm":
            return norms
        return {f.name: norms[f.name] / groups.size(f, params) ** (1 / power) for f in families}
    assert loss is not None
    floats, whole = _floating(params)

    def value(weights: Any, samples: Any) -> Array:
        return loss(whole(weights), samples)

    if criterion == "taylor":
        slope = jax.grad(value)(floats, batch)
        return {name: jnp.abs(total) for name, total in groups.sums(_product(floats, slope)).items()}
    if criterion == "fisher":
        return groups.fisher(value, floats, batch)
    if criterion == "obd":
        return groups.diagonal(value, floats, batch, key, probes)
    if criterion == "hessian":
        return groups.hessian(value, floats, batch)
    return groups.surgeon(value, floats, batch, damping)


def obs_update(
    params: Any, families: Families, keep: dict[str, Any], *, loss: Loss, batch: Any, damping: float = 1e-4
) -> Any:
    """The parameters with all removed producers at zero and the others moved so that, to second order, the loss rises least.

    dw = -H^-1[:, G] ([H^-1]_GG)^-1 w_G, with H + damping I in place of H; G are the entries of all groups that are not kept. Consumers
    of removed groups are moved too, and go with them. Arguments as for `scores`.

    Raises:
      ValueError: the Hessian would be too large.
    """
    groups = Groups(families, "producers", STATISTICS, kept_beside(params))
    floats, whole = _floating(params)
    flat, back = ravel_pytree(floats)
    inverse = _inverse(lambda weights, samples: loss(whole(weights), samples), floats, batch, damping)
    marked = [groups.mask(f, floats)[~jnp.asarray(keep[f.name], jnp.bool_)] for f in families if f.name in keep]
    gone = jnp.flatnonzero(jnp.any(jnp.concatenate(marked), axis=0))
    moved = flat - inverse[:, gone] @ jnp.linalg.solve(inverse[jnp.ix_(gone, gone)], flat[gone])
    return whole(back(moved.at[gone].set(0)))


def _floating(params: Any) -> tuple[dict[str, Array], Callable[[Any], Any]]:
    """The arrays that can be differentiated by, and how they go back into the parameters."""
    floats = {name: leaf for name, leaf in named_arrays(params).items() if jnp.issubdtype(leaf.dtype, jnp.floating)}
    return floats, lambda weights: with_arrays(params, weights)


def _product(first: dict[str, Array], second: dict[str, Array]) -> dict[str, Array]:
    return {name: leaf * second[name] for name, leaf in first.items()}


def _inverse(value: Loss, floats: dict[str, Array], batch: Any, damping: float) -> Array:
    flat, back = ravel_pytree(floats)
    if flat.size > _MOST:
        raise ValueError(
            f"the Hessian of {flat.size} numbers is too large to invert (at most {_MOST}): use 'hessian', 'obd' or 'fisher'."
        )
    hessian = jax.hessian(lambda weights: value(back(weights), batch))(flat)
    return jnp.linalg.inv(hessian + damping * jnp.eye(flat.size, dtype=flat.dtype))


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
            return {name: total**2 for name, total in self.sums(_product(floats, slope)).items()}

        # One sample after the other: gradients of all at once would be as many copies of the model.
        return {name: jnp.mean(each, axis=0) / 2 for name, each in jax.lax.map(of, batch).items()}

    def diagonal(self, value: Loss, floats: dict[str, Array], batch: Any, key: Any, probes: int) -> Scores:
        """Half the sum of squared weights times the Hessian's diagonal, by probes of random signs."""

        def of(key: Array) -> Scores:
            keys = jax.random.split(key, len(floats))
            sign = {
                n: jax.random.rademacher(k, w.shape, w.dtype) for k, (n, w) in zip(keys, floats.items(), strict=True)
            }
            curved = _curvature(value, floats, batch, sign)
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
            return jnp.vdot(part, ravel_pytree(_curvature(value, floats, batch, back(part)))[0]) / 2

        return {family.name: jax.lax.map(of, self.mask(family, floats)) for family in self.families}

    def surgeon(self, value: Loss, floats: dict[str, Array], batch: Any, damping: float) -> Scores:
        """Half the loss that the best update of all other numbers leaves."""
        flat, _ = ravel_pytree(floats)
        inverse = _inverse(value, floats, batch, damping)
        found = {}
        for family in self.families:
            rows = self.mask(family, floats)
            size = self.size(family, floats)

            def of(mask: Array, size: int = size) -> Array:
                mine = jnp.flatnonzero(mask, size=size)
                return flat[mine] @ jnp.linalg.solve(inverse[jnp.ix_(mine, mine)], flat[mine]) / 2

            found[family.name] = jax.lax.map(of, rows)
        return found


def _curvature(value: Loss, floats: dict[str, Array], batch: Any, direction: dict[str, Array]) -> dict[str, Array]:
    """The Hessian times a direction."""
    curved: dict[str, Array] = jax.jvp(lambda weights: jax.grad(value)(weights, batch), (floats,), (direction,))[1]
    return curved
