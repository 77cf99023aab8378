"""Run the benchmarks and write their tables into ``benchmarks/RESULTS.md``.

Run: ``python -m benchmarks.collect`` for all, ``python -m benchmarks.collect gradient`` for one part. What stands
outside a part's markers is left as it is.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.table import put, write

RESULTS = Path(__file__).with_name("RESULTS.md")
PARTS = {
    "gradient": "One gradient step",
    "recovery": "One recovery against peers",
    "peers": "Against the peers, over n/dof and noise",
    "large": "One large problem",
    "sharded": "One problem over several devices",
    "sweep": "Two grids by the sweep engine and without it",
    "engine": "The sweep engine from inside",
    "executors": "Workers and executors",
    "ledger": "The ledger of a sweep",
    "adaptive": "Adaptive allocation against a uniform grid",
    "finetune": "Fine-tuning methods, steps and time",
    "distances": "Positions from squared distances, against the peers",
    "rank_one": "Rank-one measurements and quadratic networks",
    "pauli": "Pauli observables and state tomography",
    "limit": "The transition, and what the penalty contributes",
    "entries": "Completion from observed entries",
    "relu": "Convex ReLU networks: interior points and ADMM against conic solvers, and AdamW",
    "relu_data": "Convex ReLU networks on real data, against AdamW",
    "relu_robust": "ReLU networks trained against attacks",
    "planted": "Minimum-norm programs of planted neurons",
    "laperm": "Lookahead permutation beside Adam",
    "edge": "Sharpness, monitoring and tracking at the edge of stability",
    "network": "Pruned networks: time over width, discovery, thresholding",
}
_HEAD = """# Results

Numbers with the command and the machine that made them. Only ratios within one run mean much: times move with the
machine and with what else it does.
"""


def collect(part: str) -> None:
    """Run one part in this process and write its tables."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax

    jax.config.update("jax_enable_x64", True)
    from benchmarks.timing import machine

    begin = os.getloadavg()[0]
    tables = importlib.import_module(f"benchmarks.bench_{part}").measure()
    where = (
        f"`python -m benchmarks.collect {part}`, {datetime.date.today().isoformat()}. {machine()}. "
        f"Load average {begin:.1f} before, {os.getloadavg()[0]:.1f} after."
    )
    body = "\n\n".join([where, *(table.markdown() for table in tables)])
    text = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else _HEAD
    write(RESULTS, put(text, part, PARTS[part], body))
    print(body)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="part", help=f"any of {', '.join(PARTS)}; all if none is given")
    asked = parser.parse_args().parts
    unknown = sorted(set(asked) - set(PARTS))
    if unknown:
        parser.error(f"unknown part {', '.join(unknown)}: known are {', '.join(PARTS)}.")
    if len(asked) == 1:
        collect(asked[0])
        return 0
    # A fresh process for each, so that no part finds programs compiled by another.
    codes = [
        subprocess.run([sys.executable, "-m", "benchmarks.collect", part], check=False).returncode
        for part in asked or PARTS
    ]
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
