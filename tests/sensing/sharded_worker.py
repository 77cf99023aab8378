"""What the tests of split problems run in processes of their own; the number of devices is fixed when JAX starts.

``sharded_worker.py eight OUT``: everything that needs eight devices. ``sharded_worker.py process I PORT OUT``: process I of
two, each with its own rows only. OUT is a JSON file of what was found.
"""

import json
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pruneft import FirstOrder, Problem, PruneRecipe, recover
from pruneft.pipeline import Penalty
from pruneft.sensing import PathRecipe, draw_instance, sharded
from pruneft.sensing import lane as lanes
from pruneft.sensing.operator import Gram

D, N = 6, 45  # dof of rank 2 is 11; 45 is no multiple of 8, nor of 2
DIVIDED = 48
ARGUMENTS = {"k": 2, "recipe": PathRecipe(starts=2, attempts=(100,))}

FIRST_ORDER = {
    **{"k": 4, "rank": 2, "method": "prune", "recipe": PruneRecipe(attempts=(200,))},
    "finetune": FirstOrder(optimizer=optax.sgd(0.02), steps=1000),
}


def data():
    """Measurements [N, D, D], y with noise, and weights."""
    generator = np.random.default_rng(5)
    matrices = generator.standard_normal((N, D, D))
    matrices = (matrices + np.swapaxes(matrices, 1, 2)) / 2
    factor = generator.standard_normal((D, 2))
    y = np.einsum("nij,ik,jk->n", matrices, factor, factor) + 0.05 * generator.standard_normal(N)
    weights = generator.uniform(0.5, 2, N)
    return matrices, y, weights


def told(result):
    """A recovery as JSON."""
    values = {name: getattr(result, name) for name in ("rank", "residual", "sigma_estimate", "steps", "devices")}
    history = {name: column.tolist() for name, column in result.history.items() if name in ("residual", "finetune")}
    return {**values, "status": result.status.name, "matrix": result.matrix.tolist(), "history": history}


def padded(array, places):
    """Zero rows at the given places of the longer array."""
    longer = np.zeros((len(array) + len(places), *array.shape[1:]), array.dtype)
    longer[np.setdiff1d(np.arange(len(longer)), places)] = array
    return longer


def eight():
    matrices, y, weights = data()
    # Explicit axes where JAX has them as the default, which is what a user's mesh then has.
    mesh = jax.make_mesh((8,), ("n",))
    plain = Problem.from_arrays(matrices, y)
    split = Problem.from_arrays(matrices, y, mesh=mesh)
    moved = plain.shard(mesh)
    found = {"plain": told(recover(plain, **ARGUMENTS)), "split": told(recover(split, **ARGUMENTS))}
    found["shapes"] = [list(shard.data.shape) for shard in split.operator.rows.addressable_shards]
    found["devices"] = sorted({shard.device.id for shard in split.operator.rows.addressable_shards})
    found["sizes"] = [split.n, split.operator.n, split.operator.d]
    found["moved is split"] = bool(
        np.array_equal(np.asarray(moved.operator.rows), np.asarray(split.operator.rows))
        and np.array_equal(np.asarray(moved.y), np.asarray(split.y))
    )
    dropped = np.where(np.isin(np.arange(N), [3, 17, 18, 40]), 0, weights)
    rows, _, left = sharded.weigh(split.operator, split.y, dropped, split.sharding, N)
    found["left"] = [left, np.flatnonzero(~np.any(np.asarray(rows.rows), axis=1)).tolist()]
    found["given"] = told(recover(given(mesh, matrices, y), **ARGUMENTS))
    for name, problem in (("plain", plain), ("split", split)):
        found[f"{name} weighted"] = told(recover(problem, weights=weights, **ARGUMENTS))
        start = np.full((D, 2), 0.3) + np.eye(D, 2)
        found[f"{name} init"] = told(recover(problem, init=start, seed=3, **ARGUMENTS))
        found[f"{name} first order"] = told(recover(problem, **FIRST_ORDER))
    found["unit"] = [sharded.root_mean_square(split.y, N), float(np.sqrt(np.mean(y**2)))]
    if hasattr(jax, "set_mesh"):
        with jax.set_mesh(mesh):
            found["under a mesh"] = told(recover(plain.shard(mesh), **ARGUMENTS))
    # What no program of the library may do, so that the test that looks for it is seen to find it.
    whole = NamedSharding(split.sharding.mesh, PartitionSpec())
    jax.block_until_ready(jax.jit(gathers, out_shardings=whole)(split.operator.rows))
    found |= gram(mesh) | drawn(mesh)
    found["errors"] = errors(mesh, matrices, y, split)
    return found


