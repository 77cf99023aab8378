"""Smaller arrays: `remove`."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from pruneft.network.compensate import compensated
from pruneft.network.families import Families
from pruneft.network.metadata import refreshed
from pruneft.network.surgery import Keep, masks, sliced, sliced_state, smaller, staying, zeroed
from pruneft.network.trace import trace
from pruneft.network.trees import is_array


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a removal did.

    Attributes:
      widths: of every family, before and after.
      parameters: numbers in the arrays, before and after.
      flops: operations of the model's products on the example inputs, before and after; None where they are not known.
      biases: that took over what removed units said.
      mismatch: largest difference between the outputs of the smaller model and of the model with these groups at zero, over the
        largest output; None where nothing was computed.
      change: the same against the model as it was.
      seconds: of one call on the batch, before and after, the least of several; None where nothing was computed.
      remarks: why a removal is not exact.
    """

    widths: dict[str, tuple[int, int]]
    parameters: tuple[int, int]
    flops: tuple[int, int] | None = None
    biases: tuple[str, ...] = ()
    mismatch: float | None = None
    change: float | None = None
    seconds: tuple[float, float] | None = None
    remarks: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{name}: {before} -> {after}" for name, (before, after) in self.widths.items() if after != before]
        lines.append(f"parameters: {self.parameters[0]} -> {self.parameters[1]}")
        if self.flops:
            lines.append(f"operations: {self.flops[0]} -> {self.flops[1]}")
        if self.seconds:
            lines.append(f"seconds a call: {self.seconds[0]:.3g} -> {self.seconds[1]:.3g}")
        if self.biases:
            lines.append(f"biases that took over constants: {', '.join(self.biases)}")
        if self.mismatch is not None:
            lines.append(f"against groups at zero {self.mismatch:.1e}, against the model before {self.change:.1e}")
        return "\n".join([*lines, *self.remarks])


class Removal(NamedTuple):
    """A smaller model.

    Attributes:
      params: its parameters.
      families: its families, which remember the original widths.
      report: what went.
      opt_state: the optimiser's state, None where none was given.
    """

    params: Any
    families: Families
    report: Report
    opt_state: Any = None


def remove(
    params: Any,
    families: Families,
    keep: Keep,
    *,
    batch: tuple[Any, ...] | None = None,
    opt_state: Any = None,
    compensate: str = "constant",
    tolerance: float = 1e-4,
    calls: int = 3,
) -> Removal:
    """The model without the groups that are not kept: smaller arrays, and the same function where those contributed nothing.

    The smaller model is traced, and compared on a batch with the model whose removed groups are zero, before it is handed back.
    Runs on the host, between jitted steps: shapes change.

    Args:
      params: the parameters that the families were found for.
      families: from `groups`, `families_of` or an earlier removal.
      keep: {family: boolean mask [n], or numbers of the groups that stay}, or one mask for each family.
      batch: data to compare on; the example inputs that `groups` had, if they were arrays.
      opt_state: an optimiser's state; arrays that belong to parameters are sliced with them.
      compensate: ``"constant"``: what removed units say without change over the batch (phi(b), where their kernel is zero)
        goes into the bias of the next dense layer; ``"mean"``: the mean of all they say; ``"none"``.
      tolerance: relative difference to the zeroed model above which an exact removal is taken for a defect.
      calls: timed calls of both models; 0 for no times.

    Warns:
      UserWarning: a family is not exact, so the function changes even where zero groups go.

    Raises:
      ValueError: the model has changed since its families were found, ``keep`` does not fit, the smaller model does not trace or
        does something else, or an array of the optimiser's state cannot be sliced.
    """
    families.check(params)
    kept = masks(families, keep)
    stays = staying(families, kept)
    fn, inputs = families.fn, families.inputs if batch is None else tuple(batch)
    computed = fn is not None and all(not isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(inputs))
    touched = [family for family in families if not kept[family.name].all()]
    remarks = tuple(f"{f.name} is not exact: {'; '.join(f.remarks)}" for f in touched if not f.exact)
    for remark in remarks:
        warnings.warn(remark, UserWarning, stacklevel=2)
    moved, biases = params, tuple[str, ...]()
    if fn is not None and computed and touched:
        moved, biases = compensated(fn, params, inputs, families, kept, compensate)
    small = sliced(moved, stays)
    after = smaller(families, kept, stays)
    measured: dict[str, Any] = {}
    if fn is not None:
        small, shapes = _traced(fn, small, inputs)
        _same_shapes(trace(fn, params, inputs).shape, shapes)
        if computed:
            measured = _compared(fn, params, zeroed(moved, families, kept), small, inputs, calls)
            if not measured["mismatch"] <= tolerance and not remarks:
                raise ValueError(
                    f"the smaller model differs from the one with these groups at zero by {measured['mismatch']:.1e} of its largest "
                    f"output (tolerance {tolerance:g}), in {', '.join(f.name for f in touched)}: the model is not the one that was "
                    "grouped, or the families are not those of the model."
                )
    else:
        small = _or_raw(small)
    report = Report(
        widths={family.name: (family.width, int(kept[family.name].sum())) for family in families},
        parameters=(families.parameters(), after.parameters()),
        flops=(families.flops(), after.flops()) if families.products else None,
        biases=biases,
        remarks=remarks,
        **measured,
    )
    # Moments of an Equinox model are models themselves, with sizes beside the arrays.
    state = None if opt_state is None else _or_raw(sliced_state(opt_state, families, stays))
    return Removal(small, after, report, state)


