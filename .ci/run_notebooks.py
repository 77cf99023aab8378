"""Run every notebook in notebooks/ from the first cell to the last, and fail if a cell does.

    python .ci/run_notebooks.py                 # fast mode, nothing is written
    python .ci/run_notebooks.py --full          # full size, nothing is written
    python .ci/run_notebooks.py --write         # full size, outputs stored in place

The kernel is the Python that runs this script, whatever kernels are registered on the machine, and it works in a
temporary directory, so that a notebook cannot write into the tree. Needs the ``dev`` extra.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

ROOT = Path(__file__).resolve().parents[1]
CELL_SECONDS = 300
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class ThisPython(KernelSpecManager):
    """Knows one kernel, under every name: the Python that runs this script."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """The kernel of ``sys.executable``. A registered ``python3`` may belong to another environment."""
        launch = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--log-level=ERROR"]
        return KernelSpec(argv=launch, display_name="Python 3", language="python", resource_dir="")


def main(arguments: list[str] | None = None) -> int:
    """Run the notebooks; the exit code says whether all of them ran."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="all in notebooks/ if none is named")
    parser.add_argument("--full", action="store_true", help="full size instead of fast mode (PRUNEFT_FAST=1)")
    parser.add_argument("--write", action="store_true", help="store the outputs in place; always at full size")
    options = parser.parse_args(arguments)
    paths = options.notebooks or sorted((ROOT / "notebooks").glob("*.ipynb"))
    if not paths:
        print(f"no notebook in {ROOT / 'notebooks'}", file=sys.stderr)
        return 1
    # The prose of a notebook describes its full size, so those are the outputs to keep beside it.
    full = options.full or options.write
    failures = [path for path in paths if not run(path, full=full, write=options.write)]
    if failures:
        print(f"{len(failures)} of {len(paths)} notebooks failed: {', '.join(map(str, failures))}", file=sys.stderr)
    return 1 if failures else 0


def run(path: Path, *, full: bool, write: bool) -> bool:
    """Run one notebook, say how it went, and store it if it went well and ``write`` is set."""
    notebook = nbformat.read(path, as_version=4)
    before = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="notebook-") as directory:
        error = _execute(notebook, Path(directory), beside=path.resolve().parent, full=full)
    seconds = time.perf_counter() - before
    if error is not None:
        print(f"FAILED {path} after {seconds:.0f} s\n{error}", file=sys.stderr)
        return False
    if write:
        _tidy(notebook)
        nbformat.validate(notebook)
        nbformat.write(notebook, path)
    size = f", {path.stat().st_size / 1024:.0f} KiB stored" if write else ""
    print(f"ran {path} in {seconds:.0f} s ({'full size' if full else 'fast mode'}{size})")
    return True


def _execute(notebook: nbformat.NotebookNode, directory: Path, *, beside: Path, full: bool) -> str | None:
    """Run all cells, with the modules beside the notebook in reach; None, or the cell that failed and how."""
    environment = {name: value for name, value in os.environ.items() if name != "PRUNEFT_FAST"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(beside), os.environ.get("PYTHONPATH")]))
    environment["IPYTHONDIR"] = str(directory / ".ipython")
    if not full:
        environment["PRUNEFT_FAST"] = "1"
    work = directory / "work"
    work.mkdir()
    client = NotebookClient(
        notebook,
        km=AsyncKernelManager(kernel_spec_manager=ThisPython()),
        timeout=CELL_SECONDS,
        coalesce_streams=True,
        resources={"metadata": {"path": str(work)}},
    )
    try:
        client.execute(env=environment)
    except CellExecutionError as error:
        return _failed_cell(notebook) or _COLOUR.sub("", str(error))
    except (CellTimeoutError, DeadKernelError) as error:
        return _failed_cell(notebook) or _COLOUR.sub("", f"{type(error).__name__}: {error}")
    return None


def _failed_cell(notebook: nbformat.NotebookNode) -> str | None:
    """Source and traceback of the cell that raised."""
    for number, cell in enumerate(notebook.cells, start=1):
        for output in cell.get("outputs", ()):
            if output.output_type == "error":
                source = "\n".join("    " + line for line in cell.source.splitlines())
                trace = _COLOUR.sub("", "\n".join(output.traceback))
                return f"cell {number}:\n\n{source}\n\n{trace}"
    return None


def _tidy(notebook: nbformat.NotebookNode) -> None:
    """Leave out what differs between two runs of the same code: times, versions, names of kernels."""
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({"tags": cell.metadata["tags"]} if cell.metadata.get("tags") else {})
        for output in cell.get("outputs", ()):
            if "metadata" in output:
                output.metadata = nbformat.from_dict({})


if __name__ == "__main__":
    sys.exit(main())
