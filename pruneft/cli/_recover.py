"""`pruneft recover`."""

from __future__ import annotations

import argparse
import math
from typing import Any

import numpy as np

from pruneft.cli._common import (
    NOT_OK,
    OK,
    CommandError,
    check_memory,
    check_target,
    sensing_bytes,
    set_precision,
    show,
    show_json,
)
from pruneft.cli._files import read

_DRAWN = ("n", "d", "r", "kappa", "scale")


def run(options: argparse.Namespace) -> int:
    """Recover, certify and print."""
    set_precision(options.dtype)
    from pruneft.sensing import certify

    target = None if options.out is None else check_target(options.out)
    given = [name for name in _DRAWN if getattr(options, name) is not None]
    if options.file is not None and given:
        raise CommandError(
            f"--{given[0]} describes an instance to draw, but {options.file} was given: leave out one of them."
        )
    if options.file is None:
        problem, truth = _draw(options)
    else:
        problem, truth = read(options.file, options.operator, options.dtype, options.k), None
    result = _recover(problem, options, truth)
    certificate = certify(problem, result)
    values = {**result.summary(), "certificate": certificate.summary()}
    if truth is not None:
        unit = np.max(np.abs(truth))  # squares of 1e300 overflow
        values["error"] = float(np.linalg.norm((result.matrix - truth) / unit) / np.linalg.norm(truth / unit))
    if target is not None:
        values["out"] = str(result.save(target))
    if options.json:
        show_json(values)
    else:
        _print(values)
    return OK if result.ok and certificate.ok else NOT_OK


def _recover(problem: Any, options: argparse.Namespace, truth: np.ndarray | None) -> Any:
    from pruneft.sensing import recover

    sigma = options.sigma
    if truth is not None and sigma is None:
        sigma = 0.0  # a drawn instance without --sigma is noiseless, and that is known
    return recover(
        problem,
        k=options.k,
        rank=options.rank,
        sigma=sigma,
        method=options.method,
        lam=options.lam,
        beta=options.beta,
        seed=options.seed,
        dtype=options.dtype,
        finetune=None if options.finetune == "lm" else "auto",
    )


def _draw(options: argparse.Namespace) -> tuple[Any, np.ndarray]:
    from pruneft.experiments import OPERATORS, load
    from pruneft.sensing import Problem
    from pruneft.sensing.families import draw, family_of
    from pruneft.trial import wrap_key

    missing = [f"--{name}" for name in ("n", "d", "r") if getattr(options, name) is None]
    if missing:
        raise CommandError(
            f"give FILE.npz with the data, or --n, --d and --r to draw an instance: {', '.join(missing)} missing."
        )
    experiment, family = load(OPERATORS[options.operator]), family_of(options.operator)
    asked = {name: getattr(options, name) for name in (*_DRAWN, "sigma", "k") if getattr(options, name) is not None}
    cell = experiment.resolve(asked)
    n, d, k = cell["n"], cell["d"], cell["k"]
    if family.name == "gaussian":
        check_memory(sensing_bytes(n, d, k, options.dtype), f"an instance of n={n}, d={d}, k={k}")
    drawn = draw(
        family,
        wrap_key(experiment.key_data(cell, options.seed)),
        **{name: cell[name] for name in ("n", "d", "r", "kappa", "scale", "sigma")},
        dtype=options.dtype,
    )
    truth = np.asarray(drawn.truth)
    wide = truth.astype(np.complex128 if np.iscomplexobj(truth) else np.float64)
    return Problem(drawn.operator, drawn.y, n), wide


def _print(values: dict[str, Any]) -> None:
    show(
        f"status          {values['status'].replace('_', ' ')}"
        + ("" if values["ok"] else "   (do not use this answer)")
    )
    show(f"                {values['message']}")
    show(f"rank            {values['rank']}")
    shown = ", ".join(f"{v:.6g}" for v in values["eigenvalues"][:12])
    show(f"eigenvalues     {shown}{', ...' if values['rank'] > 12 else ''}")
    for name, text in (("residual", "residual"), ("error", "true error")):
        value = values.get(name)
        if value is not None and math.isfinite(value):
            show(f"{text:<16}{value:.3g} (relative)")
    _print_certificate(values["certificate"])
    show(f"steps           {values['steps']}")
    if "out" in values:
        show(f"written to      {values['out']}")


def _print_certificate(values: dict[str, Any]) -> None:
    for name, text, unit in (
        ("sigma", "sigma estimate", "units of y"),
        ("relative_error", "predicted error", "relative"),
    ):
        low, high = values[f"{name}_interval"]
        if None not in (values[name], low, high):
            show(f"{text:<16}{values[name]:.3g} ({unit}), {low:.3g} to {high:.3g} with 95 percent confidence")
    if values["eigenvalue_p"] is not None:
        show(
            f"residual tests  p = {values['eigenvalue_p']:.2g} (largest eigenvalue), {values['energy_p']:.2g} (energy); "
            "small if it is not like noise"
        )
    show(f"verdict         {values['verdict'].replace('_', ' ')}")
    for reason in values["reasons"]:
        show(f"                {reason}")
