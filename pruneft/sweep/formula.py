"""An axis as a function of the others: ``n = "=1.2*r*d"`` in a file or a flag, any function of a cell in Python."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

_Number = int | float
_Values = Mapping[str, Any]

_LONGEST = 200  # characters: far more than a formula needs, and too few to exhaust the parser
_OPERATORS: Mapping[type[ast.AST], Callable[..., _Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}
_FUNCTIONS: Mapping[str, Callable[..., _Number]] = {
    "min": min,
    "max": max,
    "round": round,
    "ceil": math.ceil,
    "floor": math.floor,
    "sqrt": math.sqrt,
    "log": math.log,
}
_ALLOWED = f"numbers, axes, + - * / // ** %, parentheses, and {', '.join(_FUNCTIONS)}"


class FormulaError(ValueError):
    """A formula that cannot be read or computed."""


@dataclass(frozen=True)
class Formula:
    """A value that is computed from the other axes of its cell.

    Attributes:
      text: the expression with its ``=``, or the name of a Python function.
      names: the axes an expression reads; of a function nobody knows before it is called.
      call: cell -> number; the cell is a mapping of the other axes' values.
    """

    text: str
    names: tuple[str, ...] = ()
    call: Callable[[_Values], Any] = field(compare=False, repr=False, kw_only=True)


def parse_formula(text: str) -> Formula:
    """The formula in a text such as ``=max(20, 1.2*r*d)``; only arithmetic, so a file from a stranger may be read.

    Args:
      text: ``=`` and an expression of numbers, names of axes, ``+ - * / // ** %``, parentheses, and the functions min,
        max, round, ceil, floor, sqrt and log (natural).

    Raises:
      FormulaError: it is something else; the message says what is allowed.
    """
    body = text.strip().removeprefix("=").strip()
    if not body or len(body) > _LONGEST:
        raise FormulaError(f"a formula is = and at most {_LONGEST} characters of arithmetic, got {text[:_LONGEST]!r}.")
    try:
        tree = ast.parse(body, mode="eval").body
        names: dict[str, None] = {}
        call = _compiled(tree, text, names)
    except FormulaError:
        raise
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise FormulaError(f"a formula is arithmetic of {_ALLOWED}: {text!r} is not.") from error
    return Formula("=" + body, tuple(names), call=call)


def function_formula(function: Callable[[_Values], Any]) -> Formula:
    """The formula that a Python function of a cell is, known by its name."""
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", type(function).__name__)
    return Formula(f"{module}.{name}" if module else name, call=function)


def _compiled(node: ast.AST, text: str, names: dict[str, None]) -> Callable[[_Values], Any]:
    """The node as a function of the values; the names it reads are added to ``names``."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        value = node.value
        return lambda values: value
    if isinstance(node, ast.Name):
        name = node.id
        names[name] = None
        return lambda values: values[name]
    if isinstance(node, ast.UnaryOp) and type(node.op) in _OPERATORS:
        sign, one = _OPERATORS[type(node.op)], _compiled(node.operand, text, names)
        return lambda values: sign(one(values))
    if isinstance(node, ast.BinOp) and (type(node.op) in _OPERATORS or isinstance(node.op, ast.Pow)):
        join = _OPERATORS.get(type(node.op), _power)
        left, right = _compiled(node.left, text, names), _compiled(node.right, text, names)
        return lambda values: join(left(values), right(values))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS:
        several = node.func.id in ("min", "max")
        if node.keywords or (len(node.args) < 2 if several else len(node.args) != 1):
            wanted = "two numbers or more" if several else "one number"
            raise FormulaError(f"a formula's {node.func.id} takes {wanted}: {text!r}.")
        function, terms = _FUNCTIONS[node.func.id], [_compiled(term, text, names) for term in node.args]
        return lambda values: function(*(term(values) for term in terms))
    raise FormulaError(f"a formula is arithmetic of {_ALLOWED}: {text!r} holds something else.")


def _power(base: _Number, exponent: _Number) -> _Number:
    """``base ** exponent`` as a real number; never a whole number of a million digits."""
    value = math.pow(base, exponent)  # OverflowError, ValueError where there is no real power
    whole = isinstance(base, int) and isinstance(exponent, int) and exponent >= 0 and abs(value) < 2**53
    return int(base**exponent) if whole else value


class Values(Mapping[str, Any]):
    """The values of one cell, formulas computed when they are asked for.

    Args:
      cell: axis name -> value or `Formula`.
      defaults: what axes that the cell does not name are taken for; None where there is no telling.
      convert: (axis name, number a formula gave) -> value of that axis; raises ValueError.
    """

    def __init__(self, cell: _Values, defaults: _Values, convert: Callable[[str, Any], Any]) -> None:
        self._cell, self._defaults, self._convert = cell, defaults, convert
        self._found: dict[str, Any] = {}
        self._open: list[str] = []  # formulas being computed, outermost first

    def __getitem__(self, name: str) -> Any:
        if name in self._found:
            return self._found[name]
        value = self._cell[name] if name in self._cell else self._defaults.get(name)
        if isinstance(value, Formula):
            value = self._computed(name, value)
        elif value is None:
            known = ", ".join(axis for axis in {**self._defaults, **self._cell} if axis != name)
            why = (
                "which has no value here: give it one"
                if name in self._defaults
                else f"which is no axis: there are {known}"
            )
            reader = self._open[-1] if self._open else name
            raise FormulaError(f"{reader} is a function of {name}, {why}.")
        self._found[name] = value
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._cell)

    def __len__(self) -> int:
        return len(self._cell)

    def _computed(self, name: str, formula: Formula) -> Any:
        if name in self._open:
            chain = " -> ".join([*self._open[self._open.index(name) :], name])
            raise FormulaError(f"the formulas go in a circle: {chain}. Give one of these axes plain values.")
        self._open.append(name)
        try:
            number = formula.call(self)
        except FormulaError:
            raise
        except Exception as error:  # whatever a function of the user's own raises
            raise FormulaError(f"{name}: {formula.text} cannot be computed: {error}.") from error
        finally:
            self._open.pop()
        return self._convert(name, number)
