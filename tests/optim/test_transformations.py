"""What every transformation of ours has to do, from one table."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.optim.table import TABLE, D, R, advance, curvature, descend, loss, padded, problem, relative

LONG, SHORT = 160, 7  # to the end; so short that the way still shows
each = pytest.mark.parametrize("name", list(TABLE))


@functools.cache
def _program(name):
    return jax.jit(lambda start, matrices, y, steps: descend(TABLE[name](), start, matrices, y, steps))


def _end(name, steps, dtype="float64", seed=0):
    matrices, y, _, start = (jnp.asarray(array, dtype) for array in problem(seed))
    return _program(name)(start, matrices, y, steps)[0]


@each
def test_a_small_noiseless_problem_is_solved(name):
    assert relative(_end(name, LONG), problem()[2]) < 1e-8


@pytest.mark.parametrize("name", ["precgd", "tangent_nesterov", "gauss_newton_cg"])
def test_in_single_precision_it_is_solved_to_that_precision(name):
    found = _end(name, LONG, "float32")
    assert found.dtype == np.float32
    assert relative(found, problem()[2]) < 1e-5


@functools.cache
def _gradient():
    matrices, y, _, start = map(jnp.asarray, problem())
    return start, *jax.jit(jax.value_and_grad(loss))(start, matrices, y)


@each
def test_a_step_in_a_chain_and_without_jit_is_the_first_of_those_compiled(name):
    start, value, gradient = _gradient()
    chain = optax.chain(optax.clip_by_global_norm(1e9), TABLE[name](), optax.scale(1.0))
    matrices = jnp.asarray(problem()[0])
    updates, _ = chain.update(
        gradient, chain.init(start), start, value=value, curvature=jax.jit(lambda u, v: curvature(u, v, matrices))
    )
    np.testing.assert_allclose(start + updates, _end(name, 1), rtol=1e-9, atol=1e-12)


@each
def test_padded_lanes_under_vmap_get_what_they_get_alone_without_padding(name):
    lanes = [padded(seed=seed) for seed in range(2)]
    matrices, y, _, start = (jnp.stack([jnp.asarray(lane[i]) for lane in lanes]) for i in range(4))
    found = np.asarray(jax.vmap(_program(name), in_axes=(0, 0, 0, None))(start, matrices, y, SHORT)[0])
    assert np.all(found[:, D:] == 0)
    assert np.all(found[:, :, R:] == 0)
    for seed in range(2):
        np.testing.assert_allclose(found[seed, :D, :R], _end(name, SHORT, seed=seed), rtol=1e-8, atol=1e-10)


@each
def test_a_stack_of_factors_is_treated_matrix_by_matrix(name):
    matrices, y, _, start = map(jnp.asarray, problem())
    # Different multiples, so that a scalar shared between them (a norm, a damping, a tolerance) would show.
    scales = np.asarray([1.0, 0.7])
    stack = jnp.asarray(scales[:, None, None] * start)
    bend = functools.partial(curvature, matrices=matrices)

    @jax.jit
    def run(stack):
        transformation = optax.with_extra_args_support(TABLE[name]())
        state = transformation.init(stack)
        for _ in range(2):
            values, gradient = jax.vmap(jax.value_and_grad(lambda factor: loss(factor, matrices, y)))(stack)
            updates, state = transformation.update(gradient, state, stack, value=values, curvature=jax.vmap(bend))
            stack = stack + updates
        return stack

    found = run(stack)
    for index in range(2):
        alone = _program(name)(stack[index], matrices, y, 2)[0]
        np.testing.assert_allclose(found[index], alone, rtol=1e-9, atol=1e-12)


@each
def test_the_state_is_arrays_and_keeps_shape_and_dtype(name, dtype):
    matrices, y, _, start = (jnp.asarray(array, dtype) for array in problem())
    state = TABLE[name]().init(start)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    after = jax.eval_shape(functools.partial(advance, TABLE[name]()), start, state, matrices, y)[1]
    chex.assert_trees_all_equal_shapes_and_dtypes(state, after)


@each
def test_a_gradient_of_zero_moves_nothing(name):
    factor = jnp.asarray(problem()[2])
    transformation = optax.with_extra_args_support(TABLE[name]())
    zero = jnp.zeros_like(factor)
    updates, _ = transformation.update(
        zero, transformation.init(factor), factor, value=jnp.zeros(()), curvature=lambda u, v: v
    )
    assert np.all(np.asarray(updates) == 0)


@each
def test_parameters_that_are_no_factors_are_refused_with_their_shape(name):
    with pytest.raises(ValueError, match=r"must be factors \[d, k\] .*: got a leaf of shape \(3,\)"):
        TABLE[name]().init({"weights": jnp.ones((4, 2)), "bias": jnp.ones(3)})


@each
def test_an_update_without_parameters_is_refused(name):
    factor = jnp.asarray(problem()[2])
    transformation = optax.with_extra_args_support(TABLE[name]())
    with pytest.raises(ValueError, match=r"call update\(gradient, state, params"):
        transformation.update(factor, transformation.init(factor), value=1.0, curvature=lambda u, v: v)