def gathers(rows):
    return 2 * rows


def given(mesh, matrices, y):
    """A problem from arrays that are split already, padded between their rows, y on the host."""
    places = [1, 30, 31]
    rows = jax.device_put(padded(matrices, places), NamedSharding(mesh, PartitionSpec("n")))
    return Problem.from_arrays(rows, padded(y, places), live_n=N)


def gram(mesh):
    """The Gram form, which pays when the share of one device is long."""
    out = {}
    for n in (8 * 21 - 8, 8 * 21):
        drawn = draw_instance(jax.random.key(0), n=n, d=D, r=1)
        sharding = sharded.row_sharding(mesh)
        problem = Problem(drawn.operator, drawn.y).shard(mesh)
        begin = jnp.ones((1, 1, D, 2), jnp.float32)
        penalty = Penalty(*(jnp.full((1, 1, 1), 1e-3, jnp.float32) for _ in Penalty._fields))
        lane = sharded.split_lane(problem.operator, problem.y, begin, penalty, sharding, n=n, sigma=None, rank=0)
        whole = lanes.make_lane(drawn.operator, drawn.y, begin, penalty)
        slope = jax.jit(lanes.gradient)
        out[f"gram {n}"] = {
            "is": isinstance(lane.fast, Gram),
            "everywhere": all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(lane.fast)),
            "difference": float(np.max(np.abs(slope(lane, lane.starts[0]) - np.asarray(slope(whole, begin[0]))))),
        }
    return out


def drawn(mesh):
    """Draws on eight devices and on one."""
    law = {"d": D, "r": 2, "sigma": 0.1}
    there, n = sharded.draw_split(jax.random.key(7), mesh, n=N, **law)
    here = draw_instance(jax.random.key(7), n=N, **law)
    problem = Problem(there.operator, there.y, live_n=n)
    return {
        "drawn shapes": [list(shard.data.shape) for shard in problem.operator.rows.addressable_shards],
        "drawn same": bool(np.array_equal(np.asarray(there.operator.rows)[:N], np.asarray(here.operator.rows))),
        "drawn padding": float(np.abs(np.asarray(there.operator.rows)[N:]).max()),
        "drawn y": float(np.abs(np.asarray(there.y)[:N] - np.asarray(here.y)).max()),
    }


