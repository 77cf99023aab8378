"""Reading a traced program with labels on every axis: each primitive by its rule, what has none left whole and named."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.extend.core
import numpy as np

from pruneft.network.labels import CONSTANT, FREE, FROZEN, Labels, Value, constant, is_free, labelled, unlabelled

Rule = Callable[["Reader", Any, list[Value]], list[Value]]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register the rule of some primitives."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


class Event(NamedTuple):
    """One equation as it was read.

    Attributes:
      primitive: its name.
      ins, outs: what went in and came out.
      numbers: the scalars written into it.
      counted: sizes of the broadcast axes that it sums over: a result that depends on a width.
      times: how often it runs in one call of the model; 1 in a loop of unknown length.
      products: axes whose lengths multiply to its multiplications, for products alone.
    """

    primitive: str
    ins: list[Value]
    outs: list[Value]
    numbers: tuple[float, ...]
    counted: tuple[int, ...] = ()
    times: int = 1
    products: tuple[np.ndarray, ...] = ()


class Reader:
    """One pass over a program.

    Attributes:
      labels: where ties go.
      events: what was read, in order.
      choices: what ambiguous rules decided, by the place of the equation; a second reader can be given the first one's.
      unknown: primitives without a rule that parameters ran into.
    """

    def __init__(self, labels: Labels, choices: Mapping[int, Any] | None = None) -> None:
        self.labels = labels
        self.events: list[Event] = []
        self.choices: dict[int, Any] = {}
        self.given = choices or {}
        self.unknown: list[str] = []
        self.times = 1
        self._counted: list[int] = []
        self._products: tuple[np.ndarray, ...] = ()
        self._place = 0

    def tie(self, first: np.ndarray, second: np.ndarray, why: str) -> np.ndarray:
        """See `Labels.tie`."""
        return self.labels.tie(first, second, why)

    def stay(self, value: Value, why: str) -> Value:
        """A value whose coordinates all stay."""
        for axis in value.axes:
            self.labels.freeze(axis, why)
        return unlabelled(value)

    def summed(self, axis: np.ndarray, why: str) -> None:
        """An axis is reduced: what lies on it is used, but how many there are may matter."""
        self.labels.mark("used", axis)
        self.labels.mark("reduced", axis, why)
        if is_free(axis):
            self._counted.append(axis.size)

    def multiplies(self, *axes: np.ndarray) -> None:
        """The lengths of these axes multiply to the multiplications of this equation."""
        self._products = axes

    def decide(self, default: Callable[[], Any]) -> Any:
        """What this equation decided when the program was first read, or the default."""
        place = self._place
        self.choices[place] = self.given[place] if place in self.given else default()
        return self.choices[place]

    def run(self, jaxpr: Any, consts: list[Value], args: list[Value]) -> list[Value]:
        """The values of a program's outputs."""
        known: dict[Any, Value] = dict(zip(jaxpr.constvars, consts, strict=True))
        known |= dict(zip(jaxpr.invars, args, strict=True))

        def read(atom: Any) -> Value:
            return of_constant(atom.aval) if isinstance(atom, jax.extend.core.Literal) else known[atom]

        for equation in jaxpr.eqns:
            ins = [read(atom) for atom in equation.invars]
            name = equation.primitive.name
            place, self._place, self._counted, self._products = len(self.events), len(self.events), [], ()
            numbers = tuple(
                float(np.real(atom.val))
                for atom in equation.invars
                if isinstance(atom, jax.extend.core.Literal) and np.ndim(atom.val) == 0
            )
            self.events.append(Event(name, ins, [], numbers))
            outs = RULES.get(name, _unknown)(self, equation, ins)
            self.events[place] = Event(name, ins, outs, numbers, tuple(self._counted), self.times, self._products)
            known.update(zip(equation.outvars, outs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def closed(self, closed: Any, args: list[Value]) -> list[Value]:
        """The same for a program with its constants."""
        return self.run(closed.jaxpr, [of_constant(const) for const in closed.consts], args)

    def rewind(self, place: int) -> None:
        """Forget the events from a place on: they are read again."""
        del self.events[place:]


def of_constant(aval: Any) -> Value:
    """A constant: its coordinates stay."""
    return Value(tuple(constant(int(size), FROZEN) for size in getattr(aval, "shape", ())), CONSTANT)


def blank(equation: Any, kind: int) -> list[Value]:
    """Outputs without labels."""
    return [Value(tuple(constant(int(size), FROZEN) for size in var.aval.shape), kind) for var in equation.outvars]


def kind_of(values: list[Value]) -> int:
    """DATA if there is any, else PARAMETER if there is any."""
    return max((value.kind for value in values), default=CONSTANT)


def _unknown(reader: Reader, equation: Any, ins: list[Value]) -> list[Value]:
    name = equation.primitive.name
    if any(labelled(axis) for value in ins for axis in value.axes):
        if name not in reader.unknown:
            reader.unknown.append(name)
        for value in ins:
            reader.stay(value, f"it runs into the primitive {name}, which no rule covers")
    return blank(equation, kind_of(ins))


def free(size: int) -> np.ndarray:
    """A broadcast axis."""
    return constant(size, FREE)
