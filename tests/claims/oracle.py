"""The oracle's fit: least squares at the true rank from the truth itself, on the instance of a trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pruneft.experiments.recovery import RECOVERY
from pruneft.optim import LMConfig
from pruneft.pipeline import Penalty
from pruneft.sensing import draw_instance
from pruneft.sensing import lane as lanes
from pruneft.trial import wrap_key


def oracle_errors(rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Relative Frobenius error of the oracle's fit for each row of a sweep; all of one d."""
    names = [axis.name for axis in RECOVERY.axes]
    keys = np.stack(
        [RECOVERY.key_data({name: row[name] for name in names if name in row}, row["seed"]) for row in rows]
    )
    n, d, r = max(row["n"] for row in rows), rows[0]["d"], max(row["r"] for row in rows)
    values = {name: jnp.array([float(row[name]) for row in rows]) for name in ("n", "r", "kappa", "sigma")}
    unpenalised = Penalty(*jnp.zeros((4, 1, 1, 1), jnp.float32))

    def error(key: jax.Array, cell: dict[str, jax.Array]) -> jax.Array:
        live, rank = (jnp.round(cell[name]).astype(jnp.int32) for name in ("n", "r"))
        drawn = draw_instance(
            wrap_key(key), n=n, d=d, r=rank, kappa=cell["kappa"], sigma=cell["sigma"], dtype=jnp.float64, live_n=live
        )
        begin = jnp.zeros((1, 1, d, d), jnp.float32)
        lane = lanes.make_lane(drawn.operator, drawn.y, begin, unpenalised, n=live)
        # Columns beyond the rank of the truth are zero at the start and stay so.
        found = lanes.fit(lane, drawn.factor[None, :, :r] / jnp.sqrt(lane.scale), LMConfig()).x.reshape(d, r)
        return jnp.linalg.norm(lane.scale * found @ found.T - drawn.truth) / jnp.linalg.norm(drawn.truth)

    return np.asarray(jax.jit(jax.vmap(error))(jnp.asarray(keys), values))