def errors(mesh, matrices, y, split):
    """What every wrong call says."""
    square = jax.make_mesh((2, 4), ("a", "b"))
    by_rows = NamedSharding(mesh, PartitionSpec("n"))
    a48, y48 = padded(matrices, [45, 46, 47]), padded(y, [45, 46, 47])
    there = jax.device_put(a48, by_rows)
    half = Mesh(np.array(jax.devices()[:4]), ("n",))
    bad = np.array(a48)
    bad[4, 2, 0] = np.nan
    skewed = np.array(a48)
    skewed[4, 2, 0] += 1
    nan_y = np.array(y48)
    nan_y[9] = np.nan
    calls = {
        "several axes": lambda: Problem.from_arrays(matrices, y).shard(square),
        "unknown axis": lambda: Problem.from_arrays(matrices, y).shard(mesh, "rows"),
        "an axis twice": lambda: Problem.from_arrays(matrices, y, mesh=square, axis=("a", "a")),
        "no mesh": lambda: Problem.from_arrays(matrices, y).shard(8),
        "too few rows": lambda: Problem.from_arrays(matrices[:7], y[:7], mesh=mesh),
        "too few rows to draw": lambda: sharded.draw_split(jax.random.key(0), mesh, n=7, d=3, r=1),
        "y elsewhere": lambda: Problem.from_arrays(there, jax.device_put(y48, NamedSharding(half, PartitionSpec("n")))),
        "y too short": lambda: Problem.from_arrays(there, y48[:-1]),
        "y beside rows too short": lambda: Problem(split.operator, y),
        "only y split": lambda: Problem.from_arrays(a48, jax.device_put(y48, by_rows)),
        "split across matrices": lambda: Problem.from_arrays(
            jax.device_put(a48[:, :, :4], NamedSharding(half, PartitionSpec(None, None, "n"))), y48
        ),
        "split twice": lambda: split.shard(mesh),
        "mesh and split": lambda: Problem.from_arrays(there, y48, mesh=mesh),
        "nan": lambda: Problem.from_arrays(jax.device_put(bad, by_rows), y48),
        "nan in y": lambda: Problem.from_arrays(there, jax.device_put(nan_y, by_rows)),
        "zero A": lambda: Problem.from_arrays(0 * there, y48),
        "zero y": lambda: Problem.from_arrays(there, 0 * y48),
        "asymmetric": lambda: Problem.from_arrays(jax.device_put(skewed, by_rows), y48),
        "live_n too small": lambda: Problem.from_arrays(there, y48, live_n=44),
        "live_n too large": lambda: Problem.from_arrays(there, y48, live_n=49),
        "weights too short": lambda: recover(split, weights=np.ones(44)),
        "negative weights": lambda: recover(split, weights=-np.ones(45)),
        "weights, padding between": lambda: recover(given(mesh, matrices, y), weights=np.ones(45)),
    }
    return {name: raised(call) for name, call in calls.items()}


def raised(call):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            call()
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    return "nothing"


def process(index, port):
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, index)
    matrices, y, _ = data()
    # This process has rows of its own, one of the two a row less, and never makes an array of the others' rows.
    mine = slice(0, 22) if index == 0 else slice(22, N)
    matrices, y = (np.pad(a[mine], [(0, 24 - len(a[mine]))] + [(0, 0)] * (a.ndim - 1)) for a in (matrices, y))
    mesh = jax.make_mesh((2,), ("n",))
    by_rows = NamedSharding(mesh, PartitionSpec("n"))
    A, data_y = (jax.make_array_from_process_local_data(by_rows, a) for a in (matrices, y))
    problem = Problem.from_arrays(A, data_y, live_n=N)
    found = {
        "shape": list(A.shape),
        "own": [list(shard.data.shape) for shard in problem.operator.rows.addressable_shards],
        "whole": raised(lambda: np.asarray(problem.operator.rows)),
        "answer": told(recover(problem, **ARGUMENTS)),
    }
    if index == 1:  # what only one process sees is said by all
        matrices[5, 2, 1] += 1
    skewed = jax.make_array_from_process_local_data(by_rows, matrices)
    found["asymmetric"] = raised(lambda: Problem.from_arrays(skewed, data_y, live_n=N))
    weights = jax.make_array_from_process_local_data(by_rows, np.ones(24))
    start = np.full((D, 2), 0.3) + np.eye(D, 2)
    found["weighted"] = told(recover(problem, weights=weights, init=start, **ARGUMENTS))
    drawn, n = sharded.draw_split(jax.random.key(7), mesh, n=N, d=D, r=2)
    mine = drawn.operator.rows.addressable_shards[0].data
    found["drawn"] = [n, *mine.shape]
    found["drawn rows"] = np.asarray(mine).tolist()
    found["problem"] = Problem(drawn.operator, drawn.y, n).n
    jax.distributed.shutdown()
    return found


if __name__ == "__main__":
    what, *rest, out = sys.argv[1:]
    answer = eight() if what == "eight" else process(*map(int, rest))
    Path(out).write_text(json.dumps(answer))
