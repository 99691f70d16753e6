"""The doors: what may be imported, and what importing costs."""

import ast
import importlib
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import clearstone
from clearstone import errors

DOORS = ["clearstone", "clearstone.observability", "clearstone.debugging"]
SUBMODULES = {module.name for module in pkgutil.iter_modules(clearstone.__path__)}


@pytest.mark.parametrize("name", DOORS)
def test_a_door_only_imports_and_exports_what_it_lists(name: str) -> None:
    door = importlib.import_module(name)
    assert list(door.__all__) == sorted(door.__all__)
    assert all(hasattr(door, exported) for exported in door.__all__)
    tree = ast.parse(Path(door.__file__ or "").read_text("utf-8"))
    kinds = {type(node) for node in tree.body if not isinstance(node, ast.Import | ast.ImportFrom | ast.Assign)}
    assert kinds == {ast.Expr}  # its docstring, and in clearstone the check for the older distribution


@pytest.mark.parametrize("name", DOORS)
def test_no_public_name_equals_a_submodules(name: str) -> None:
    assert not set(importlib.import_module(name).__all__) & SUBMODULES


def test_every_error_is_in_the_drawn_tree_and_derives_from_clearstone_error() -> None:
    own = [value for value in vars(errors).values() if isinstance(value, type)]
    assert all(issubclass(error, errors.ClearstoneError) for error in own)
    assert all(error.__name__ in (errors.__doc__ or "") for error in own)


HEAVY = ["rich", "click", "time_machine", "cloudpickle", "pdb", "clearstone.replay", "clearstone.debugger"]
RECORDER = [f"clearstone.{each}" for each in ("record.provider", "codec.payload", "store.batch", "checkpoint.policy")]


def loaded_after(statements: str, names: list[str], **variables: str) -> list[str]:
    code = f"import sys, clearstone; {statements}; print(*[name for name in {names} if name in sys.modules])"
    return subprocess.check_output([sys.executable, "-c", code], text=True, env={**os.environ, **variables}).split()


def test_importing_clearstone_loads_neither_the_recorder_nor_what_reads_and_replays() -> None:
    assert loaded_after("pass", HEAVY + RECORDER) == []


def test_a_decorator_loads_the_recorder_so_that_the_first_call_need_not() -> None:
    assert loaded_after("clearstone.traced(len)", HEAVY + RECORDER) == RECORDER[:3]
    assert loaded_after("clearstone.checkpointable(len)", HEAVY + RECORDER) == ["cloudpickle", *RECORDER]


def test_a_decorator_of_a_disabled_recorder_does_not_load_it() -> None:
    assert loaded_after("clearstone.traced(len)", HEAVY + RECORDER, CLEARSTONE_DISABLED="1") == []


def test_the_older_distribution_is_refused_in_one_sentence(tmp_path: Path) -> None:
    package = tmp_path / "clearstone"
    package.symlink_to(Path(clearstone.__file__).parent)
    copied = tmp_path / "copy" / "clearstone"
    copied.parent.mkdir()
    subprocess.run(["cp", "-r", str(package) + "/", str(copied)], check=True)
    (copied / "observability").mkdir()
    (copied / "observability" / "__init__.py").write_text("")
    run = subprocess.run(
        [sys.executable, "-c", "import clearstone"],
        cwd=copied.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert "clearstone-sdk" in run.stderr.splitlines()[-1]
    assert "cannot share an environment" in run.stderr.splitlines()[-1]
