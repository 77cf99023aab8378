"""One pass over the measurements gives what two passes give."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pruneft.sensing import PackedOperator, row_blocks

N, D, STARTS = 23, 5, 3
LENGTH = D * (D + 1) // 2
ONCE = jax.jit(row_blocks.residual_sum, static_argnames="block")


def _data(dtype, n=N):
    rng = np.random.default_rng(0)
    rows, y = rng.standard_normal((n, LENGTH)), rng.standard_normal(n)
    packed = rng.standard_normal((STARTS, LENGTH))
    return tuple(jnp.asarray(a, dtype) for a in (rows, packed, y, 1.7))


def _expected(rows, packed, y, gain):
    rows, packed, y = (np.asarray(a, np.float64) for a in (rows, packed, y))
    return (packed @ rows.T / float(gain) - y) @ rows


@pytest.mark.parametrize("block", [1, 4, 8, 22, 23, 100, None])
def test_one_pass_equals_two_whether_or_not_blocks_divide_the_rows(block, dtype, tolerance):
    data = _data(dtype)
    found = ONCE(*data, block=block)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, _expected(*data), rtol=20 * tolerance, atol=50 * tolerance)


def test_one_matrix_without_a_batch_goes_through_too():
    rows, packed, y, gain = _data("float64")
    np.testing.assert_allclose(
        ONCE(rows, packed[1], y, gain, block=4), _expected(rows, packed, y, gain)[1], rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("more", [1, 3, 9])
def test_rows_that_pad_are_inert_and_so_are_columns(more):
    rows, packed, y, gain = _data("float64")
    longer = jnp.pad(rows, ((0, more), (0, 6)))
    found = np.asarray(ONCE(longer, jnp.pad(packed, ((0, 0), (0, 6))), jnp.pad(y, (0, more)), gain, block=4))
    np.testing.assert_allclose(found[:, :LENGTH], ONCE(rows, packed, y, gain, block=4), rtol=1e-12, atol=1e-12)
    assert not found[:, LENGTH:].any()


def test_lanes_with_measurements_of_their_own_are_batched():
    rows, packed, y, gain = _data("float64")
    several = jnp.stack([rows, 2 * rows])
    batched = jax.jit(jax.vmap(lambda a: row_blocks.residual_sum(a, packed, y, gain, block=4)))(several)
    np.testing.assert_allclose(batched[0], _expected(rows, packed, y, gain), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(batched[1], _expected(2 * rows, packed, y, gain), rtol=1e-10, atol=1e-10)


def test_one_pass_pays_for_several_factors_and_measurements_that_no_cache_holds():
    large, small = 200e6, 50e6
    assert [row_blocks.pays(size, factors) for size in (large, small) for factors in (1, 2, 8)] == [
        *(False, True, True),
        *(False, False, False),
    ]


@pytest.mark.parametrize("once", [False, True])
def test_the_operator_gives_the_adjoint_of_the_residual_in_both_forms(once, monkeypatch):
    monkeypatch.setattr(row_blocks, "pays", lambda size, factors: once)
    rows, _, y, gain = _data("float64")
    operator = PackedOperator(rows)
    matrix = jnp.asarray(np.random.default_rng(1).standard_normal((STARTS, D, D)))
    matrix = matrix + jnp.swapaxes(matrix, 1, 2)
    run = jax.jit(lambda a, x, t, g: a.residual_sum(x, t, g))
    assert ("while" in run.lower(operator, matrix, y, gain).as_text()) == once
    expected = operator.adjoint(operator.apply(matrix) / gain - y)
    np.testing.assert_allclose(run(operator, matrix, y, gain), expected, rtol=1e-10, atol=1e-10)


def test_split_rows_are_passed_over_where_they_lie(tmp_path):
    root = Path(__file__).parents[2]
    environment = os.environ | {
        "PYTHONPATH": str(root),
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_X64": "1",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4".strip(),
        "NPROC": "32",  # with few threads forced devices can wait for one another for ever
    }
    command = [sys.executable, "-c", f"from {__name__} import split; split()"]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["difference"] < 1e-10
    assert found["loops"]
    assert found["reduced"]
    assert not found["gathered"]


def split():
    """In a process of its own with four devices: the split sum against the plain one, and what its program does with the rows."""
    from pruneft.sensing import sharded

    rows, packed, y, gain = _data("float64", n=N + 1)
    sharding = sharded.row_sharding(jax.make_mesh((4,), ("n",)))
    there, there_y = (sharded.distribute(np.asarray(a), sharding) for a in (rows, y))
    run = functools.partial(row_blocks.split_residual_sum, sharding=sharding)
    with sharded.quiet(sharding):
        compiled = jax.jit(run).lower(there, packed, there_y, gain).compile()
        found = compiled(there, packed, there_y, gain)
    text = compiled.as_text()
    print(
        json.dumps(
            {
                "difference": float(np.abs(np.asarray(found) - _expected(rows, packed, y, gain)).max()),
                "loops": "while" in text,
                "reduced": "all-reduce" in text,
                "gathered": "all-gather" in text,
            }
        )
    )
