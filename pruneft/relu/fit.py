"""`fit`: the call for somebody with data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pruneft.relu import admm, gap, inputs, interior, neurons
from pruneft.relu.inputs import Fresh
from pruneft.relu.interior_blocks import Frame, frame
from pruneft.relu.patterns import Patterns, all_patterns, centred, directions_of, sample_patterns
from pruneft.relu.program import Program
from pruneft.relu.result import Fit
from pruneft.relu.solution import Rounds, Solution
from pruneft.relu.watch import watched
from pruneft.status import Status

PATTERNS = 100  # the sampled patterns of a call that names no number
LAM_SHARE = 0.05  # of lam_max, of a call that names no lam
_FINE = 1e-4  # gaps below which the interior-point method is chosen
_AFFORDABLE = 1e10  # multiplications of one of its iterations: a few seconds
_INTERIOR_MOST = 200  # iterations; it takes 20 to 50 or does not get there
_LAM_MAX = jax.jit(gap.lam_max)
_CENTRE_UP_TO = 100_000  # entries of X up to which the linear programs of centred directions pay


class Options(NamedTuple):
    """What every solver is given beside the program."""

    tol: float
    max_iterations: int


class Solver(NamedTuple):
    """A solver: whole, and in its parts for whoever watches."""

    solve: Callable[[Program, Options], Solution]
    prepare: Callable[[Program], Any]
    rounds: Callable[[Program, Any, Options], Rounds]


def _admm(program: Program, options: Options) -> Solution:
    return admm.solve(program, tol=options.tol, max_iterations=options.max_iterations)


def _admm_rounds(program: Program, system: admm.System, options: Options) -> Rounds:
    dtype = program.X.dtype
    return admm.rounds(program, system, jnp.asarray(options.tol, dtype), jnp.asarray(options.max_iterations, jnp.int32))


def _interior(program: Program, options: Options) -> Solution:
    return interior.interior_point(program, tol=options.tol, max_iterations=_iterations(options))


def _interior_rounds(program: Program, fixed: Frame, options: Options) -> Rounds:
    return interior.rounds(program, fixed, jnp.asarray(options.tol, program.X.dtype), _iterations(options))


def _iterations(options: Options) -> int:
    return min(options.max_iterations, _INTERIOR_MOST)


SOLVERS = {
    "admm": Solver(_admm, admm.system, _admm_rounds),
    "interior": Solver(_interior, frame, _interior_rounds),
}


def fit(
    X: Any,
    y: Any,
    *,
    loss: str = "squared",
    form: str = "exact",
    lam: float | None = None,
    patterns: Any = None,
    n_patterns: int | None = None,
    bias: bool = False,
    skip: bool = False,
    tol: float = 1e-4,
    max_iterations: int = 20_000,
    weights: Any = None,
    reduction: str | None = None,
    seed: int | jax.Array = 0,
    method: str | None = None,
    centre: bool | None = None,
    record: bool = False,
    fresh: tuple[Any, Any] | None = None,
    dtype: Any = None,
) -> Fit:
    """Train a two-layer ReLU network to the global optimum of its convex program, and prove how near it is.

    The program holds one block of weights for each activation pattern and sign; with all patterns its optimum is that of every
    network with at least n + 1 neurons, with a sample of them it is an upper bound that the returned network attains.

    Several outputs are trained as one network for each, side by side over the same patterns, and returned as one network. (The
    joint program, whose neurons feed every output, needs a nuclear norm over cones and is out of reach.)

    Args:
      X: [n, d] samples in rows. Columns of unlike size should be standardised.
      y: [n] or [n, K]; real numbers for ``squared``, -1 and 1 for ``hinge`` and ``bce``.
      loss: ``squared`` ``(f - y)^2 / 2``, ``hinge`` ``(1 - y f)_+``, or ``bce`` ``log(1 + exp(-2 y f))``.
      form: ``exact``, or ``relaxed`` (gated) without cones: many times quicker, a lower bound, and in general no ReLU network.
      lam: weight of ``sum_j (||u_j||^2 + alpha_j^2) / 2``; a twentieth of ``lam_max`` if not given.
      patterns: the patterns D [n, P] to use, a `Patterns`, or ``"all"``. Directions are found by linear programs where they are missing.
      n_patterns: how many different ones to sample (100); all there are, with a note, where there are fewer.
      bias: append a column of ones to X, here and in predictions. Its weights are penalised as all others.
      skip: a linear part beside the neurons, penalised by its norm.
      tol: relative gap to reach.
      max_iterations: budget.
      weights: [n] weights of the samples in the loss.
      reduction: ``sum`` or ``mean`` of the loss over samples; the mean for ``hinge``, the sum otherwise.
      seed: of the sampled patterns; a number or a JAX key.
      method: ``admm``, or ``interior`` (the interior-point method: float64 only, some ten iterations that are dear in n and d, gaps down to
        1e-9 and fewer neurons). If not given ``interior`` for ``tol`` below 1e-4 in float64 up to about n = 1000, else ``admm``.
      centre: move directions into the middle of their cones by a linear program each; if not given, for ``admm`` up to 100 000
        entries of X.
      record: run the solver round by round, and keep after each the seconds so far and the error on the training data in ``history``.
        For one output.
      fresh: samples (X, y) that nothing is trained on, whose error is recorded too.
      dtype: ``float32`` or ``float64``; that of X, as far as JAX allows, if not given. Gaps below 1e-4 want float64.

    Raises:
      ValueError: an argument makes no sense; the message says what was expected, what came and what to do.

    Source: Pilanci, Ergen, arXiv:2002.10553; Bai, Gautam, Sojoudi, arXiv:2201.01965; certified gap and repair derived (ours).
    """
    data = inputs.data(X, y, loss=loss, bias=bias, weights=weights, reduction=reduction, dtype=dtype)
    wanted = data.X.dtype
    inputs.check_options(form=form, lam=lam, tol=tol, max_iterations=max_iterations, dtype=wanted)
    if method is not None and method not in SOLVERS:
        raise ValueError(f"method must be one of {', '.join(SOLVERS)}: got {method!r}.")
    if record and data.y.shape[1] > 1:
        raise ValueError(f"record follows one output: y has {data.y.shape[1]} columns. Fit them one by one.")
    if fresh is not None and not record:
        raise ValueError("fresh samples are used by record=True alone: set it, or leave them out.")
    others = None if fresh is None else inputs.fresh(*fresh, like=data, loss=loss, bias=bias)
    chosen = _patterns(data.X, patterns, n_patterns, seed, form)
    if method is None:
        method = _method(len(data.X), data.X.shape[1], chosen.D.shape[1], tol, wanted)
    if centre is None:  # the interior-point method finds the middles by itself
        own = patterns is not None and not isinstance(patterns, str | Patterns)  # whose directions are centred
        centre = form == "exact" and method == "admm" and data.X.size <= _CENTRE_UP_TO and not own
    if centre:
        chosen = chosen._replace(H=centred(data.X, chosen.D, chosen.H))
    program = Program(
        X=jnp.asarray(data.X),
        y=jnp.asarray(data.y[:, 0]),
        D=jnp.asarray(chosen.D),
        H=jnp.asarray(chosen.H),
        lam=jnp.ones((), wanted),
        weights=jnp.asarray(data.weights),
        loss=loss,
        form=form,
        skip=skip,
    )
    programs = [dataclasses.replace(program, y=jnp.asarray(column)) for column in data.y.T]
    limit = max(float(_LAM_MAX(each)) for each in programs)
    if lam is None:
        lam = LAM_SHARE * limit
        if not lam > 0:
            raise ValueError("every weight is zero whatever lam is, because X or y is zero: there is nothing to fit.")
    programs = [dataclasses.replace(each, lam=jnp.asarray(lam, wanted)) for each in programs]
    options, history = Options(tol, int(max_iterations)), None
    if record:
        solution, history = _watch(programs[0], method, options, others)
    else:
        solution = _solve(programs, method, options)
    asked = {"lam": float(lam), "lam_max": limit, "method": method, "bias": bias, "patterns": chosen}
    found = _result(programs, solution, data.single, asked)
    return _with_notes(found if history is None else dataclasses.replace(found, history=history))


def _patterns(X: np.ndarray, given: Any, count: int | None, seed: int | jax.Array, form: str) -> Patterns:
    if given is not None and count is not None:
        raise ValueError("patterns and n_patterns say the same thing twice: give one of them.")
    if isinstance(given, str):
        if given != "all":
            raise ValueError(f"patterns must be a matrix D [n, P], a Patterns, 'all' or None: got {given!r}.")
        chosen = all_patterns(X)
    elif isinstance(given, Patterns):
        chosen = given._replace(D=inputs.own_patterns(given.D, len(X), X.dtype), H=np.asarray(given.H, X.dtype))
        if chosen.H.shape != (X.shape[1], chosen.D.shape[1]) or np.any((2 * chosen.D - 1) * (X @ chosen.H) < 0):
            raise ValueError(
                "H of the patterns must be [d, P] with (2 D - 1) * (X H) >= 0: were they made of the same X?"
            )
    elif given is not None:
        D = inputs.own_patterns(given, len(X), X.dtype)
        relaxed = form == "relaxed"  # which asks for no direction
        return Patterns(D, np.zeros((X.shape[1], D.shape[1]), X.dtype) if relaxed else directions_of(X, D))
    else:
        key = jax.random.key(seed) if isinstance(seed, int | np.integer) else seed
        chosen = sample_patterns(key, X, PATTERNS if count is None else count)
    return chosen


def _method(n: int, d: int, P: int, tol: float, dtype: np.dtype) -> str:
    """The interior-point method where ADMM needs thousands of iterations and a system of n rows is affordable."""
    affordable = n**2 * d * P <= _AFFORDABLE
    return "interior" if tol < _FINE and dtype == np.float64 and affordable else "admm"


def _solve(programs: list[Program], method: str, options: Options) -> Solution:
    """One lane for each output; what does not depend on y is shared.

    Padded, so that problems of about one size (the folds of a cross-validation) share a compiled program.
    """
    solver, first = SOLVERS[method].solve, programs[0]
    sizes = [_room(size, least) for size, least in ((first.n, 16), (first.d, 4), (first.P, 8))]
    padded = [program.padded(*sizes) for program in programs]
    if len(programs) == 1:
        found = jax.tree.map(lambda part: part[None], solver(padded[0], options))
    else:

        def lane(y: jax.Array) -> Solution:
            return solver(dataclasses.replace(padded[0], y=y), options)

        found = jax.vmap(lane)(jnp.stack([program.y for program in padded]))
    return found._replace(U=first.unpadded(found.U, sizes[2]))


def _watch(
    program: Program, method: str, options: Options, fresh: Fresh | None
) -> tuple[Solution, dict[str, np.ndarray]]:
    solver = SOLVERS[method]
    solution, history = watched(
        program, solver.prepare, lambda program, prepared: solver.rounds(program, prepared, options), fresh
    )
    return jax.tree.map(lambda part: part[None], solution), history


def _room(size: int, least: int) -> int:
    """The next power of two, or three quarters of it: at most a third more."""
    power = max(least, 1 << (size - 1).bit_length())
    return 3 * power // 4 if power > least and size <= 3 * power // 4 else power


def _result(programs: list[Program], solution: Solution, single: bool, asked: dict[str, Any]) -> Fit:
    first, blocks = programs[0], np.asarray(solution.U)
    network = neurons.network(programs, list(solution.U), bias=asked["bias"])
    objective = float(np.sum(np.asarray(solution.objective, np.float64)))
    dual = float(np.sum(np.asarray(solution.dual, np.float64)))
    free, P = int(first.skip), first.P
    parts: dict[str, Any] = {
        "U": blocks,
        "V": blocks[..., free : free + P],
        "W": blocks[..., free + P :],
        "linear": blocks[..., 0] if first.skip else np.zeros(blocks.shape[:2], blocks.dtype),
    }
    history = {name: np.asarray(values) for name, values in solution.history._asdict().items()}
    reached = np.any(history["iteration"] >= 0, axis=0)
    history = {name: values[:, reached] for name, values in history.items()}
    if single:
        parts = {name: part[0] for name, part in parts.items()}
        history = {name: part[0] for name, part in history.items()}
    return Fit(
        objective=objective,
        dual=dual,
        gap=(objective - dual) / max(abs(objective), float(np.finfo(blocks.dtype).tiny)),
        iterations=int(np.max(solution.iterations)),
        status=_worst([Status(int(code)) for code in np.asarray(solution.status)]),
        network=network,
        network_objective=math.nan if network is None else float(neurons.network_objective(programs, network)),
        loss=first.loss,
        form=first.form,
        dtype=str(blocks.dtype),
        history=history,
        **parts,
        **asked,
    )


def _worst(statuses: list[Status]) -> Status:
    """That of the output that ended worst; all zero only where every output is."""
    order = (Status.NOT_FINITE, Status.BUDGET_SPENT, Status.CONVERGED, Status.ALL_ZERO)
    return min(statuses, key=order.index)


def _with_notes(fit: Fit) -> Fit:
    notes = [fit.patterns.note] if fit.patterns.note else []
    if fit.lam >= fit.lam_max:
        notes.append(
            f"lam = {fit.lam:.6g} is at or above {fit.lam_max:.6g}, from where on every weight is zero: lower it."
        )
    if fit.network is None:
        notes.append("blocks of this relaxed program break the cones, so it has no ReLU network: it predicts by gates.")
    allowed = 1e-8 if fit.dtype == "float64" else 1e-4
    if abs(fit.network_objective - fit.objective) > allowed * abs(fit.objective):
        notes.append(
            f"the network's objective {fit.network_objective:.9g} differs from that of the blocks, {fit.objective:.9g}: rounding."
        )
    return dataclasses.replace(fit, notes=tuple(notes))
