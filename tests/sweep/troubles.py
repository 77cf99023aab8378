"""The toy with trials that do harm to the process they run in, for tests that look what becomes of the others.

Workers import it by name. A trial learns from its ``gain`` what it has to do when it is drawn; what is done once only leaves
a file in the directory that the environment variable names.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pruneft.trial import Bucket, Experiment, Trial
from tests.sweep.toy import TOY

WHERE = "PRUNEFT_TEST_TROUBLES"
GOOD, SLOW, KILLS, EXITS, KILLS_ONCE, RAISES, ENDLESS = 0.5, 0.25, 0.125, 0.0625, 0.375, 0.75, 0.625
_SLOW_SECONDS = 0.02


def _meet(gains: Any) -> np.ndarray:
    """Do what the gains say; zeros of their shape."""
    for gain in np.asarray(gains).ravel().tolist():
        if gain == SLOW:
            time.sleep(_SLOW_SECONDS)
        elif gain == KILLS:
            os.kill(os.getpid(), signal.SIGKILL)
        elif gain == EXITS:
            os._exit(0)
        elif gain == KILLS_ONCE:
            mark = Path(os.environ[WHERE]) / "killed"
            if not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        elif gain == RAISES:
            raise ArithmeticError("this trial is of no use")
        elif gain == ENDLESS:
            time.sleep(1000)
    return np.zeros(np.shape(gains), np.int32)


def _trial(bucket: Bucket) -> Trial:
    plain = TOY.trial(bucket)

    def draw(key: jax.Array, inputs: Any) -> Any:
        problem = plain.draw(key, inputs)
        nothing = jax.pure_callback(_meet, jax.ShapeDtypeStruct((), jnp.int32), problem.gain, vmap_method="expand_dims")
        return problem._replace(length=problem.length + nothing)

    return Trial(**{**plain.__dict__, "draw": draw})


TROUBLES: Experiment = dataclasses.replace(TOY, name="troubles", trial=_trial, module=__name__, settings="troubles")
