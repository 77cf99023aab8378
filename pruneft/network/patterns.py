"""Families written down by hand: patterns of paths in place of a trace."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pruneft.network.families import Families, Family, Member, Role
from pruneft.network.trees import is_floating, named_arrays


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """Members of a family.

    Attributes:
      path: regular expression that the whole path must match (`re.fullmatch`).
      axis: that the groups lie along; negative from the end.
      role: ``"producer"`` or ``"consumer"``.
      offset: of the first coordinate of group 0, where the groups are a part of the axis, as behind a concatenation; None where
        they fill it.
      repeat: coordinates of a group.
      stride: between them; None for ``repeat`` neighbours, as of a head. After flattening [..., C] it is C.
    """

    path: str
    axis: int
    role: Role = "producer"
    offset: int | None = None
    repeat: int = 1
    stride: int | None = None


def families_of(
    params: Any,
    patterns: Mapping[str, Sequence[Pattern]],
    *,
    fn: Callable[..., Any] | None = None,
    inputs: Sequence[Any] = (),
    widths: Mapping[str, int] | None = None,
    round_to: int = 1,
    min_width: int = 1,
) -> Families:
    """The families that patterns describe.

    Args:
      params: any pytree with arrays.
      patterns: of each family, by its name.
      fn, inputs: the model and example inputs; with them, removal is traced and compared as for families that were found.
      widths: numbers of groups, where they do not follow from a member without offset.
      round_to, min_width: as for `groups`.

    Raises:
      ValueError: a pattern matches no array, names an axis that an array does not have or an array of whole numbers, two
        patterns give the same coordinates to different groups, or the widths of a family's members differ.
    """
    arrays = named_arrays(params)
    taken: dict[tuple[str, int], dict[int, str]] = {}
    found = []
    for name, rules in patterns.items():
        members, width = [], (widths or {}).get(name)
        for rule in rules:
            hits = [path for path in arrays if re.fullmatch(rule.path, path)]
            if not hits:
                raise ValueError(
                    f"family {name!r}: the pattern {rule.path!r} matches no array. Arrays are {', '.join(list(arrays)[:12])}."
                )
            for path in hits:
                axis, size = _axis(name, rule, path, arrays[path])
                if width is None:
                    width = (size - (rule.offset or 0)) // rule.repeat
                members.append(_member(name, rule, path, axis, size, width))
        if width is None:
            raise ValueError(f"family {name!r} has no pattern: give at least one.")
        for member in members:
            _claim(taken, name, member)
        found.append(
            Family(
                name=name,
                width=width,
                original=width,
                members=tuple(members),
                min_width=min_width,
                round_to=round_to,
            )
        )
    shapes = {path: tuple(leaf.shape) for path, leaf in arrays.items()}
    return Families(items=tuple(found), shapes=shapes, fn=fn, inputs=tuple(inputs))


def _axis(name: str, rule: Pattern, path: str, leaf: Any) -> tuple[int, int]:
    if not is_floating(leaf):
        raise ValueError(f"family {name!r}: {path} has dtype {leaf.dtype}, and only floating point arrays are pruned.")
    if not -leaf.ndim <= rule.axis < leaf.ndim:
        raise ValueError(f"family {name!r}: {path} has shape {tuple(leaf.shape)}, and so no axis {rule.axis}.")
    axis = rule.axis % leaf.ndim
    return axis, leaf.shape[axis]


def _member(name: str, rule: Pattern, path: str, axis: int, size: int, width: int) -> Member:
    along, across = (rule.repeat, 1) if rule.stride is None else (1, rule.stride)
    indices = (rule.offset or 0) + along * np.arange(width)[:, None] + across * np.arange(rule.repeat)
    if indices.max(initial=-1) >= size or (rule.offset is None and width * rule.repeat != size):
        raise ValueError(
            f"family {name!r}: {width} groups of {rule.repeat} from {rule.offset or 0} on do not fit axis {axis} of {path}, which has "
            f"length {size}. Correct repeat, stride or offset, or give widths={{{name!r}: ...}} and an offset."
        )
    return Member(path=path, axis=axis, indices=indices, role=rule.role)


def _claim(taken: dict[tuple[str, int], dict[int, str]], name: str, member: Member) -> None:
    mine = taken.setdefault((member.path, member.axis), {})
    flat = member.indices.reshape(-1).tolist()
    for coordinate in flat:
        if coordinate in mine:
            raise ValueError(
                f"two rules contradict: coordinate {coordinate} of axis {member.axis} of {member.path} is in {mine[coordinate]!r} "
                f"and again in {name!r}. Every coordinate belongs to one group."
            )
        mine[coordinate] = name
