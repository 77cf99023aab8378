"""What the README shows exists: every command parses, every name of ours is there, every keyword is one that the function takes."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from pruneft.cli._grid import experiment_of
from pruneft.cli._parser import _parser

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(python|bash)\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
PYTHON = [code for kind, code in BLOCKS if kind == "python" and "…" not in code]
COMMANDS = [
    words[words.index("pruneft") + 1 :]
    for kind, code in BLOCKS
    if kind == "bash"
    for line in code.splitlines()
    for part in line.split(" && ")
    if "pruneft" in (words := shlex.split(part, comments=True)) and "pip" not in words
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_parses(words, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "notebooks"))
    monkeypatch.chdir(tmp_path)
    Path("grid.toml").write_text("seeds = 2\n[grid]\nr = [1, 2]\n")
    experiment = experiment_of(words[1:]) if words[0] in ("sweep", "explain") else None
    options = _parser(experiment).parse_args(words)
    assert callable(options.run_command)


def _names(tree: ast.Module) -> dict[str, Any]:
    """What a block imports from this package, by the name that it has there."""
    found: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("pruneft"):
                    found[alias.asname or alias.name.partition(".")[0]] = importlib.import_module(
                        alias.name if alias.asname else alias.name.partition(".")[0]
                    )
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("pruneft"):
            module = importlib.import_module(node.module)
            for alias in node.names:
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")
                found[alias.asname or alias.name] = getattr(module, alias.name)
    return found


def _value(node: ast.expr, names: dict[str, Any]) -> Any:
    """What a name or a chain of attributes of ours stands for; None for all else, and below what is no module."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = _value(node.value, names)
        if inspect.ismodule(owner):
            assert hasattr(owner, node.attr), f"{owner.__name__} has no {node.attr}"
            return getattr(owner, node.attr)
    return None


@pytest.mark.parametrize("place", range(len(PYTHON)))
def test_every_name_and_keyword_is_there(place):
    names: dict[str, Any] = {}
    for code in PYTHON[: place + 1]:  # later examples go on from earlier ones
        names |= _names(ast.parse(code))
    for node in ast.walk(ast.parse(PYTHON[place])):
        if isinstance(node, ast.Attribute):
            _value(node, names)
        if isinstance(node, ast.Call) and callable(called := _value(node.func, names)):
            parameters = inspect.signature(called).parameters
            if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
                unknown = {word.arg for word in node.keywords if word.arg} - set(parameters)
                assert not unknown, f"{ast.unparse(node.func)} takes no {', '.join(sorted(unknown))}"


def test_the_readme_is_read_at_all():
    assert len(COMMANDS) > 25
    assert len(PYTHON) > 8
