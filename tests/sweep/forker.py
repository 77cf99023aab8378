"""Processes of their own for tests that kill, starve or lock out a process, at the price of a single start of Python.

A server imports what is slow to import and forks a child for each request, so a child is there in milliseconds.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

_SERVER = """
import json, os, sys, traceback
from pathlib import Path
from pruneft.sweep.code import Code
from pruneft.sweep.ledger import Ledger, LedgerError, Row
from pruneft.sweep.runs import hold

for line in sys.stdin:
    request = json.loads(line)
    if "wait" in request:
        print(os.waitpid(request["wait"], 0)[1], flush=True)
        continue
    pid = os.fork()
    if pid == 0:
        output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        code = 0
        try:
            exec(request["body"], {**globals(), **request["names"]})
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        os._exit(code)
    print(pid, flush=True)
"""


class Child:
    """A forked process and what it prints."""

    def __init__(self, server: subprocess.Popen[str], body: str, output: Path, names: dict[str, Any]) -> None:
        self._server, self._output = server, output
        self.pid = self._ask({"body": body, "output": str(output), "names": names})

    def _ask(self, request: dict[str, Any]) -> int:
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())

    def lines(self) -> list[str]:
        """The whole lines printed so far."""
        text = self._output.read_text() if self._output.exists() else ""
        return text[: text.rfind("\n") + 1].splitlines()

    def first_line(self) -> str:
        """Wait for the first line."""
        deadline = time.monotonic() + 30
        while not self.lines():
            assert time.monotonic() < deadline, "the process printed nothing"
            time.sleep(0.002)
        return self.lines()[0]

    def kill(self, number: int) -> list[str]:
        """Send a signal, wait for the end, and return what was printed until then."""
        os.kill(self.pid, number)
        self._ask({"wait": self.pid})
        return self.lines()

    def finish(self) -> list[str]:
        """Wait for a good end and return what was printed."""
        status = self._ask({"wait": self.pid})
        assert status == 0, self._output.read_text()
        return self.lines()


@functools.cache
def _server() -> subprocess.Popen[str]:
    path = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    server = subprocess.Popen(
        [sys.executable, "-c", _SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"},  # JAX warns of forks; no child uses it
    )

    def stop() -> None:
        server.stdin.close()
        server.wait(timeout=10)
        server.stdout.close()

    atexit.register(stop)
    return server


def fork(body: str, output: Path, **names: Any) -> Child:
    """Run ``body`` in a process that has Ledger, LedgerError, Row, Code, hold, json, os, Path and ``names``."""
    return Child(_server(), body, output, names)
