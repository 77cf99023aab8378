"""The `pruneft` command."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Any

from pruneft.cli._common import OK, USAGE, CommandError, say

_OUT_OF_MEMORY = "out of memory: choose smaller n, d or k, or fewer --lanes."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code.

    0: done; 1: done, but the answer is not to be used; 2: an error, said in one line on stderr; 130: interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if words[:1] in (["sweep"], ["explain"]):
            _one_thread_each()
        with warnings.catch_warnings():
            warnings.showwarning = _note
            from pruneft.cli._parser import parse  # a second of imports, in which one may be interrupted too

            return parse(words)
    except CommandError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        kept = "; what was finished is kept, and the same command goes on from there" if words[:1] == ["sweep"] else ""
        say(f"pruneft: interrupted{kept}.")
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except MemoryError:
        return _fail(_OUT_OF_MEMORY)
    except Exception as error:  # the last stop before the user: one line, never a traceback
        if os.environ.get("PRUNEFT_TRACEBACK"):
            traceback.print_exc()
        if "RESOURCE_EXHAUSTED" in str(error) or "Out of memory" in str(error):
            return _fail(_OUT_OF_MEMORY)
        first = str(error).strip().partition("\n")[0] or type(error).__name__
        return _fail(
            first
            if _is_expected(error)
            else f"{type(error).__name__}: {first} (set PRUNEFT_TRACEBACK=1 for the traceback)"
        )


def _one_thread_each() -> None:
    """One thread for each linear algebra call; what the user has set stays.

    Lanes are many small products, over which several threads only quarrel: measured 3 to 10 times slower where other
    processes compute too. To be called before JAX starts its backend, which reads these.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    flags = os.environ.get("XLA_FLAGS", "")
    if "multi_thread_eigen" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()


def _is_expected(error: Exception) -> bool:
    from pruneft.sweep import LedgerError

    return isinstance(error, ValueError | OSError | LedgerError | ImportError)


def _note(message: Warning | str, *_: Any, **__: Any) -> None:
    """Warnings as one line, without the place in our source that they come from."""
    say("pruneft: note: " + " ".join(str(message).split()))


def _fail(text: str) -> int:
    say("pruneft: error: " + " ".join(text.split()))
    return USAGE


if __name__ == "__main__":
    sys.exit(main())
