import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pruneft.sensing import PackedOperator, check_adjoint, draw_instance
from pruneft.sensing.operator import cast

DRAWN = draw_instance(jax.random.key(0), n=9, d=4, r=1).operator


@dataclasses.dataclass(frozen=True)
class Own:
    """An operator of somebody's own, with parts that can be replaced."""

    inner: Any
    replaced: Any = dataclasses.field(default_factory=dict)

    def __getattr__(self, name):
        return self.replaced[name] if name in self.replaced else getattr(self.inner, name)


def test_the_operator_of_this_library_passes_in_both_precisions(dtype):
    assert check_adjoint(cast(DRAWN, dtype)) < {"float32": 1e-5, "float64": 1e-13}[dtype]
    assert check_adjoint(cast(DRAWN, dtype), key=jax.random.key(5)) > 0


def test_units_of_the_measurements_do_not_matter():
    assert check_adjoint(PackedOperator(1e12 * DRAWN.rows)) < 1e-5


BAD = [
    ({"adjoint": lambda e: 2 * DRAWN.adjoint(e)}, "adjoint is not the adjoint of apply"),
    ({"adjoint": lambda e: DRAWN.adjoint(e[..., ::-1])}, "adjoint is not the adjoint of apply"),
    ({"adjoint": lambda e: jnp.triu(DRAWN.adjoint(e)) + jnp.triu(DRAWN.adjoint(e), 1)}, "not symmetric"),
    ({"adjoint": lambda e: jnp.nan * DRAWN.adjoint(e)}, "by inf of their size"),
    ({"adjoint": lambda e: DRAWN.adjoint(e)[..., :3]}, r"adjoint of the operator returns shape \(4, 4, 3\): expected \(4, 4, 4\)"),
    ({"apply": lambda x: DRAWN.apply(x)[..., :-1]}, r"apply of the operator returns shape \(4, 8\): expected \(4, 9\)"),
    ({"jacobian": lambda u: DRAWN.jacobian(u) / 2}, "jacobian is not the derivative of apply"),
    ({"linearised": lambda: lambda u: -DRAWN.jacobian(u)}, "linearised is not the derivative of apply"),
]  # fmt: skip


@pytest.mark.parametrize(("replaced", "words"), BAD, ids=[words[:30] for _, words in BAD])
def test_parts_that_do_not_belong_together_are_named(replaced, words):
    with pytest.raises(ValueError, match=words):
        check_adjoint(Own(DRAWN, replaced))


def test_the_message_says_how_far_off_and_what_to_do():
    with pytest.raises(ValueError, match=r"by 0\.\d+ of their size, where rounding allows .*It must return sum_i e_i"):
        check_adjoint(Own(DRAWN, {"adjoint": lambda e: 2 * DRAWN.adjoint(e)}))


def test_a_tolerance_of_ones_own_is_used():
    off = Own(DRAWN, {"jacobian": lambda u: 1.01 * DRAWN.jacobian(u)})
    np.testing.assert_allclose(check_adjoint(off, tolerance=0.1), 0.01, rtol=0.01)
    with pytest.raises(ValueError, match="jacobian"):
        check_adjoint(off, tolerance=1e-3)
