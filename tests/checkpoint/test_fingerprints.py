"""Which functions and classes changed since a checkpoint is said, with a difference, and nothing of the user's runs."""

from __future__ import annotations

import gc
import importlib.util
import itertools
import json
import linecache
import os
import py_compile
import subprocess
import sys
import textwrap
import warnings
import weakref
from dataclasses import replace
from importlib.machinery import SourcelessFileLoader
from typing import TYPE_CHECKING, Any

import pytest
import wrapt

from clearstone.checkpoint import fingerprints, sourcetext
from clearstone.checkpoint.fingerprints import (
    Change,
    Fingerprint,
    fingerprints_of,
    from_json,
    in_one_line,
    to_json,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from types import ModuleType

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
OTHER = "2.7"
KEY = "sk-" + "a1B2c3D4e5F6g7H8" * 3

BEFORE = '''
from __future__ import annotations
import functools
from clearstone import checkpointable, traced

PROMPT = "be brief"

def tidy(text):
    return text.strip()

def unnamed(text):
    return text

class Base:
    MODEL = "small"

    def plan(self, goal: str, depth: int = 3) -> list:
        """Plan."""
        def one(n):
            return n + 1
        while True:
            return [one(n) for n in range(depth)]

@checkpointable
class Agent(Base):
    @traced
    def run(self, goal):
        return tidy(goal), self.plan(goal), (lambda: 1)()

    @traced(span_type="llm")
    def ask(self, question, *, model="a"):
        return question
'''

RUN, ASK, PLAN, TIDY = "fp_agent:Agent.run", "fp_agent:Agent.ask", "fp_agent:Base.plan", "fp_agent:tidy"
NAMES = ["fp_agent:Agent", RUN, ASK, "fp_agent:Agent.plan", "fp_agent:Base", TIDY]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write a module and import it, under a name that an earlier one may have had."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    times = itertools.count(10**18, 10**9)

    def write(text: str, name: str = "fp_agent") -> Path:
        path = tmp_path / f"{name}.py"
        path.write_text(textwrap.dedent(text), "utf-8")
        os.utime(path, ns=(now := next(times), now))
        return path

    def load(text: str, name: str = "fp_agent", *, known_as: str = "") -> ModuleType:
        spec = importlib.util.spec_from_file_location(known_as or name, write(text, name))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, known_as or name, module)
        spec.loader.exec_module(module)
        return module

    load.write = write  # type: ignore[attr-defined]
    return load


def taken(module: ModuleType, *sites: str) -> dict[str, Fingerprint]:
    return {each.name: each for each in fingerprints_of(getattr(module, "Agent", None), sites)}


def changed_since(
    recorded: Iterable[Fingerprint], python: str, modules: dict[str, ModuleType | None] | None = None
) -> tuple[Change, ...]:
    return fingerprints.changed_since(recorded, python, modules or {})


def without_source(fingerprints: dict[str, Fingerprint]) -> list[Fingerprint]:
    return [replace(each, tree="", source="") for each in fingerprints.values()]


def told(changes: tuple[Change, ...]) -> dict[str, str]:
    return {each.name: each.kind for each in changes}


# --- what is taken ---------------------------------------------------------------------------------------------------


def test_the_class_its_bases_and_the_functions_they_name_are_taken_with_their_source(load: Any) -> None:
    found = taken(load(BEFORE), RUN)
    assert list(found) == NAMES
    assert found[TIDY].source == "def tidy(text):\n    return text.strip()"
    assert found[ASK].source.startswith('@traced(span_type="llm")\ndef ask(self')
    assert found["fp_agent:Base"].source == 'class Base:\n    MODEL = "small"'
    assert all(each.code and each.tree for name, each in found.items() if not name.endswith(("Agent", "Base")))


def test_of_a_function_it_and_what_it_names_are_taken(load: Any) -> None:
    load("""
        from clearstone import traced
        def one(): return two()
        def two(): return three()
        def three(): return 3
        @traced
        def run(): return [one() for _ in "a"]
    """)
    assert [each.name for each in fingerprints_of(None, ["fp_agent:run"])] == ["fp_agent:run", "fp_agent:one"]


