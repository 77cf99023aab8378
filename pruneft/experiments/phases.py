"""Figures of the recovery experiments of the other families, as ``draw_<family>`` and ``panels_<family>``.

Apart from the experiments themselves, because what draws is no part of what computes: a run's code hash must not depend on it.
"""

from __future__ import annotations

import functools
from typing import Any

from pruneft.experiments import phase
from pruneft.sensing.families import FAMILIES, family_of


def __getattr__(name: str) -> Any:
    kind, _, family = name.partition("_")
    family = family.replace("_", "-")
    if kind not in ("draw", "panels") or family not in FAMILIES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return functools.partial(getattr(phase, kind), family=family_of(family))
