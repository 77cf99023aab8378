"""Which rank: the criterion for independent fits, and the edge rule for a scan over ranks."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pruneft.sensing.field import Field

# c_m = lambda_max(W)^2 / m at its upper .3 percent point, W an m x m symmetric Gaussian matrix with diagonal variance 1
# and off-diagonal 1/2: how much adding one component to a right fit lowers the RSS by chance, in units that make
# log(RSS) comparable between ranks. m = 1 is exact; the others by simulation, 200000 draws each, standard error below
# .02 (`python -m benchmarks.edge_constants`). For complex M, W is Hermitian and a component has 2m - 1 degrees of freedom.
_EDGE_SIZES = np.array([1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48])
_EDGE_VALUES = np.array(
    [7.55, 5.496, 4.616, 4.138, 3.865, 3.592, 3.34, 3.123, 3.005, 2.821, 2.721, 2.631, 2.524, 2.399]
)
_COMPLEX_EDGE_VALUES = np.array(
    [7.55, 4.168, 3.447, 3.122, 2.909, 2.782, 2.628, 2.512, 2.446, 2.37, 2.304, 2.27, 2.221, 2.164]
)
_LARGE_EDGE = 2.8  # for larger m: c = 2 (1 + t / (2 m^(2/3)))^2 with this t, the Tracy-Widom scaling, matched to the table where they meet


def edge_constants(largest: int, field: Field = "real") -> np.ndarray:
    """``c_m`` for m from 0 to ``largest`` (index 0 repeats m = 1).

    The break-even constant of the edge rule at level .3 percent.
    """
    values = _EDGE_VALUES if field == "real" else _COMPLEX_EDGE_VALUES
    m = np.maximum(np.arange(largest + 1), 1).astype(float)
    table = np.interp(m, _EDGE_SIZES, values)
    last = float(_EDGE_SIZES[-1])
    # The excess over the limit 2 is scaled, so that the continuation meets the table and still tends to 2.
    match = (values[-1] - 2) / (_tracy_widom(np.asarray(last)) - 2)
    return np.where(m > last, 2 + match * (_tracy_widom(np.maximum(m, last)) - 2), table)


def _tracy_widom(m: np.ndarray) -> np.ndarray | np.floating:
    return 2 * (1 + _LARGE_EDGE / (2 * m ** (2 / 3))) ** 2


def edge_penalties(n: Float[Array, ""], dof: Float[Array, "q"], width: int, field: Field = "real") -> Float[Array, "q"]:
    r"""The penalty of every rank q = 1, 2, ... in the edge rule.

    .. math:: -\sum_{j=2}^{q} c_{m(j)} \log \frac{n - p(j)}{n - p(j-1)}, \qquad m(j) = p(j) - p(j-1)

    (for complex M ``2 m(j) - 1 = p(j) - p(j-1)``). Where ranks are not nested in what noise can fit, ``log(RSS) + penalty`` is
    least at the right rank: adding a component that is not there lowers the RSS by about ``sigma^2 lambda_max(W)^2``, W of
    side m, a supremum over directions, while the degrees of freedom grow by only m; generalised cross validation (c = 2)
    sits exactly on that edge and overfits.

    Args:
      n: live measurements (may be traced).
      dof: p(q), degrees of freedom of every rank (may be traced).
      width: padded d, the size of the table of constants.
      field: of M.

    Returns:
      [q], infinite where p(q) >= n. Derived (ours), checked by simulation.
    """
    left = n - dof
    possible = left > 0
    safe = jnp.where(possible, left, 1)
    before = jnp.concatenate([safe[:1], safe[:-1]])
    steps = dof - jnp.concatenate([jnp.zeros_like(dof[:1]), dof[:-1]])
    sides = steps if field == "real" else (steps + 1) / 2
    sizes = jnp.clip(jnp.round(sides), 0, width).astype(jnp.int32)
    constants = jnp.asarray(edge_constants(width, field), n.dtype)[sizes]
    first = jnp.arange(dof.shape[0], dtype=jnp.int32) == 0
    return jnp.where(possible, -jnp.cumsum(jnp.where(first, 0, constants * jnp.log(safe / before))), jnp.inf)


def sure_gap(penalties: Float[Array, "q"], rank: Int[Array, ""], *, most: float, share: float) -> Float[Array, ""]:
    """How far the score of every other rank must lie above that of the chosen one for the choice to be sure.

    ``most``, or ``share`` of what the penalty rises by at the next rank where that is less: both the gap that noise leaves above a
    right fit and that rise fall like 1/n.
    """
    padded = jnp.concatenate([penalties, jnp.full((1,), jnp.inf, penalties.dtype)])
    place = jnp.clip(rank, 1, penalties.shape[0])
    rise = padded[place] - padded[place - 1]
    return jnp.where(jnp.isfinite(rise), jnp.minimum(most, share * rise), most)


def criterion(
    rss: Float[Array, "..."], rank: Int[Array, "..."], dof: Float[Array, "..."], n: Float[Array, ""], *, weight: float
) -> Float[Array, "..."]:
    """``log(RSS/n + 1e-9) - weight log(1 - dof/n)`` for independent fits in normalised units; infinite where dof >= n or the rank is 0.

    With weight 3 it beats BIC and generalised cross validation near interpolation, where BIC's log RSS diverges as dof
    approaches n. Derived (ours).
    """
    share = dof / n
    possible = (share < 1) & (rank > 0)
    score = jnp.log(rss / n + 1e-9) - weight * jnp.log1p(-jnp.where(possible, share, 0))
    return jnp.where(possible & jnp.isfinite(score), score, jnp.inf)


def predicted_error(
    rss: Float[Array, "..."], dof: Float[Array, "..."], n: Float[Array, ""], size: Float[Array, "..."]
) -> Float[Array, "..."]:
    """Predicted ``||M̂ - M*||_F / size`` of a least-squares fit of the right rank.

    ``sqrt(RSS/(n-p)) sqrt(p/(n-p-1)) / size``; infinite for n <= p+1.
    """
    possible = (n > dof + 1) & (size > 0)
    left = jnp.where(possible, n - dof, 2)
    return jnp.where(possible, jnp.sqrt(rss / left * dof / (left - 1)) / jnp.where(possible, size, 1), jnp.inf)