def test_what_is_installed_built_in_generated_or_not_loaded_is_left_out(load: Any) -> None:
    module = load("""
        import dataclasses, json, collections
        from clearstone import checkpointable
        @checkpointable
        @dataclasses.dataclass
        class Agent(collections.UserDict):
            a: int = 1
            dumps = json.dumps
            length = len
            def run(self): return json.dumps(1)
    """)
    found = taken(module, "json:dumps", "fp_agent:Agent.nothing", "no.such.module:run", "no colon", "fp_agent:json.x")
    assert list(found) == ["fp_agent:Agent", "fp_agent:Agent.run"]
    assert "no.such.module" not in sys.modules


KINDS = textwrap.dedent("""
    import asyncio, functools, wrapt
    from clearstone import checkpointable, traced

    def plainly(function):
        @functools.wraps(function)
        def around(*args):
            return function(*args)
        return around

    @wrapt.decorator
    def proxied(wrapped, instance, args, kwargs):
        return wrapped(*args, **kwargs)

    class Wrapper:
        def __init__(self, function):
            self.__wrapped__ = function

    @checkpointable
    class Agent:
        @classmethod
        def of_class(cls): return 0
        @traced
        @classmethod
        def of_class_inside(cls): return 0
        @staticmethod
        @traced
        def static(): return 0
        @property
        def size(self): return 0
        @size.setter
        def size(self, value): self._size = 0
        @functools.cached_property
        def cached(self): return 0
        @functools.lru_cache
        def remembered(self): return 0
        @plainly
        @traced
        @plainly
        def chained(self): return 0
        @proxied
        def proxied(self): return 0
        @Wrapper
        def held(self): return 0
        part = functools.partialmethod(chained, 1)
        @functools.singledispatchmethod
        def dispatched(self, a): return 0
        @traced
        async def later(self): return 0
        @traced(span_type="llm")
        async def stream(self): yield 0
        @traced
        def items(self): yield 0
        short = lambda self: 0
        _private = traced(lambda self: 0)
""")
MEMBERS = ["of_class", "of_class_inside", "static", "size", "cached", "remembered", "chained", "proxied"]
MEMBERS += ["held", "dispatched", "later", "stream", "items", "short", "_private"]
LAMBDAS = {"fp_agent:Agent.short", "fp_agent:Agent._private"}
"""Of these there is no source: it is in that of their class."""


@pytest.mark.parametrize("python", [HERE, OTHER])
def test_functions_behind_every_kind_of_wrapper_are_found_and_compared(load: Any, python: str) -> None:
    found = taken(load(KINDS))
    assert [name.removeprefix("fp_agent:Agent.") for name in list(found)[1:]] == MEMBERS
    assert {name for name, each in found.items() if not (each.tree and each.source)} == LAMBDAS
    load("\n# moved\n" + KINDS)
    assert changed_since(found.values(), python) == ()
    load(KINDS.replace(" 0", " 1"))
    unseen = LAMBDAS if python == OTHER else set()
    assert set(told(changed_since(found.values(), python))) == set(found) - unseen  # the class too: it has the lambdas
    load(KINDS.replace(" 0", " 1"))
    by_code = told(changed_since(without_source(found), HERE))
    assert list(by_code) == [f"fp_agent:Agent.{name}" for name in MEMBERS]


def test_a_function_that_ran_often_or_is_traced_is_the_same(load: Any) -> None:
    module = load(BEFORE)
    before = taken(module)
    for _ in range(3000):
        module.Base().plan("x")
        module.tidy("x")
    previous = sys.gettrace()
    sys.settrace(lambda *_: None)
    try:
        module.Base().plan("x")
        load(BEFORE)
        assert changed_since(without_source(before), HERE) == ()
    finally:
        sys.settrace(previous)


MANY = """
    class Agent:
        def run(self, a: int = 1, /, b=(1, "x"), *c, d=-1, e: str | None = None, **f) -> list[int]:
            '''Say what it does,
                indented.'''
            try:
                while True:
                    with open("x") as one, open("y"):
                        yield [i for i in one if i in {1, 2}] or {**f, 1: 2j}
            except* ValueError as error:
                raise RuntimeError(f"{a!r:>{b}} {a=} {'q'}" "tail" f"{{{c:{d}.{e}}}}" f"") from error
            finally:
                match a:
                    case {"a": [1, *rest], **kw} if rest: pass
                    case None | True | -1.5: pass
                    case str(x): print(u"x", b"y", ..., not x, x if x else (z := 2), x[1:2, ::3], sep="")
            @staticmethod
            async def later(x: int = 0xff):
                global y
                async for y in x:
                    await y
                return lambda k, /, *, m=1: (yield)
            del later
"""