def _or_raw(tree: Any) -> Any:
    try:
        return refreshed(tree)
    except (AttributeError, TypeError, ValueError):
        return tree


def _traced(fn: Callable[..., Any], small: Any, inputs: tuple[Any, ...]) -> tuple[Any, Any]:
    """The smaller model, its sizes put right if the function takes it so, and the shapes of its outputs."""
    said: Exception | None = None
    for tree in (_or_raw(small), small):
        try:
            return tree, trace(fn, tree, inputs).shape
        except Exception as error:  # whatever a model raises when its shapes do not fit
            said = said or error
    raise ValueError(
        f"the smaller model does not trace: {str(said).strip().splitlines()[0]} A size is written into the model; leave that "
        "family out by exclude=, or take the size from the parameters' shapes."
    ) from said


def _same_shapes(before: Any, after: Any) -> None:
    old, new = ([leaf.shape for leaf in jax.tree.leaves(tree)] for tree in (before, after))
    if old != new:
        raise ValueError(f"the smaller model's outputs have shapes {new}, and should have {old}.")


def _compared(
    fn: Callable[..., Any], params: Any, zero: Any, small: Any, inputs: tuple[Any, ...], calls: int
) -> dict[str, Any]:
    """Outputs of the three models against each other, and times of the first and last."""
    run = _jitted(fn)
    before, nothing, now = (run(tree, inputs) for tree in (params, zero, small))
    found: dict[str, Any] = {"mismatch": _distance(nothing, now), "change": _distance(before, now)}
    if calls:
        found["seconds"] = tuple(_seconds(run, tree, inputs, calls) for tree in (params, small))
    return found


def _jitted(fn: Callable[..., Any]) -> Callable[[Any, Any], list[Any]]:
    """The model compiled, whatever besides arrays its parameters hold."""
    programs: dict[Any, Any] = {}

    def run(tree: Any, inputs: tuple[Any, ...]) -> list[Any]:
        leaves, structure = jax.tree.flatten((tree, inputs))
        places = [place for place, leaf in enumerate(leaves) if is_array(leaf)]

        def flat(arrays: list[Any]) -> list[Any]:
            filled = list(leaves)
            for place, array in zip(places, arrays, strict=True):
                filled[place] = array
            inside, data = jax.tree.unflatten(structure, filled)
            return [leaf for leaf in jax.tree.leaves(fn(inside, *data)) if is_array(leaf)]

        still = tuple(id(leaf) for place, leaf in enumerate(leaves) if place not in places)
        key = (structure, still, *((leaves[place].shape, leaves[place].dtype) for place in places))
        program = programs.setdefault(key, jax.jit(flat))
        return jax.block_until_ready(program([leaves[place] for place in places]))

    return run


def _distance(first: list[Any], second: list[Any]) -> float:
    """Largest difference over the largest output; NaN counts as infinite."""
    worst = 0.0
    for a, b in zip(first, second, strict=True):
        x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
        size = float(np.max(np.abs(x), initial=0.0))
        difference = float(np.max(np.abs(x - y), initial=0.0))
        worst = max(worst, difference / size if size > 0 else difference)
        if not np.isfinite(difference):
            return float("inf")
    return worst


def _seconds(run: Callable[..., Any], tree: Any, inputs: Any, calls: int) -> float:
    best = float("inf")
    for _ in range(calls):
        begin = time.perf_counter()
        run(tree, inputs)
        best = min(best, time.perf_counter() - begin)
    return best
