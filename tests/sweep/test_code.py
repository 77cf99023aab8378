import dataclasses
import importlib.util
import runpy
import sys

import pytest

import pruneft
from pruneft.sweep.code import Code, code_of
from tests.sweep.toy import TOY, toy


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A user's working directory: a function that writes a file into it, and one that hashes an experiment's module."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())

    def code(module, settings=None):
        return code_of(dataclasses.replace(TOY, module=module), settings)

    return write, code


def test_the_hash_is_the_same_every_time_and_says_what_is_in_it():
    one, two = code_of(TOY, {"dtype": "float32"}), code_of(TOY, {"dtype": "float32"})
    assert one == two
    assert one.differences(two) == []
    assert {"tests.sweep.toy", "pruneft.trial", "pruneft.status"} <= set(one.modules)


def test_what_plans_and_shows_is_left_out_even_if_it_is_imported(project):
    write, code = project
    write(
        "ccexp.py",
        "import pruneft.sweep.grid\nfrom pruneft import plot, report, cli\nfrom pruneft.sweep import ledger\n",
    )
    assert not [
        name
        for name in code("ccexp").modules
        if name.startswith(("pruneft.sweep", "pruneft.plot", "pruneft.report", "pruneft.cli"))
    ]


@pytest.mark.parametrize(
    "statement",
    [
        "import cchelper",
        "import cchelper as h",
        "from cchelper import f",
        "from cchelper import *",
        "def f():\n    from cchelper import f\n    return f()",
        "try:\n    import cchelper\nexcept ImportError:\n    pass",
        "import importlib\nimportlib.import_module('cchelper')",
    ],
)
def test_a_change_in_an_imported_helper_changes_the_hash(project, statement):
    write, code = project
    write("ccexp.py", statement + "\n")
    write("cchelper.py", "import ccdeeper\n")
    write("ccdeeper.py", "x = 1\n")
    before = code("ccexp")
    assert set(before.modules) == {"ccexp", "cchelper", "ccdeeper"}
    write("ccdeeper.py", "x = 2\n")
    after = code("ccexp")
    assert after.hash != before.hash
    assert before.differences(after) == ["module ccdeeper changed"]


@pytest.mark.parametrize(
    "statement",
    [
        "from . import near",
        "from .near import x",
        "from .. import ccpack_unused, sub\nfrom ..sub import near",
        "import ccpack.sub.near",
        "from ccpack.sub.near import x as y",
    ],
)
def test_relative_and_absolute_imports_in_a_package_are_followed(project, statement):
    write, code = project
    write("ccpack/__init__.py", "from .base import z\n")
    write("ccpack/base.py", "z = 1\n")
    write("ccpack/sub/__init__.py", "")
    write("ccpack/sub/near.py", "x = 1\n")
    write("ccpack/sub/exp.py", statement + "\n")
    write("ccpack/sub/apart.py", "")
    modules = set(code("ccpack.sub.exp").modules)
    # The packages on the way run on import, and with them what they import.
    assert modules == {"ccpack", "ccpack.base", "ccpack.sub", "ccpack.sub.near", "ccpack.sub.exp"}


def test_a_package_without_init_is_followed(project):
    write, code = project
    write("ccspace/exp.py", "from ccspace import near\n")
    write("ccspace/near.py", "")
    assert set(code("ccspace.exp").modules) == {"ccspace.exp", "ccspace.near"}


def test_modules_that_import_one_another_are_hashed_once(project):
    write, code = project
    write("ccone.py", "import cctwo\n")
    write("cctwo.py", "import ccone\n")
    assert set(code("ccone").modules) == {"ccone", "cctwo"}


def test_other_packages_do_not_count(project):
    write, code = project
    write("ccexp.py", "import jax, numpy, os.path\nfrom scipy import stats\n")
    assert set(code("ccexp").modules) == {"ccexp"}


def test_newlines_and_a_byte_order_mark_do_not_count(project):
    write, code = project
    write("ccexp.py", "x = 1\ny = 2\n")
    before = code("ccexp")
    write("ccexp.py", "\ufeffx = 1\r\ny = 2\r\n")
    assert code("ccexp") == before


