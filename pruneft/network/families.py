"""Families of coupled coordinates: which slices of which arrays go together when one unit of a network goes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from pruneft.network.trees import named_arrays

Role = Literal["producer", "consumer"]


@dataclass(frozen=True, kw_only=True)
class Member:
    """One axis of one array that belongs to a family.

    Attributes:
      path: name of the array.
      axis: counted from the front.
      indices: [n, r] int, the coordinates of each group: r > 1 where one unit has several, as a channel has after flattening.
      role: ``"producer"`` where the array makes the unit (kernel on its output axis, bias, scale), ``"consumer"`` where it is
        contracted with it.
    """

    path: str
    axis: int
    indices: np.ndarray
    role: Role

    def spread(self, size: int) -> np.ndarray | None:
        """For every coordinate of an axis of this size the number of its group, n where it has none; None if coordinate j is group j."""
        count = self.indices.shape[0]
        if size == count and np.array_equal(self.indices[:, 0], np.arange(count)):
            return None
        found = np.full(size, count, np.int32)
        found[self.indices] = np.arange(count, dtype=np.int32)[:, None]
        return found

    def __repr__(self) -> str:
        each = f" x {self.indices.shape[1]}" if self.indices.shape[1] > 1 else ""
        return f"{self.path}[{self.axis}]{each} {self.role}"


@dataclass(frozen=True, kw_only=True)
class Family:
    """Groups that can be removed one by one, each in all members at once.

    Attributes:
      name: of the array that makes most of it, and its axis.
      width: number of groups now.
      original: when the network was first looked at: fractions are of this.
      members: what a group consists of.
      exact: whether removing a group of zeros leaves the function as it is; ``remarks`` says what speaks against it.
      remarks: why it is not exact.
      min_width: fewer are never kept. round_to: widths are multiples of this, as far as the original width allows.
    """

    name: str
    width: int
    original: int
    members: tuple[Member, ...]
    exact: bool = True
    remarks: tuple[str, ...] = ()
    min_width: int = 1
    round_to: int = 1

    @property
    def producers(self) -> tuple[Member, ...]:
        """The members that make the units."""
        return tuple(member for member in self.members if member.role == "producer")

    @property
    def consumers(self) -> tuple[Member, ...]:
        """The members that are contracted with them."""
        return tuple(member for member in self.members if member.role == "consumer")

    def sizes(self) -> dict[tuple[str, int], int]:
        """How many coordinates of each (path, axis) one group has."""
        return {(member.path, member.axis): member.indices.shape[1] for member in self.members}

    def rounded(self, count: float) -> int:
        """A number of groups that may be kept: whole, at least ``min_width``, a multiple of ``round_to`` not below ``count``.

        The original width itself is always allowed, and nothing above the present one.
        """
        whole = max(int(np.floor(count + 0.5)), self.min_width, 1)
        if self.round_to > 1:
            whole = -(-whole // self.round_to) * self.round_to
        return min(whole, self.width)

    def __repr__(self) -> str:
        flags = "" if self.exact else f", inexact: {'; '.join(self.remarks)}"
        return f"{self.name}: {self.width} groups of {', '.join(map(repr, self.members))}{flags}"


@dataclass(frozen=True, kw_only=True)
class Whole:
    """Coordinates that stay as they are, and why."""

    path: str
    axis: int
    count: int
    why: str


@dataclass(frozen=True, kw_only=True)
class Product:
    """One product of a model, as lengths that multiply.

    Attributes:
      factor: of the lengths that do not change, and how often it runs.
      lengths: of each other axis, how many coordinates stay, and {family: coordinates of each group}.
    """

    factor: int
    lengths: tuple[tuple[float, Mapping[str, float]], ...]

    def fixed(self, widths: Mapping[str, int]) -> Product:
        """The same where some families no longer change, at these widths."""
        lengths = [
            (
                constant + sum(each * widths[name] for name, each in varied.items() if name in widths),
                {name: each for name, each in varied.items() if name not in widths},
            )
            for constant, varied in self.lengths
        ]
        return dataclasses.replace(self, lengths=tuple(lengths))


@dataclass(frozen=True, kw_only=True)
class Families(Sequence[Family]):
    """The families of a network, by number or name, and a report of the rest.

    Attributes:
      items: the families.
      whole: axes, or parts of them, that belong to none, with the reason.
      unknown: primitives that no rule covers and that parameters run into; what they touch is left whole.
      shapes: of the arrays that they were found for, so that a model that has changed since is noticed.
      products: what the model multiplies, for counts of operations; none where the families were written down.
      fn, inputs: the model and its example inputs, None where the families were written down without it.
    """

    items: tuple[Family, ...]
    whole: tuple[Whole, ...] = ()
    unknown: tuple[str, ...] = ()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    products: tuple[Product, ...] = ()
    fn: Callable[..., Any] | None = None
    inputs: tuple[Any, ...] = ()

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            for family in self.items:
                if family.name == key:
                    return family
            raise KeyError(f"no family is called {key!r}: known are {', '.join(self.names)}.")
        return self.items[key]

    def __iter__(self) -> Iterator[Family]:
        return iter(self.items)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the families."""
        return tuple(family.name for family in self.items)

    def replace(self, items: Sequence[Family], **changes: Any) -> Families:
        """The same report with other families; those that are left out stay whole."""
        names = {family.name for family in items}
        gone = [family for family in self.items if family.name not in names]
        if gone and "whole" not in changes:
            left = [
                Whole(path=m.path, axis=m.axis, count=m.indices.size, why="left out") for f in gone for m in f.members
            ]
            changes["whole"] = (*self.whole, *left)
        if gone and "products" not in changes:
            widths = {family.name: family.width for family in gone}
            changes["products"] = tuple(product.fixed(widths) for product in self.products)
        return dataclasses.replace(self, items=tuple(items), **changes)

    def part(self, tree: Any, at: str = "") -> Families:
        """The families as seen from a part of the parameters: members elsewhere are left out, names and masks stay the same.

        For an optimiser that holds the weights alone, while running averages live beside them::

            optax.chain(optax.adam(1e-3), gradual_threshold(families.part(nnx.state(model, nnx.Param)), 0.5, steps=1000))
            optax.chain(optax.adam(1e-3), gradual_threshold(families.part(model, at="0/"), 0.5, steps=1000))  # of (model, state)

        Args:
          tree: the part.
          at: what names in the whole begin with before those of the part.

        Raises:
          ValueError: an array of the part is not among those that the families were found for, or has another shape.
        """
        mine = {name: tuple(leaf.shape) for name, leaf in named_arrays(tree).items()}
        for name, shape in mine.items():
            if self.shapes.get(at + name) != shape:
                known = f"has shape {self.shapes[at + name]} there" if at + name in self.shapes else "is not there"
                raise ValueError(
                    f"{name} of shape {shape} is no part of what was grouped: {at + name} {known}. Names begin with "
                    f"{', '.join(sorted({each.split('/')[0] for each in self.shapes}))}; give what comes before the part's own as at=."
                )
        items = []
        for family in self.items:
            members = [
                dataclasses.replace(m, path=m.path.removeprefix(at))
                for m in family.members
                if m.path.startswith(at) and m.path.removeprefix(at) in mine
            ]
            if members:
                items.append(dataclasses.replace(family, members=tuple(members)))
        return Families(items=tuple(items), shapes=mine)

    def parameters(self, widths: Mapping[str, int] | None = None) -> int:
        """How many numbers the model's arrays hold, at given widths of some families (the present ones)."""
        sizes = {name: list(shape) for name, shape in self.shapes.items()}
        for family in self.items:
            missing = family.width - (widths or {}).get(family.name, family.width)
            for member in family.members:
                sizes[member.path][member.axis] -= missing * member.indices.shape[1]
        return sum(math.prod(shape) for shape in sizes.values())

    def flops(self, widths: Mapping[str, int] | None = None) -> int:
        """Operations (two for each multiplication) of the model's products on the example inputs, at given widths.

        Raises:
          ValueError: the families were written down, so the products are not known.
        """
        if not self.products:
            raise ValueError("the model's products are not known: find the families by groups() to count operations.")
        now = {family.name: family.width for family in self.items} | dict(widths or {})
        total = 0.0
        for product in self.products:
            total += product.factor * math.prod(
                fixed + sum(each * now[name] for name, each in varied.items()) for fixed, varied in product.lengths
            )
        return round(2 * total)

    def check(self, params: Any) -> None:
        """Raise a ValueError if the parameters are not those that the families were found for.

        Raises:
          ValueError: an array is missing or has another shape; the message names it.
        """
        now = {name: tuple(leaf.shape) for name, leaf in named_arrays(params).items()}
        for name, shape in self.shapes.items():
            if name not in now:
                raise ValueError(
                    f"the model has changed since its groups were found: {name} is gone. Call groups() again, or use "
                    "families.part() where only a part of the arrays is at hand."
                )
            if now[name] != shape:
                raise ValueError(
                    f"the model has changed since its groups were found: {name} had shape {shape}, and has {now[name]}. "
                    "Use the families that remove() handed back, or call groups() again."
                )

    def __str__(self) -> str:
        lines = [repr(family) for family in self.items] or ["no family found"]
        lines += [f"whole  {each.path}[{each.axis}], {each.count}: {each.why}" for each in self.whole]
        if self.unknown:
            lines.append(f"no rule for {', '.join(self.unknown)}")
        return "\n".join(lines)
