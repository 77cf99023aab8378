"""Arrays with groups set to zero, and arrays without them: of parameters, gradients and optimiser states alike."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pruneft.network.families import Families, Family, Member
from pruneft.network.trees import map_arrays, name_of, named_arrays, take

Keep = Mapping[str, Any] | Sequence[Any]


def masks(families: Families, keep: Keep) -> dict[str, np.ndarray]:
    """Which groups of every family stay, as concrete boolean masks [n]; a family that is not named stays whole.

    Args:
      families: of the model.
      keep: {name: mask [n], or numbers of the groups that stay}, or one mask for each family.

    Raises:
      ValueError: a name is unknown, a mask has the wrong length, no group of a family would stay, or fewer than its ``min_width``.
    """
    given = keep if isinstance(keep, Mapping) else dict(zip(families.names, keep, strict=True))
    for name in given:
        if name not in families.names:
            raise ValueError(f"no family is called {name!r}: known are {', '.join(families.names)}.")
    found = {}
    for family in families:
        mask = np.ones(family.width, bool)
        if family.name in given:
            mask = _mask(family, given[family.name])
        if not mask.any():
            raise ValueError(
                f"every group of {family.name} would go, which cuts the network in two: keep at least one of {family.width}."
            )
        if mask.sum() < min(family.min_width, family.width):
            raise ValueError(
                f"{family.name} must keep at least {family.min_width} groups (its min_width): the mask keeps {mask.sum()}."
            )
        found[family.name] = mask
    return found


def _mask(family: Family, given: Any) -> np.ndarray:
    if isinstance(given, jax.core.Tracer):
        raise ValueError(
            f"the mask of {family.name} is traced: removal changes shapes, so it runs between jitted steps. Use zeroed() inside them."
        )
    array = np.asarray(given)
    if array.dtype != bool:
        if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer) or array.size != np.unique(array).size:
            raise ValueError(f"keep of {family.name} must be a boolean mask or distinct group numbers: got {array!r}.")
        if array.size and (array.min() < 0 or array.max() >= family.width):
            raise ValueError(
                f"{family.name} has groups 0 to {family.width - 1}: keep names {array.min()} to {array.max()}."
            )
        return np.isin(np.arange(family.width), array)
    if array.shape != (family.width,):
        raise ValueError(f"{family.name} has {family.width} groups: its mask has shape {array.shape}.")
    return array


def zeroed(params: Any, families: Families, keep: Mapping[str, Any], *, role: str | None = None) -> Any:
    """The tree with the groups that are not kept set to zero, shapes unchanged; safe under jit and vmap.

    Args:
      params: the parameters, or anything of their structure.
      families: of the model.
      keep: {name: boolean mask [n]}, traced or not; families that are not named stay.
      role: ``"producer"`` or ``"consumer"`` to touch those members alone.

    Raises:
      ValueError: as `leaf_masks`.
    """
    arrays = named_arrays(params)
    there = _traced(arrays, keep)
    masked = leaf_masks(families, keep, arrays, role=role)

    def apply(name: str, leaf: Any) -> Any:
        if name not in masked:
            return leaf
        made = leaf if there else np.asarray(leaf)
        for where in masked[name]:
            made = jnp.where(where, made, 0) if there else np.where(where, made, made.dtype.type(0))
        return made if there or isinstance(leaf, np.ndarray) else jnp.asarray(made)

    return map_arrays(apply, params)


def leaf_masks(
    families: Families, keep: Mapping[str, Any], arrays: Mapping[str, Any], *, role: str | None = None
) -> dict[str, list[Any]]:
    """For every array with groups the masks that say what stays, one for each family and axis, shaped to broadcast against it.

    Arguments as for `zeroed`; on the host where nothing is traced, because on the device every shape would be a program to compile.

    Raises:
      ValueError: a name is unknown, or a mask is not boolean or has the wrong length.
    """
    for name, given in keep.items():
        if name not in families.names:
            raise ValueError(f"no family is called {name!r}: known are {', '.join(families.names)}.")
        if jnp.shape(given) != (families[name].width,) or jnp.result_type(given) != jnp.bool_:
            raise ValueError(
                f"{name} has {families[name].width} groups: expected a boolean mask of that length, got "
                f"{jnp.result_type(given)} of shape {jnp.shape(given)}."
            )
    there = _traced(arrays, keep)
    found: dict[str, list[Any]] = {}
    for family in families:
        if family.name not in keep:
            continue
        mask: Any = jnp.asarray(keep[family.name], jnp.bool_) if there else np.asarray(keep[family.name], bool)
        for member in family.members:
            if role not in (None, member.role):
                continue
            shape = arrays[member.path].shape
            place = member.spread(shape[member.axis])
            # A gather and not a scatter, which XLA does one by one on a CPU.
            stays = mask if place is None else (jnp if there else np).append(mask, True)[place]
            around = [-1 if axis == member.axis else 1 for axis in range(len(shape))]
            found.setdefault(member.path, []).append(stays.reshape(around))
    return found


def _traced(arrays: Mapping[str, Any], keep: Mapping[str, Any]) -> bool:
    return any(isinstance(leaf, jax.core.Tracer) for leaf in (*arrays.values(), *jax.tree.leaves(dict(keep))))


def staying(families: Families, kept: Mapping[str, np.ndarray]) -> dict[tuple[str, int], np.ndarray]:
    """Coordinates that stay, of every (path, axis) that loses some."""
    gone: dict[tuple[str, int], list[np.ndarray]] = {}
    for family in families:
        for member in family.members:
            gone.setdefault((member.path, member.axis), []).append(member.indices[~kept[family.name]].reshape(-1))
    found = {}
    for (path, axis), parts in gone.items():
        lost = np.concatenate(parts)
        if lost.size:
            found[path, axis] = np.setdiff1d(np.arange(families.shapes[path][axis]), lost)
    return found


def sliced(tree: Any, stays: Mapping[tuple[str, int], np.ndarray]) -> Any:
    """The tree with smaller arrays."""

    def cut(name: str, leaf: Any) -> Any:
        for (path, axis), indices in stays.items():
            if path == name:
                leaf = take(leaf, indices, axis)
        return leaf

    return map_arrays(cut, tree)


def sliced_state(state: Any, families: Families, stays: Mapping[tuple[str, int], np.ndarray]) -> Any:
    """An optimiser's state with the arrays that belong to parameters sliced as these are.

    An array belongs to the parameter whose name its path ends with; a copy of another shape cannot be sliced.

    Raises:
      ValueError: an array of the state belongs to a parameter that gets smaller, but has another shape than it.
    """
    touched = {path for path, _ in stays}

    def cut(path: tuple[Any, ...], leaf: Any) -> Any:
        if not hasattr(leaf, "shape") or math.prod(leaf.shape) <= 1:
            return leaf
        name = name_of(path)
        owner = max((p for p in families.shapes if name == p or name.endswith("/" + p)), key=len, default=None)
        if owner not in touched:
            return leaf
        if tuple(leaf.shape) != families.shapes[owner]:
            raise ValueError(
                f"the optimiser's {name} has shape {tuple(leaf.shape)}, and its parameter {families.shapes[owner]}: it cannot be "
                "sliced. Initialise the optimiser anew on the parameters that remove() returns."
            )
        for (other, axis), indices in stays.items():
            if other == owner:
                leaf = take(leaf, indices, axis)
        return leaf

    return jax.tree_util.tree_map_with_path(cut, state)


def smaller(
    families: Families, kept: Mapping[str, np.ndarray], stays: Mapping[tuple[str, int], np.ndarray]
) -> Families:
    """The families of the model after removal: renumbered, original widths remembered."""
    shapes = {name: list(shape) for name, shape in families.shapes.items()}
    for (path, axis), indices in stays.items():
        shapes[path][axis] = indices.size

    def renumber(family: Family, member: Member) -> Member:
        indices = member.indices[kept[family.name]]
        if (member.path, member.axis) in stays:
            indices = np.searchsorted(stays[member.path, member.axis], indices)
        return dataclasses.replace(member, indices=indices)

    items = [
        dataclasses.replace(
            family,
            width=int(kept[family.name].sum()),
            members=tuple(renumber(family, member) for member in family.members),
        )
        for family in families
    ]
    return families.replace(items, shapes={name: tuple(shape) for name, shape in shapes.items()})
