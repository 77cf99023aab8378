import jax.numpy as jnp
import numpy as np
import pytest

from pruneft.sensing import packed_size, smat, svec, unpacked_size


def _symmetric(shape=(3, 5, 5), seed=0):
    matrix = np.random.default_rng(seed).standard_normal(shape)
    return matrix + np.swapaxes(matrix, -1, -2)


def test_layout_is_the_upper_triangle_by_columns_with_root_two_off_the_diagonal():
    matrix = jnp.asarray([[1.0, 2.0, 4.0], [2.0, 3.0, 5.0], [4.0, 5.0, 6.0]])
    root = 2**0.5
    np.testing.assert_allclose(svec(matrix), [1, 2 * root, 3, 4 * root, 5 * root, 6], rtol=1e-15)


def test_packing_keeps_inner_products_and_norms(dtype, tolerance):
    a, b = _symmetric(seed=1), _symmetric(seed=2)
    packed = svec(jnp.asarray(a, dtype)), svec(jnp.asarray(b, dtype))
    assert packed[0].dtype == dtype
    np.testing.assert_allclose(
        np.sum(np.asarray(packed[0]) * np.asarray(packed[1]), axis=-1),
        np.einsum("bij,bij->b", a, b),
        rtol=10 * tolerance,
    )
    np.testing.assert_allclose(np.linalg.norm(packed[0], axis=-1), np.linalg.norm(a, axis=(1, 2)), rtol=tolerance)


def test_smat_is_the_inverse_of_svec(dtype, tolerance):
    matrix = jnp.asarray(_symmetric(), dtype)
    unpacked = smat(svec(matrix))
    assert unpacked.dtype == dtype
    np.testing.assert_allclose(unpacked, matrix, rtol=tolerance)
    np.testing.assert_array_equal(unpacked, np.swapaxes(unpacked, -1, -2))


def test_leading_block_is_a_prefix():
    matrix = jnp.asarray(_symmetric())
    for b in range(1, 6):
        np.testing.assert_array_equal(svec(matrix[:, :b, :b]), svec(matrix)[:, : packed_size(b)])


def test_sizes_are_inverse_to_each_other():
    assert [packed_size(d) for d in range(1, 6)] == [1, 3, 6, 10, 15]
    assert all(unpacked_size(packed_size(d)) == d for d in range(1, 300))


@pytest.mark.parametrize("size", [0, -1, 2, 4, 5, 7, 2**40])
def test_a_length_that_no_matrix_has_is_refused(size):
    with pytest.raises(ValueError, match=rf"has d\(d\+1\)/2 entries .*: got {size}\. The nearest are"):
        unpacked_size(size)
