"""The content hash of what an experiment runs, so that changed code never passes for old in a ledger.

The rule: a change in any source line that can run inside the experiment's trial changes the hash. Imports are followed
in the syntax tree, without importing anything, so the hash depends on files alone. Where the tree does not say which
module is meant, too much is hashed rather than too little: a hash too many costs repeated trials, one too few mixes the
numbers of two programs.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import json
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from pruneft.trial import Experiment, canonical_json

_HOUSE = "pruneft"
# They plan, store and show trials; a trial's numbers come from (key, cell) alone. The registry only lists experiments.
_LEFT_OUT = ("pruneft.plot", "pruneft.report", "pruneft.sweep", "pruneft.cli", "pruneft.__main__")
_REGISTRY = "pruneft.experiments"


@dataclass(frozen=True)
class Code:
    """What an experiment ran.

    Attributes:
      hash: of all the rest, 32 hexadecimal digits.
      modules: module name -> hash of its source.
      settings: canonical JSON of the experiment's name and settings and of the run's settings.
    """

    hash: str
    modules: Mapping[str, str]
    settings: str

    def differences(self, other: Code) -> list[str]:
        """What changed from this code to the other one, a phrase for each module and setting; empty if nothing did."""
        found = [f"module {name} was removed" for name in sorted(set(self.modules) - set(other.modules))]
        found += [f"module {name} was added" for name in sorted(set(other.modules) - set(self.modules))]
        both = sorted(set(self.modules) & set(other.modules))
        found += [f"module {name} changed" for name in both if self.modules[name] != other.modules[name]]
        before, after = json.loads(self.settings), json.loads(other.settings)
        found += [
            f"setting {name} was {_shown(before['run'], name)}, is {_shown(after['run'], name)}"
            for name in sorted({*before["run"], *after["run"]})
            if _shown(before["run"], name) != _shown(after["run"], name)
        ]
        if before["settings"] != after["settings"]:
            found.append(f"the experiment's settings were {before['settings']!r}, are {after['settings']!r}")
        if before["experiment"] != after["experiment"]:
            found.append(f"the experiment was {before['experiment']!r}, is {after['experiment']!r}")
        return found


def _shown(settings: Mapping[str, Any], name: str) -> str:
    return repr(settings[name]) if name in settings else "absent"


def code_of(experiment: Experiment, settings: Mapping[str, Any] | None = None) -> Code:
    """The code of an experiment: its module, and all of its project and of pruneft that it imports, however deep.

    A module's own project is the top-level package it is in and what lies beside it, unless that is where packages are
    installed; so a helper next to a single file counts, and JAX does not (versions of other packages belong into a
    ledger's manifest). The parts of pruneft that plan, store and show trials are left out.

    Args:
      experiment: ``experiment.module`` is where the search starts; ``__main__`` is known by the name of its file.
      settings: whatever else of the run changes its numbers (the dtype, for example); numbers, strings, lists and
        dicts.

    Raises:
      ValueError: the module's source cannot be found or read, or the settings do not go into JSON.
    """
    try:
        text = canonical_json(
            {
                "experiment": experiment.name,
                "settings": experiment.settings,
                "run": {} if settings is None else settings,
            }
        )
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"settings must hold finite numbers, strings, lists and dicts only, got {settings!r}: {error}"
        ) from error
    importlib.invalidate_caches()  # a file written a moment ago counts
    modules = _Search(*_start(experiment.module)).modules()
    digest = hashlib.blake2b(canonical_json({"modules": modules, "settings": text}).encode(), digest_size=16)
    return Code(hash=digest.hexdigest(), modules=modules, settings=text)


def _start(module: str) -> tuple[str, Path | None]:
    """The name under which a module is known here, and the directory of its project (None: only pruneft counts)."""
    if module == "__main__":
        main = sys.modules["__main__"]
        file = getattr(main, "__file__", None)
        spec = getattr(main, "__spec__", None)
        if spec is not None:  # python -m package.module
            module = spec.name
        elif file is not None:
            return Path(file).stem, Path(file).resolve().parent
        else:
            raise ValueError(
                "the experiment is defined at an interactive prompt, so its code cannot be recorded. Put it into a "
                "file and import it."
            )
    top = module.partition(".")[0]
    spec = _top_spec(top)
    if spec is None:
        raise ValueError(
            f"cannot find the module {module!r} that defines the experiment. Run from the directory it is in, or "
            "install its package."
        )
    place = spec.origin or next(iter(spec.submodule_search_locations or ()), None)
    if place is None or top == _HOUSE:
        return module, None
    package = spec.submodule_search_locations is not None
    root = Path(place).resolve().parent
    if package and spec.origin is not None:
        root = root.parent
    return module, root


def _top_spec(top: str) -> ModuleSpec | None:
    """How Python finds a top-level module, which may be one that was loaded by path from the working directory."""
    loaded = getattr(sys.modules.get(top), "__spec__", None)
    if loaded is not None:
        return loaded
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:  # loaded without a spec
        spec = None
    return spec or PathFinder.find_spec(top, [str(Path.cwd())])


@dataclass
class _Search:
    """One walk through the imports.

    Attributes:
      start: the experiment's module.
      root: directory in which top-level modules of its project lie; None if they are pruneft's.
    """

    start: str
    root: Path | None
    _specs: dict[str, ModuleSpec | None] = field(default_factory=dict)
    _trees: dict[str, ast.Module] = field(default_factory=dict)

    def modules(self) -> dict[str, str]:
        """Module name -> hash of its source, sorted by name."""
        if self._spec(self.start) is None:
            raise ValueError(
                f"cannot find the source of module {self.start!r}. Keep the experiment in a file of its project."
            )
        # A target is a module and, in a thin package, the one name that is wanted from it.
        todo: list[tuple[str, str | None]] = [(self.start, None)]
        done: set[tuple[str, str | None]] = set()
        hashes: dict[str, str] = {}
        while todo:
            target = todo.pop()
            if target in done:
                continue
            done.add(target)
            module, name = target
            if module not in hashes and (source := self._source(module)) is not None and module != _REGISTRY:
                hashes[module] = hashlib.blake2b(source, digest_size=16).hexdigest()
            todo.extend(self._parents(module))
            todo.extend(self._named(module, name) if name is not None and self._thin(module) else self._all(module))
        return dict(sorted(hashes.items()))

    def _parents(self, module: str) -> Iterator[tuple[str, str | None]]:
        """The packages on the way to a module: they run too, but in pruneft they only hand names on."""
        while module := module.rpartition(".")[0]:
            yield (module, "") if self._thin(module) else (module, None)

    def _thin(self, module: str) -> bool:
        spec = self._spec(module)
        house = module.partition(".")[0] == _HOUSE
        return house and spec is not None and spec.submodule_search_locations is not None

    def _all(self, module: str) -> Iterator[tuple[str, str | None]]:
        tree = self._tree(module)
        # A lazy package names its modules in strings that its __getattr__ looks up.
        lazy = any(isinstance(node, ast.FunctionDef) and node.name == "__getattr__" for node in tree.body)
        for node in ast.walk(tree):
            yield from self._imported(module, node)
            if lazy and isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield from self._by_string(module, node.value)

    def _named(self, module: str, name: str) -> Iterator[tuple[str, str | None]]:
        """What a name of a thin package stands for: a submodule, an import, or else all that the package reaches."""
        if not name:
            return
        imports: list[ast.AST] = []
        for node in ast.walk(self._tree(module)):
            if isinstance(node, ast.Import | ast.ImportFrom):
                bound = [alias for alias in node.names if (alias.asname or alias.name.partition(".")[0]) == name]
                if bound and isinstance(node, ast.Import):
                    imports.append(ast.Import(bound))
                elif bound and isinstance(node, ast.ImportFrom):
                    imports.append(ast.ImportFrom(node.module, bound, node.level))
        submodule = f"{module}.{name}"
        yield from self._target(submodule)
        for node in imports:
            yield from self._imported(module, node)
        if not imports and self._spec(submodule) is None:
            yield from self._all(module)

    def _imported(self, module: str, node: ast.AST) -> Iterator[tuple[str, str | None]]:
        """The targets of one import statement, or of a call of ``import_module`` with a plain string."""
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from self._target(alias.name)
                if alias.asname is None:  # `import a.b` binds a, and with it whatever a holds
                    yield from self._target(alias.name.partition(".")[0])
        elif isinstance(node, ast.ImportFrom):
            base = self._absolute(module, "." * node.level + (node.module or ""))
            for alias in node.names:
                if alias.name == "*":
                    yield from self._target(base)
                elif self._counts(base):
                    yield base, alias.name
                    yield from self._target(f"{base}.{alias.name}")
        elif isinstance(node, ast.Call) and node.args:
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            first = node.args[0]
            if (
                called in ("import_module", "__import__")
                and isinstance(first, ast.Constant)
                and isinstance(first.value, str)
            ):
                yield from self._by_string(module, first.value)

    def _by_string(self, module: str, text: str) -> Iterator[tuple[str, str | None]]:
        if all(part.isidentifier() for part in text.lstrip(".").split(".")):
            for name in (self._absolute(module, text), f"{module}.{text.lstrip('.')}"):
                yield from self._target(name)

    def _absolute(self, module: str, name: str) -> str:
        level = len(name) - len(name.lstrip("."))
        if level == 0:
            return name
        spec = self._spec(module)
        parts = module.split(".")
        drop = level - 1 if spec is not None and spec.submodule_search_locations is not None else level
        return ".".join([*parts[: len(parts) - drop], *filter(None, [name[level:]])])

    def _target(self, module: str) -> Iterator[tuple[str, str | None]]:
        if self._counts(module):
            yield module, None

    def _counts(self, module: str) -> bool:
        """Whether a change of this module may change a trial's numbers."""
        if module != self.start and any(module == name or module.startswith(name + ".") for name in _LEFT_OUT):
            return False
        return self._spec(module) is not None

    def _spec(self, module: str) -> ModuleSpec | None:
        """Where a module of the project or of pruneft is; None for every other one. Imports nothing."""
        if module not in self._specs:
            parent, _, _ = module.rpartition(".")
            spec = None
            if not parent:
                own = module == self.start.partition(".")[0]
                if self.root is not None and (own or not _is_site(self.root)):
                    spec = PathFinder.find_spec(module, [str(self.root)])
                if spec is None and (own or module == _HOUSE):
                    spec = _top_spec(module)
            else:
                above = self._spec(parent)
                if above is not None and above.submodule_search_locations is not None:
                    spec = PathFinder.find_spec(module, list(above.submodule_search_locations))
            self._specs[module] = spec
        return self._specs[module]

    def _source(self, module: str) -> bytes | None:
        """The source with LF newlines; a compiled module's bytes; None for a package without ``__init__``."""
        spec = self._spec(module)
        if spec is None or spec.origin is None:
            return None
        try:
            data = Path(spec.origin).read_bytes()
            # Decoded as Python would: a byte order mark and a coding line are honoured, CRLF becomes LF.
            return importlib.util.decode_source(data).encode() if spec.origin.endswith(".py") else data
        except (OSError, SyntaxError, UnicodeDecodeError) as error:
            raise ValueError(
                f"cannot read the source of module {module!r}: {error}. The experiment runs it, so it must be readable."
            ) from error

    def _tree(self, module: str) -> ast.Module:
        if module not in self._trees:
            spec = self._spec(module)
            source = self._source(module) if spec is not None and (spec.origin or "").endswith(".py") else None
            try:
                self._trees[module] = ast.parse(source or b"")
            except (SyntaxError, ValueError) as error:
                raise ValueError(f"cannot read the source of module {module!r}: {error}.") from error
        return self._trees[module]


def _is_site(directory: Path) -> bool:
    """Whether packages are installed there, so that what lies beside a module is not of its project."""
    return directory.name in ("site-packages", "dist-packages") or any(
        directory == Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "platstdlib", "purelib", "platlib")
    )