def test_the_tree_is_the_same_in_every_python(load: Any) -> None:
    found = taken(load(MANY))
    assert found["fp_agent:Agent"].tree == "d919ec938447859bed5376ad46edcb60a346d1ec1ac9ac6d4195ca3259198a4b"
    assert found["fp_agent:Agent.run"].tree == "4713ad65d319ab81bd580db67839ce3cfbb37d2f6e97b348afc746d1f1a7ebd3"


# --- what is a change ------------------------------------------------------------------------------------------------

SAME = {
    "itself": ("", ""),
    "moved lines": ("\nimport functools", "\n\n# a comment\n\nimport functools"),
    "a comment": ("return text.strip()", "return text.strip()  # without spaces"),
    "another layout": ("while True:\n            return [one(n)", "while True: return [\n                one(n)"),
    "other quotes": ('"llm"', "'llm'"),
    "a function that nothing names": ("return text\n", "return 1\n"),
    "a value of the module": ("be brief", "be long"),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new"), SAME.values(), ids=SAME)
@pytest.mark.parametrize("python", [HERE, OTHER])
def test_what_changes_nothing_is_no_change(load: Any, python: str, old: str, new: str) -> None:
    before = taken(load(BEFORE), RUN)
    assert old in BEFORE
    load(BEFORE.replace(old, new))
    assert changed_since(before.values(), python) == ()


CHANGED = {
    "a constant": ("return n + 1", "return n + 2", "fp_agent:Agent.plan"),
    "a constant's type": ("return n + 1", "return n + 1.0", "fp_agent:Agent.plan"),
    "a default": ("depth: int = 3", "depth: int = 4", "fp_agent:Agent.plan"),
    "a keyword's default": ('model="a"', 'model="b"', ASK),
    "a nested function": ("lambda: 1", "lambda: 2", RUN),
    "a function it names": ("text.strip()", "text.lstrip()", TIDY),
    "an argument's name": ("def tidy(text):\n    return text", "def tidy(said):\n    return said", TIDY),
}
CHANGED_SOURCE = {
    "an argument of a decorator": ('span_type="llm"', 'span_type="tool"', ASK),
    "a decorator": ("    @traced\n    def run", "    def run", RUN),
    "an annotation": ("depth: int", "depth: float", "fp_agent:Agent.plan"),
    "an attribute of a base": ('MODEL = "small"', 'MODEL = "large"', "fp_agent:Base"),
    "a base": ("class Agent(Base)", "class Agent(Base, object)", "fp_agent:Agent"),
}


@pytest.mark.parametrize(
    ("old", "new", "name"), [*CHANGED.values(), *CHANGED_SOURCE.values()], ids=[*CHANGED, *CHANGED_SOURCE]
)
@pytest.mark.parametrize("python", [HERE, OTHER])
def test_a_change_is_told_with_its_difference(load: Any, python: str, old: str, new: str, name: str) -> None:
    before = taken(load(BEFORE), RUN)
    assert old in BEFORE
    load(BEFORE.replace(old, new))
    (change,) = changed_since(before.values(), python)
    assert (change.name, change.kind) == (name, "changed")
    lines = change.diff().splitlines()
    assert lines[:2] == [f"--- {name} (recorded)", f"+++ {name} (now)"]
    assert old.splitlines()[0].strip() in "\n".join(line for line in lines if line[0] != "+")


@pytest.mark.parametrize(("old", "new", "name"), CHANGED.values(), ids=CHANGED)
def test_without_source_the_code_tells_within_one_python(load: Any, old: str, new: str, name: str) -> None:
    before = without_source(taken(load(BEFORE), RUN))
    load(BEFORE.replace(old, new))
    (change,) = changed_since(before, HERE)
    assert (change.name, change.kind, change.diff()) == (name, "changed", "")
    assert changed_since(before, OTHER) == ()


def test_a_function_that_is_not_there_is_gone(load: Any) -> None:
    before = taken(load(BEFORE), RUN, "fp_agent:unnamed")
    load(BEFORE.replace("def unnamed", "def renamed").replace("def tidy(text)", "tidy = str.strip\ndef other(text)"))
    changes = changed_since(before.values(), HERE)
    assert told(changes) == {"fp_agent:unnamed": "gone", TIDY: "changed"}
    assert all(each.before.startswith("def ") and each.diff() == "" for each in changes)


def test_a_method_that_its_class_did_not_have_is_new(load: Any) -> None:
    before = taken(load(BEFORE), RUN)
    load(BEFORE + "\n    def more(self):\n        return 1\n    again = run\n")
    changes = changed_since(before.values(), HERE)
    assert told(changes) == {"fp_agent:Agent": "changed", "fp_agent:Agent.more": "new"}
    assert (changes[1].before, changes[1].after) == ("", "def more(self):\n    return 1")


def test_a_method_that_moved_to_a_base_or_was_inherited_all_along_is_no_change(load: Any) -> None:
    before = taken(load(BEFORE), RUN)
    method = BEFORE[BEFORE.index("    @traced(span_type") :]
    moved = BEFORE.replace(method, "").replace("    def plan", f"{method}\n    def plan")
    load(moved)
    assert changed_since(before.values(), HERE) == ()


def test_of_two_functions_of_one_name_each_is_told_from_the_other(load: Any) -> None:
    text = """
        def run(): return 1
        old = run
        def run(): return 2
        class Agent:
            old, new = old, run
    """
    found = taken(load(text))
    assert [each.source for each in found.values()][1:] == ["def run(): return 1", "def run(): return 2"]
    load(text.replace("2", "3"))
    assert told(changed_since(found.values(), HERE)) == {"fp_agent:Agent.new": "changed"}


def test_of_two_functions_that_look_the_same_there_is_no_source(load: Any) -> None:
    text = """
        def run(a=1): return 1
        old = run
        def run(a=2): return 1
        class Agent:
            old, new = old, run
    """
    found = taken(load(text))
    assert [each.source for each in found.values()][1:] == ["", ""]
    load(text.replace("a=2", "a=3"))
    assert told(changed_since(found.values(), HERE)) == {"fp_agent:Agent.new": "changed"}


def test_a_class_in_a_function_does_not_depend_on_where_it_stands(load: Any) -> None:
    text = "class Agent:\n  def run(self):\n    class Inner:\n      def a(self): self.x = self.y = self.z = 2\n"
    before = without_source(taken(load(text)))
    load(f"\n\n\n{text}")
    assert changed_since(before, HERE) == ()
    load(text.replace("2", "3"))
    assert told(changed_since(before, HERE)) == {"fp_agent:Agent.run": "changed"}


def test_what_was_defined_in_a_function_is_taken_and_not_looked_for_again(load: Any) -> None:
    module = load("""
        def make():
            class Agent:
                def run(self): return 1
            return Agent
    """)
    found = fingerprints_of(module.make(), [])
    assert [each.name for each in found] == ["fp_agent:make.<locals>.Agent", "fp_agent:make.<locals>.Agent.run"]
    assert found[1].source == "def run(self): return 1"
    assert changed_since(found, HERE) == ()


def test_of_modules_that_are_not_loaded_nothing_is_said(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = taken(load(BEFORE))
    monkeypatch.delitem(sys.modules, "fp_agent")
    assert changed_since(before.values(), HERE) == ()


def test_two_fingerprints_that_have_nothing_in_common_are_not_said_to_differ(load: Any) -> None:
    found = taken(load(BEFORE))[TIDY]
    bare = replace(found, tree="", source="")
    assert changed_since([replace(bare, code="")], HERE) == ()
    assert changed_since([replace(bare, code="other")], OTHER) == ()
    assert told(changed_since([replace(bare, code="other")], HERE)) == {TIDY: "changed"}
    assert changed_since([replace(found, code="other")], HERE) == ()  # a tree decides
    assert told(changed_since([replace(found, tree="other")], OTHER)) == {TIDY: "changed"}


def test_changes_are_said_in_one_line() -> None:
    one, two, three = Change("a:B.c", "changed"), Change("a:d", "gone"), Change("a:B.e", "new")
    assert in_one_line([two, three, one, Change("a:F", "changed")]) == (
        "Changed since: a:B.c, a:F; gone: a:d; new: a:B.e."
    )
    assert in_one_line([two]) == "Gone since: a:d."
    many = [Change(f"a:{n}", "new") for n in range(8)]
    assert in_one_line(many) == "New since: a:0, a:1, a:2, a:3, a:4 and 3 more."
    assert in_one_line([]) == ""


# --- scripts ---------------------------------------------------------------------------------------------------------

SCRIPT = """
    import sys
    from clearstone import checkpointable
    from clearstone.checkpoint.fingerprints import fingerprints_of, to_json
    def part(): return 1
    @checkpointable
    class Agent:
        def run(self): return part()
    if __name__ == "__main__":
        sys.stdout.buffer.write(to_json(fingerprints_of(Agent, ["__main__:part"])))
"""


def test_a_script_is_compared_with_what_it_was_imported_as(load: Any) -> None:
    script = load.write(SCRIPT, "fp_script")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, check=True)
    recorded = from_json(done.stdout)
    assert [each.name for each in recorded] == ["__main__:Agent", "__main__:Agent.run", "__main__:part"]
    assert all(each.source for each in recorded)
    same = load(SCRIPT, "fp_script", known_as="__clearstone_main__")
    assert changed_since(recorded, HERE, {"__main__": same}) == ()
    now = load(SCRIPT.replace("return 1", "return 2"), "fp_script", known_as="__clearstone_main__")
    assert told(changed_since(recorded, HERE, {"__main__": now})) == {"__main__:part": "changed"}
    assert [each.name for each in fingerprints_of(now.Agent, [])] == [each.name for each in recorded]
    assert changed_since(recorded, HERE, {"__main__": None}) == ()


def test_a_module_that_ran_as_a_program_has_its_own_name(load: Any) -> None:
    folder = load.write(SCRIPT.replace("__main__:part", "fp_script:part"), "fp_script").parent
    done = subprocess.run([sys.executable, "-m", "fp_script"], capture_output=True, check=True, cwd=folder)
    recorded = from_json(done.stdout)
    assert [each.name for each in recorded] == ["fp_script:Agent", "fp_script:Agent.run", "fp_script:part"]


# --- source that is not there ----------------------------------------------------------------------------------------


def test_a_module_without_source_is_told_by_its_code(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compiled(text: str) -> ModuleType:
        path = load.write(text, "fp_bare")
        py_compile.compile(str(path), str(tmp_path / "fp_bare.pyc"), doraise=True)
        path.unlink()
        loader = SourcelessFileLoader("fp_bare", str(tmp_path / "fp_bare.pyc"))
        spec = importlib.util.spec_from_loader("fp_bare", loader)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "fp_bare", module)
        loader.exec_module(module)
        return module

    before = taken(compiled("class Agent:\n    def run(self): return 1\n"))
    assert before["fp_bare:Agent.run"].source == before["fp_bare:Agent.run"].tree == ""
    compiled("class Agent:\n    def run(self): return 2\n")
    assert told(changed_since(before.values(), HERE)) == {"fp_bare:Agent.run": "changed"}
    assert changed_since(before.values(), OTHER) == ()


EDITED = {
    "a body": ("text.strip()", "text.lstrip()", {TIDY}),
    "a default": ("depth: int = 3", "depth: int = 4", {"fp_agent:Agent.plan", "fp_agent:Base"}),
    "a method": ("return n + 1", "return n + 2", {"fp_agent:Agent.plan", "fp_agent:Base"}),
    "an attribute": ('MODEL = "small"', 'MODEL = "large"', {"fp_agent:Base"}),
    "lines above": ("\nimport functools", "\n\n\ndef more(): ...\n\nimport functools", set()),
    "no source any more": ("def tidy(text):", "def tidy(text:", set(NAMES)),
}


@pytest.mark.parametrize(("old", "new", "without"), EDITED.values(), ids=EDITED)
def test_what_was_edited_after_its_import_has_no_source(load: Any, old: str, new: str, without: set[str]) -> None:
    module = load(BEFORE)
    load.write(BEFORE.replace(old, new))
    found = taken(module, RUN)
    assert {name for name, each in found.items() if not each.source} == without
    assert all(bool(each.tree) == bool(each.source) for each in found.values())


# --- single lines ----------------------------------------------------------------------------------------------------


def line_at(module: ModuleType, text: str, lines: str = BEFORE) -> str:
    """Return the place of the one line that is `text`, as the module was loaded from `lines`."""
    (number,) = [number for number, line in enumerate(lines.split("\n"), 1) if line.strip() == text]
    return f"{module.__file__}:{number}"


def test_a_line_of_a_function_is_found_by_its_place(load: Any) -> None:
    module = load(BEFORE)
    found = taken(module, RUN)
    for name, text in {
        RUN: "return tidy(goal), self.plan(goal), (lambda: 1)()",
        ASK: '@traced(span_type="llm")',
        "fp_agent:Agent.plan": "return [one(n) for n in range(depth)]",
    }.items():
        place = line_at(module, text)
        assert {other: each.line(place) for other, each in found.items() if each.line(place)} == {name: text}


@pytest.mark.parametrize("place", ["", "x", "x:1", "{file}:", "{file}:one", "{file}:1", "{file}:9999", "{file}:-3"])
def test_what_is_no_line_of_a_function_is_not_found(load: Any, place: str) -> None:
    module = load(BEFORE)
    assert not any(each.line(place.format(file=module.__file__)) for each in taken(module, RUN).values())


MOVED = {
    "lines above": ("import functools", "import functools\n\n\n", "return text.strip()"),
    "a comment in another": ("while True:", "# more\n        while True:", "return text.strip()"),
    "a comment in it": ("    return text.strip()", "    # more\n    return text.strip()", ""),
}


@pytest.mark.parametrize(("old", "new", "line"), MOVED.values(), ids=MOVED)
def test_lines_are_those_of_what_ran_or_none(load: Any, old: str, new: str, line: str) -> None:
    module = load(BEFORE)
    place = line_at(module, "return text.strip()")
    load.write(BEFORE.replace(old, new))
    found = taken(module)[TIDY]
    assert found.source, "its code is the same"
    assert found.line(place) == line


def test_a_line_of_a_function_with_a_secret_is_shown_without_it(load: Any) -> None:
    text = f'def ask(text): return text\ndef run():\n    key = "{KEY}"\n    return ask(key)\n'
    module = load(text)
    found = taken(module, "fp_agent:run")["fp_agent:run"]
    assert found.line(f"{module.__file__}:4") == "return ask(key)"
    assert "key = " in found.line(f"{module.__file__}:3")
    assert KEY not in found.line(f"{module.__file__}:3")


def test_a_file_that_is_large_or_no_text_is_not_read(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module = load(BEFORE)
    load.write("# more\n").write_bytes(b"# \xff")
    assert not [each for each in taken(module).values() if each.source]
    monkeypatch.setattr(sourcetext, "LARGEST_FILE", len(BEFORE) - 1)
    assert not [each for each in taken(load(BEFORE)).values() if each.source]
    monkeypatch.setattr(sourcetext, "LARGEST_FILE", len(BEFORE))
    assert all(each.source for each in taken(load(BEFORE)).values())


def test_defaults_that_a_program_sets_are_not_those_of_the_source(load: Any) -> None:
    text = "class Agent:\n    def run(self, a=-1): ...\n    def other(self, *, b=(1, 2)): ...\n"
    before = without_source(taken(load(text)))
    module = load(text)
    module.Agent.run.__defaults__ = (1, 2)
    module.Agent.other.__kwdefaults__ = {"b": (1, 3)}
    assert [each.source for each in taken(module).values()] == ["", "", ""]
    kinds = dict.fromkeys(["fp_agent:Agent.run", "fp_agent:Agent.other"], "changed")
    assert told(changed_since(before, HERE)) == kinds


def test_source_that_was_found_stays_when_the_file_is_edited_later(load: Any) -> None:
    module = load(BEFORE)
    before = taken(module)
    load.write("")
    assert taken(module) == before


def test_functions_and_classes_can_go_when_they_were_looked_at(load: Any) -> None:
    module = load("class Agent:\n    def run(self, a=[]): ...\n")
    module.Agent.run.__defaults__[0].append(module.Agent.run)
    assert len(taken(module)) == 2
    gone = weakref.ref(module.Agent), weakref.ref(module.Agent.run)
    del module.Agent
    gc.collect()
    assert [each() for each in gone] == [None, None]


def test_an_attribute_of_the_class_that_the_agent_changes_as_it_runs_is_no_change(load: Any) -> None:
    module = load(BEFORE)
    before = taken(module)
    module.Base.MODEL = "medium"
    assert changed_since(before.values(), HERE) == ()
    again = load(BEFORE)
    again.Base.MODEL = "medium"
    assert changed_since(before.values(), HERE) == ()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the syntax of Python 3.12")
def test_generic_classes_and_functions_have_source(load: Any) -> None:
    found = taken(
        load("class Agent[T]:\n    def run[S](self, a: S) -> T: return tidy(a)\ndef tidy[T](a: T) -> T: return a\n")
    )
    assert list(found) == ["fp_agent:Agent", "fp_agent:Agent.run", TIDY]
    assert all(each.source for each in found.values())


def test_the_cells_of_a_notebook_have_source(monkeypatch: pytest.MonkeyPatch, load: Any) -> None:
    text = "class Agent:\n    def run(self):\n        return 1\n"
    module = load("")
    name = "/nowhere/ipykernel_1/2.py"
    monkeypatch.setitem(linecache.cache, name, (len(text), None, text.splitlines(keepends=True), name))
    exec(compile(text, name, "exec"), vars(module))  # noqa: S102 - as a notebook does
    assert taken(module)["fp_agent:Agent.run"].source == "def run(self):\n    return 1"


def test_code_that_was_rewritten_when_it_was_imported_is_only_named(load: Any) -> None:
    module = load("class Agent:\n    def run(self): return py_builtins\n")
    run = module.Agent.run
    run.__code__ = run.__code__.replace(co_names=("@py_builtins",))
    assert taken(module)["fp_agent:Agent.run"] == Fingerprint("fp_agent:Agent.run", "", "", "")


def test_a_file_that_may_not_warn_has_no_source(load: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = load('class Agent:\n    def run(self): return "\\d" is 1\n')
    found = taken(module)["fp_agent:Agent.run"]  # a warning is an error in these tests
    assert (bool(found.code), found.source) == (True, "")


def test_an_expression_too_deep_to_read_costs_only_itself(load: Any) -> None:
    module = load(f"class Agent:\n    def deep(self): return {' + '.join(['self.a'] * 1500)}\n    def run(self): ...\n")
    found = taken(module)
    assert found["fp_agent:Agent.deep"].code
    assert found["fp_agent:Agent.deep"].source == ""


def test_secrets_are_not_in_the_source_and_the_rest_is(load: Any) -> None:
    module = load(f"""
        class Agent:
            password = "hunter1"
            def run(self, api_key="hunter2"):
                token = (
                    "hunter3"
                )
                # password: hunter4
                if token:
                    return {{"token": "hunter5", "n": 1}}
                return self.login("{KEY}", secret="hunter6", retries=3)
    """)
    found = taken(module)
    assert found["fp_agent:Agent"].source == 'class Agent:\n    password = "[redacted]"'
    source = found["fp_agent:Agent.run"].source
    assert not [word for word in (KEY, "hunter") if word in source]
    for kept in ("def run(self, api_key=", "    if token:\n", '"n": 1}', "return self.login(", "retries=3)"):
        assert kept in source
    load(f'class Agent:\n    password = "hunter1"\n    def run(self, api_key="hunter9"): return "{KEY}"\n')
    assert told(changed_since(found.values(), HERE)) == {"fp_agent:Agent.run": "changed"}


# --- nothing of the user's runs --------------------------------------------------------------------------------------

HOSTILE = """
    def never(*args, **kwargs):
        raise SystemExit("user code ran")

    class Meta(type):
        __getattribute__ = __hash__ = __eq__ = __instancecheck__ = __subclasscheck__ = __bool__ = __len__ = never

    class Descriptor:
        __get__ = __getattr__ = __call__ = __bool__ = __hash__ = __eq__ = never
        __wrapped__ = property(never)
        __class__ = property(never)

    class Agent(metaclass=Meta):
        __getattribute__ = __getattr__ = __hash__ = __eq__ = never
        given = Descriptor()
        other = Meta("Other", (), {})
        looks = property(never)
        def run(self, a=Descriptor(), *, b=Meta("B", (), {})):
            return given, other, lazily

    given, other = Descriptor(), Meta("Other", (), {})
"""


def test_metaclasses_descriptors_and_values_that_raise_are_never_asked(
    load: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    module = load(HOSTILE)
    vars(module)["lazily"] = wrapt.LazyObjectProxy(lambda: vars(module)["never"]())
    found = {
        each.name: each for each in fingerprints_of(vars(module)["Agent"], ["fp_agent:Agent.run", "fp_agent:given.x"])
    }
    assert list(found) == ["fp_agent:Agent", "fp_agent:Agent.__getattribute__", "fp_agent:Agent.run"]
    assert found["fp_agent:Agent.run"].source.startswith("def run(")
    load(HOSTILE.replace("return given", "return other"))
    assert told(changed_since(found.values(), HERE)) == {"fp_agent:Agent.run": "changed"}
    assert capsys.readouterr().err == ""


def test_a_lazy_module_stays_unloaded(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    load.write("raise SystemExit('loaded')", "fp_lazy")
    spec = importlib.util.spec_from_file_location("fp_lazy", load.write("raise SystemExit('loaded')", "fp_lazy"))
    assert spec is not None
    assert spec.loader is not None
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "fp_lazy", module)
    spec.loader.exec_module(module)
    assert fingerprints_of(None, ["fp_lazy:run"]) == ()


def test_wrappers_that_wrap_themselves_are_no_function(load: Any) -> None:
    module = load("class Agent:\n    def run(self): ...\n    def other(self): ...\n")
    module.Agent.run.__wrapped__ = module.Agent.run
    assert list(taken(module)) == ["fp_agent:Agent", "fp_agent:Agent.other"]


def test_a_fault_is_said_and_costs_the_fingerprints_alone(capsys: pytest.CaptureFixture[str]) -> None:
    def sites() -> Any:
        yield "json:dumps"
        raise ValueError("no more")

    assert fingerprints_of(None, sites()) == ()
    assert capsys.readouterr().err == "clearstone: the agent's code has no fingerprints: ValueError: no more\n"
    assert changed_since(sites(), HERE) == ()
    assert "the agent's code could not be compared: AttributeError: " in capsys.readouterr().err


# --- in a file -------------------------------------------------------------------------------------------------------


def test_fingerprints_of_an_earlier_version_say_no_place(load: Any) -> None:
    found = taken(load(BEFORE))[TIDY]
    (said,) = json.loads(to_json([found]))
    del said["at"]
    assert from_json(json.dumps([said]).encode()) == (replace(found, at=""),)


def test_fingerprints_come_back_from_json(load: Any) -> None:
    found = fingerprints_of(load(BEFORE + "\n    def odd(self): return '\\ud800é'\n").Agent, [RUN])
    assert from_json(to_json(found)) == found
    assert from_json(to_json(())) == ()


def test_what_a_later_version_says_besides_is_passed_over() -> None:
    one = Fingerprint("a:b", "1", "2", "3")
    said = json.loads(to_json([one]))
    assert from_json(json.dumps([{**said[0], "more": 1}]).encode()) == (one,)


BROKEN = [
    b"", b"\xff", b"{", b"{}", b"null", b"[1]", b"[[]]", b"[{}]", b'"text"', b"[" * 200_000,
    b'[{"name": 1, "code": "", "tree": "", "source": ""}]',
    b'[{"name": "a", "code": "", "tree": null, "source": ""}]',
    b'[{"name": "a", "code": "", "tree": ""}]',
]  # fmt: skip


@pytest.mark.parametrize("data", BROKEN, ids=range(len(BROKEN)))
def test_a_file_that_says_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises((ValueError, TypeError, KeyError)):
        from_json(data)


@pytest.mark.parametrize(
    "name", ["", ":", "a", "fp_agent:", "fp_agent:.", "fp_agent:Agent.run.x", "sys:modules.x", "\0:\n"]
)
def test_a_name_that_names_nothing_is_gone_or_passed_over(load: Any, name: str) -> None:
    load(BEFORE)
    assert set(told(changed_since([Fingerprint(name, "1", "2", "3")], HERE)).values()) <= {"gone"}
