import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruneft.sweep.formula import FormulaError, Values, function_formula, parse_formula


def _value(text, **axes):
    return parse_formula(text).call(axes)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("=3*d", 30),
        ("= 1.2*r*d ", 24.0),
        ("=r*d - r*(r-1)//2", 19),
        ("=-d + +r", -8),
        ("=d**2/r", 50.0),
        ("=2**-1", 0.5),
        ("=d % 3", 1),
        ("=max(20, 3*d, r)", 30),
        ("=min(r, d)", 2),
        ("=round(d/4)", 2),
        ("=ceil(d/4)", 3),
        ("=floor(d/4)", 2),
        ("=sqrt(d*10)", 10.0),
        ("=log(d)", math.log(10)),
    ],
)
def test_arithmetic_means_what_it_says(text, value):
    found = _value(text, r=2, d=10)
    assert found == value
    assert type(found) is type(value)


def test_a_formula_knows_what_it_reads_and_is_told_from_another_by_its_text():
    formula = parse_formula("= max(r, 2*d) + r")
    assert formula.names == ("r", "d")
    assert formula == parse_formula("=max(r, 2*d) + r")
    assert formula != parse_formula("=max(r, 2*d)")


@pytest.mark.parametrize(
    "text",
    [
        "=",
        "= ",
        "=3*",
        "=d d",
        "=__import__('os')",
        "=d.real",
        "=d[0]",
        "='a'*3",
        "=True",
        "=lambda: 3",
        "=[1, 2]",
        "=d if r else 3",
        "=d > r",
        "=print(3)",
        "=max(*d)",
        "=round(d, 2)",
        "=round(number=d)",
        "=max(d)",
        "=log(d, 2)",
        "=(x := 3)",
        "=d\0",
        "=1j",
        "=" + "1+" * 200 + "1",
        "=" + "(" * 150,
    ],
)
def test_what_is_not_arithmetic_is_refused(text):
    with pytest.raises(FormulaError, match="a formula"):
        parse_formula(text)


@pytest.mark.parametrize("text", ["=9**9**9**9", "=1/0", "=sqrt(-1)", "=log(0)", "=(0-8)**0.5", "=10.0**400"])
def test_what_has_no_value_is_an_error_and_takes_no_time(text):
    values = Values({"n": parse_formula(text)}, {}, lambda name, number: number)
    with pytest.raises(FormulaError, match="cannot be computed"):
        values["n"]


@given(st.integers(-50, 50), st.integers(-50, 50), st.integers(1, 50))
@settings(max_examples=50, deadline=None)
def test_formulas_agree_with_python(a, b, c):
    text = "a*b + (a-b)//c - a % c + min(a, b)/c"
    assert _value("=" + text, a=a, b=b, c=c) == eval(text, {"a": a, "b": b, "c": c, "min": min})


def test_formulas_of_formulas_are_computed_in_whatever_order_they_need():
    cell = {"n": parse_formula("=2*k"), "k": parse_formula("=d+1"), "d": 4}
    values = Values(cell, {}, lambda name, number: number)
    assert {name: values[name] for name in cell} == {"n": 10, "k": 5, "d": 4}


def test_formulas_in_a_circle_are_refused_with_the_circle():
    cell = {"a": parse_formula("=b"), "b": parse_formula("=c+1"), "c": parse_formula("=b")}
    with pytest.raises(FormulaError, match=r"in a circle: b -> c -> b"):
        Values(cell, {}, lambda name, number: number)["a"]


def test_an_axis_that_has_no_value_is_named():
    cell = {"n": parse_formula("=2*k")}
    with pytest.raises(FormulaError, match="n is a function of k, which has no value here"):
        Values(cell, {"k": None}, lambda name, number: number)["n"]
    with pytest.raises(FormulaError, match="n is a function of q, which is no axis: there are k"):
        Values({"n": function_formula(lambda cell: cell["q"])}, {"k": 1}, lambda name, number: number)["n"]


def test_a_function_of_the_users_own_may_fail_and_is_known_by_its_name():
    def rule(cell):
        return {}["nothing"]

    formula = function_formula(rule)
    assert formula.text.endswith("rule")
    with pytest.raises(FormulaError, match=r"n: .*rule cannot be computed: 'nothing'"):
        Values({"n": formula}, {}, lambda name, number: number)["n"]
