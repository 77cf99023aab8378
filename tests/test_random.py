import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pruneft.random import Block, normals

KEY = jax.random.key(3)


def _draw(*blocks, key=KEY):
    return [np.asarray(values) for values in jax.jit(lambda key: normals(key, *blocks))(key)]


def test_padding_either_side_changes_no_bit_of_what_both_have():
    (small,) = _draw(Block(2, 5, 7))
    for rows, columns in ((5, 8), (6, 7), (40, 64)):
        (large,) = _draw(Block(2, rows, columns))
        np.testing.assert_array_equal(large[:5, :7], small)


def test_what_is_drawn_beside_it_and_in_which_batch_changes_no_bit_of_a_block():
    (alone,) = _draw(Block(1, 4, 9))
    beside = _draw(Block(0, 3, 5), Block(1, 4, 9), Block(2, 2, 2, 6))
    np.testing.assert_array_equal(beside[1], alone)
    keys = jnp.stack([jax.random.key(7), KEY])
    together = jax.jit(jax.vmap(lambda key: normals(key, Block(1, 4, 9))[0]))(keys)
    np.testing.assert_array_equal(together[1], alone)


def test_a_block_of_several_streams_holds_the_blocks_of_each():
    (several,) = _draw(Block(2, 3, 5, 4))
    assert several.shape == (4, 3, 5)
    for place in range(4):
        np.testing.assert_array_equal(several[place], _draw(Block(2 + place, 3, 5))[0])


def test_no_number_comes_twice_in_streams_rows_or_columns():
    (drawn,) = _draw(Block(0, 20, 21, 3))
    # 23 random bits: 1260 numbers have about 0.09 pairs that agree by chance.
    assert np.unique(drawn).size >= drawn.size - 2
    assert (
        np.unique(np.concatenate([drawn.ravel(), _draw(Block(0, 20, 21, 3), key=jax.random.key(4))[0].ravel()])).size
        > 2510
    )


def test_numbers_are_standard_normal_and_uncorrelated_between_neighbours():
    (drawn,) = _draw(Block(0, 400, 500))
    flat = drawn.ravel().astype(np.float64)
    size = flat.size
    for power, expected, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(np.mean(flat**power) - expected) < 5 * (variance / size) ** 0.5
    for shift in ((0, 1), (1, 0), (1, 1)):
        moved = np.roll(drawn, shift, axis=(0, 1)).ravel()
        assert abs(np.mean(flat * moved)) < 5 / size**0.5
    assert np.all(np.isfinite(drawn))


def test_raw_keys_and_keys_of_other_generators_are_taken():
    np.testing.assert_array_equal(_draw(Block(0, 2, 3), key=jax.random.key_data(KEY))[0], _draw(Block(0, 2, 3))[0])
    other = _draw(Block(0, 2, 3), key=jax.random.key(3, impl="rbg"))[0]
    assert np.all(np.isfinite(other))
    assert not np.any(other == _draw(Block(0, 2, 3))[0])


def test_empty_blocks_are_empty():
    empty, full = _draw(Block(0, 0, 4), Block(1, 2, 3))
    assert empty.shape == (0, 4)
    np.testing.assert_array_equal(full, _draw(Block(1, 2, 3))[0])


@pytest.mark.parametrize(
    "block", [Block(-1, 2, 2), Block(255, 2, 2), Block(250, 2, 2, 6), Block(0, 2**24 + 1, 1), Block(0, 1, -1)]
)
def test_sizes_that_would_repeat_numbers_are_refused(block):
    with pytest.raises(ValueError, match=r"streams are from 0 to 254|at most 2\*\*24 rows and no negative size"):
        normals(KEY, block)
