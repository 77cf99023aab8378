"""`pruneft plot`, `pruneft runs`, `pruneft reproduce`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from pruneft.cli._common import (
    OK,
    CommandError,
    check_archive,
    check_figure,
    check_memory,
    need_figures,
    progress,
    sensing_bytes,
    set_precision,
    show,
    show_json,
)
from pruneft.experiments import EXPERIMENTS, load, locate
from pruneft.files import save_arrays
from pruneft.sweep import Ledger, find_ledger, list_runs

RUN_KINDS = ("phase", "risk")
RECOVERY_KINDS = ("training", "columns")
KINDS = (*RUN_KINDS, *RECOVERY_KINDS)


def plot(options: argparse.Namespace) -> int:
    """Draw a run or a saved recovery."""
    need_figures()
    from pruneft.plot import save

    recovery = options.target.endswith(".npz")
    allowed = RECOVERY_KINDS if recovery else RUN_KINDS
    kind = options.kind or allowed[0]
    if kind not in allowed:
        what = "a saved recovery" if recovery else "a run"
        raise CommandError(f"--kind {kind} is not for {what}: choose {' or '.join(allowed)}.")
    if recovery:
        default = Path(options.target).with_name(f"{Path(options.target).stem}-{kind}.png")
    else:
        default = find_ledger(options.runs_dir, options.target).parent / (
            "figure.png" if kind == "phase" else f"{kind}.png"
        )
    target = check_figure(default if options.out is None else options.out)
    figure = _draw_recovery(options.target, kind) if recovery else _draw_run(options, kind)
    save(figure, target)
    if options.json:
        show_json({"figure": target})
    else:
        show(f"figure  {target}")
    return OK


def _draw_run(options: argparse.Namespace, kind: str) -> Any:
    with Ledger.open(find_ledger(options.runs_dir, options.target), read_only=True) as ledger:
        rows, name, manifest = ledger.rows(), ledger.experiment, ledger.manifest
    if kind == "risk":
        if name != "recovery":
            raise CommandError(f"a risk curve is drawn from runs of recovery: this is a run of {name}.")
        return locate("pruneft.experiments.risk:draw")(rows)
    place = EXPERIMENTS.get(name or "", manifest.get("experiment_place", ""))
    if not place:
        raise CommandError(f"this run's experiment {name!r} is not known here: draw it by running its sweep again.")
    experiment = load(name if name in EXPERIMENTS else place)
    if not experiment.figure:
        raise CommandError(f"experiment {experiment.name} has no figure: give it Experiment(figure='module:function').")
    return locate(experiment.figure)(rows)


def _draw_recovery(file: str, kind: str) -> Any:
    import jax.numpy as jnp

    from pruneft.plot import before_after, training_curves
    from pruneft.prune import keep_share
    from pruneft.sensing import PruneRecipe, Recovery

    check_archive(file, "what `pruneft recover --out` writes")
    result = Recovery.load(file)
    if "column_norms" not in result.history:
        raise CommandError(f"{file} holds no history: nothing to draw.")
    if kind == "training":
        return training_curves(result.history).figure
    norms = result.history["column_norms"][-1]
    share = PruneRecipe().share
    return before_after(
        norms, np.asarray(keep_share(jnp.asarray(norms), share)), threshold=share * float(norms.max())
    ).figure


def runs(options: argparse.Namespace) -> int:
    """List the runs of a directory."""
    found = list_runs(options.runs_dir)
    if options.json:
        show_json({"runs_dir": options.runs_dir, "runs": [info._asdict() for info in found]})
        return OK
    if not found:
        show(f"no runs in {options.runs_dir}")
        return OK
    width = max(len(info.name) for info in found)
    for info in found:
        what = info.problem or f"{info.experiment}, {info.trials} trials, {info.changed:%Y-%m-%d %H:%M}"
        show(f"{info.name:<{width}}  {what}")
    return OK


def reproduce(options: argparse.Namespace) -> int:
    """Figure 1: make it, keep its numbers."""
    need_figures()
    from pruneft.experiments.prunability import check, columns_kept, draw_figure, prunability
    from pruneft.plot import save
    from pruneft.sensing import theory

    figure = check_figure(options.out)
    set_precision("float32")
    d, r = options.d, options.r
    k = d if options.k is None else options.k
    check(
        d=d,
        k=k,
        r=r,
        n_per_dof=options.n_per_dof,
        seeds=options.seeds,
        steps=options.steps,
        plain_steps=options.plain_steps,
    )
    n = round(options.n_per_dof * theory.dof(d, r))
    check_memory(sensing_bytes(n, d, k, "float32"), f"an instance of n={n}, d={d}, k={k}")
    with progress("prunability", quiet=options.quiet) as bar:
        bar(total=options.seeds, note="the first seed includes compilation")
        result = prunability(
            d=options.d,
            k=k,
            r=options.r,
            n_per_dof=options.n_per_dof,
            seeds=options.seeds,
            steps=options.steps,
            plain_steps=options.plain_steps,
            on_seed=lambda done: bar(completed=done),
        )
    numbers = save_arrays(figure.with_suffix(".npz"), result._asdict())
    save(draw_figure(result), figure)
    kept = {name: float(np.mean(columns_kept(norms))) for name, norms in list(result._asdict().items())[:2]}
    values = {"figure": figure, "numbers": numbers, "columns_kept": kept}
    if options.json:
        show_json(values)
        return OK
    show(f"columns above the pruning threshold, mean over {options.seeds} instances (k = {k}, r = {options.r})")
    show(f"  with the penalty     {kept['with_penalty']:.1f}")
    show(f"  without the penalty  {kept['without_penalty']:.1f}")
    show(f"figure  {figure}")
    show(f"numbers {numbers}")
    return OK
