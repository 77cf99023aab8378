"""What a sweep has to know of a family of measurements: how instances are drawn, and their degrees of freedom."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxtyping import Array, Float, Inexact

from pruneft.random import Block
from pruneft.sensing.field import Field

MEASUREMENTS, TRUTH = 0, 1  # streams; 2 and on are those of the starting factors (`pruneft.sensing.lane`)


class Instance(NamedTuple):
    """One drawn problem.

    Attributes:
      operator: the measurements; their arrays are float32 (exact in float64 too) or whole numbers.
      y: [n] data, ``<A_i, M*> + sigma e_i``; zero where padded.
      truth: [d, d], M*; complex where the family is.
      factor: [d, d], U* with M* = U* U*ᴴ; columns beyond r are zero.
    """

    operator: Any
    y: Float[Array, "n"]
    truth: Inexact[Array, "d d"]
    factor: Inexact[Array, "d d"]


def _no_check(cell: Any) -> None:
    return None


@dataclass(frozen=True, kw_only=True)
class Family:
    """A law of measurements and truths.

    Attributes:
      name: on the command line.
      subject: names the law; part of every data key.
      field: of M.
      rows: (n, d) -> how many rows the operator of ``n`` measurements holds (more where unobserved ones are kept as padding).
      blocks: (rows, d) -> what ``make`` needs drawn, streams `MEASUREMENTS` and `TRUTH` only.
      make: (draws, *, rows, d, r, kappa, scale, sigma, dtype, live_n, live_d) -> `Instance`; all but rows, d and dtype may be traced.
        Pure; what is beyond live_n and live_d is zero, and padding changes no live number.
      dof: (d, r) -> degrees of freedom, plain numbers.
      most: d -> how many measurements there are at most, None where there is no bound.
      check: raises ValueError on a resolved cell that the family cannot draw.
    """

    name: str
    subject: str
    field: Field
    rows: Callable[[int, int], int]
    blocks: Callable[[int, int], tuple[Block, ...]]
    make: Callable[..., Instance]
    dof: Callable[[int, int], int]
    most: Callable[[int], int | None]
    check: Callable[[Any], None] = _no_check