def test_only_the_part_of_pruneft_that_is_used_counts(project, tmp_path, monkeypatch):
    # A stand-in for the package, so that the test does not depend on what the real one hands on.
    write, code = project
    write("pruneft/__init__.py", "from .one import f\nfrom .two import g as other\nfrom .plot import draw\n")
    write("pruneft/one.py", "f = 1\n")
    write("pruneft/two.py", "from . import deep\n")
    write("pruneft/deep/__init__.py", "def __getattr__(name):\n    return {'lazy': '.late', 'x': 'no such'}[name]\n")
    write("pruneft/deep/late.py", "")
    write("pruneft/plot.py", "")
    write("pruneft/sub.py", "from pruneft import f\n")
    write("ccf.py", "from pruneft import f\n")
    write("ccother.py", "from pruneft import other, draw\n")
    write("ccall.py", "import pruneft\n")
    write("ccsub.py", "import pruneft.sub as sub\n")
    spec = importlib.util.spec_from_file_location("pruneft", tmp_path / "pruneft" / "__init__.py")
    monkeypatch.setattr(pruneft, "__spec__", spec)
    ccf, ccother, ccall, ccsub = (list(code(name).modules) for name in ("ccf", "ccother", "ccall", "ccsub"))
    deep = ["pruneft.deep", "pruneft.deep.late"]
    assert ccf == ["ccf", "pruneft", "pruneft.one"]
    assert ccother == ["ccother", "pruneft", *deep, "pruneft.two"]
    assert ccall == ["ccall", "pruneft", *deep, "pruneft.one", "pruneft.two"]
    assert ccsub == ["ccsub", "pruneft", "pruneft.one", "pruneft.sub"]


def test_a_script_has_the_hash_of_the_module_it_is(project):
    write, code = project
    program = "import types\nfrom pruneft.sweep.code import code_of\nimport cchelper\n"
    program += "hash = code_of(types.SimpleNamespace(name='toy', settings='cap=500', module=__name__)).hash\n"
    write("ccscript.py", program)
    write("cchelper.py", "")
    assert runpy.run_path("ccscript.py", run_name="__main__")["hash"] == code("ccscript").hash
    assert runpy.run_module("ccscript", run_name="__main__", alter_sys=True)["hash"] == code("ccscript").hash


def test_settings_count_and_their_order_does_not():
    base = code_of(toy(cap=500), {"dtype": "float32", "x": 1})
    assert base == code_of(toy(cap=500), {"x": 1.0, "dtype": "float32"})
    assert base.hash != code_of(toy(cap=501), {"dtype": "float32", "x": 1}).hash
    assert base.hash != code_of(toy(cap=500, name="other"), {"dtype": "float32", "x": 1}).hash


def test_differences_name_modules_and_settings():
    before = code_of(toy(cap=1), {"dtype": "float32", "x": None})
    after = code_of(toy(cap=2), {"dtype": "float64"})
    assert before.differences(after) == [
        "setting dtype was 'float32', is 'float64'",
        "setting x was None, is absent",
        "the experiment's settings were 'cap=1', are 'cap=2'",
    ]
    one, two = Code("1", {"a": "1", "b": "1"}, before.settings), Code("2", {"b": "2", "c": "1"}, before.settings)
    assert one.differences(two) == ["module a was removed", "module c was added", "module b changed"]
    assert before.differences(code_of(toy(cap=1, name="new"), {"dtype": "float32", "x": None})) == [
        "the experiment was 'toy', is 'new'"
    ]


def test_a_module_that_cannot_be_found_or_read_is_refused(project):
    write, code = project
    with pytest.raises(ValueError, match="cannot find the module 'ccnone'"):
        code("ccnone")
    write("ccpack/__init__.py", "")
    with pytest.raises(ValueError, match=r"cannot find the source of module 'ccpack\.none'"):
        code("ccpack.none")
    write("ccbroken.py", "def f(:\n")
    with pytest.raises(ValueError, match="cannot read the source of module 'ccbroken'"):
        code("ccbroken")


def test_an_interactive_prompt_is_refused(monkeypatch):
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "__spec__", None)
    monkeypatch.delattr(main, "__file__", raising=False)
    with pytest.raises(ValueError, match="interactive prompt"):
        code_of(dataclasses.replace(TOY, module="__main__"))


@pytest.mark.parametrize("bad", [{"x": float("nan")}, {"x": object()}])
def test_settings_that_do_not_go_into_json_are_refused(bad):
    with pytest.raises(ValueError, match="settings must hold"):
        code_of(TOY, bad)
