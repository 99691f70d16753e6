"""`instrument` records code that is not the user's, and `uninstrument` puts back what was there."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import re
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import pytest

from clearstone import instrument, instrumentation, run, traced, uninstrument
from clearstone.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.calls.conftest import Recorded

SOURCE = """
import functools
from math import gcd
from clearstone import traced

class Base:
    def inherited(self, x):
        return ["Base", type(self).__name__, x]
    @classmethod
    def made(cls, x):
        return [cls.__name__, x]
    @staticmethod
    def static(x):
        return x

class Other(Base):
    def inherited(self, x):
        return ["Other", *super().inherited(x)]

class Client(Base):
    class Nested:
        def create(self, x):
            return x
    def send(self, x):
        return x
    @classmethod
    def of(cls, x):
        return [cls.__name__, x]
    @staticmethod
    def plain(x):
        return x
    @property
    def size(self):
        return 1
    async def ask(self, x):
        return x
    def stream(self, n):
        yield from range(n)
    async def astream(self, n):
        for i in range(n):
            yield i
    @traced(span_type="llm", name="own")
    def own(self, x):
        return x

class Both(Client, Other):
    pass

def function(x):
    return x

client = Client()
"""


@pytest.fixture
def vendor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module that can be imported and is not yet."""
    name = f"vendor_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name
    for target in list(instrumentation._options):
        uninstrument(target)
    sys.modules.pop(name, None)


@pytest.fixture
def module(vendor: str) -> Any:
    return importlib.import_module(vendor)


CALLS: list[tuple[str, Any, Any]] = [
    ("function", lambda m: m.function(1), 1),
    ("Client.send", lambda m: m.Client().send(2), 2),
    ("Client.of", lambda m: [m.Client.of(3), m.Both.of(3)], [["Client", 3], ["Both", 3]]),
    ("Client.plain", lambda m: [m.Client.plain(4), m.Client().plain(4)], [4, 4]),
    ("Client.Nested.create", lambda m: m.Client.Nested().create(5), 5),
    ("Client.inherited", lambda m: m.Client().inherited(6), ["Base", "Client", 6]),
    ("Client.made", lambda m: [m.Client.made(7), m.Client().made(7)], [["Client", 7]] * 2),
    ("Client.static", lambda m: [m.Client.static(8), m.Client().static(8)], [8, 8]),
    ("Client.ask", lambda m: asyncio.run(m.Client().ask(9)), 9),
    ("Client.stream", lambda m: list(m.Client().stream(2)), [0, 1]),
    ("client.send", lambda m: m.client.send(10), 10),
    ("gcd", lambda m: m.gcd(4, 6), 2),
]


@pytest.mark.parametrize(("path", "call", "gives"), CALLS)
@pytest.mark.parametrize("later", [False, True])
def test_what_is_instrumented_is_recorded_and_what_is_uninstrumented_is_as_it_was(
    recorded: Recorded, vendor: str, path: str, call: Any, gives: Any, *, later: bool
) -> None:
    if not later:
        importlib.import_module(vendor)
    instrument(f"{vendor}:{path}", span_type="tool", attributes={"vendor": "x"})
    module = importlib.import_module(vendor)
    assert call(module) == gives
    times = len(gives) if path in {"Client.of", "Client.plain", "Client.made", "Client.static"} else 1
    calls = recorded.calls()
    assert [each.name for each in calls] == [path] * times
    assert all("x" in str(each.row.attributes) for each in calls)
    uninstrument(f"{vendor}:{path}")
    assert call(module) == gives
    assert len(recorded.calls()) == times


def test_the_very_object_that_was_there_comes_back(module: Any, vendor: str) -> None:
    places = [(module, "function"), (module.Client, "of"), (module.Client, "plain"), (module.Client, "own")]
    before = [vars(owner)[name] for owner, name in places]
    targets = [f"{vendor}:{path}" for path in ("function", "Client.of", "Client.plain", "Client.own")]
    for target in [*targets, f"{vendor}:Client.inherited"]:
        instrument(target)
    assert all(vars(owner)[name] is not held for (owner, name), held in zip(places, before, strict=True))
    for target in [*targets, f"{vendor}:Client.inherited"]:
        uninstrument(target)
    assert [vars(owner)[name] for owner, name in places] == before
    assert all(vars(owner)[name] is held for (owner, name), held in zip(places, before, strict=True))
    assert "inherited" not in vars(module.Client)


def test_an_inherited_method_is_recorded_for_the_named_class_and_follows_its_order(
    recorded: Recorded, module: Any, vendor: str
) -> None:
    instrument(f"{vendor}:Client.inherited")
    assert module.Base().inherited(1) == ["Base", "Base", 1]
    assert module.Both().inherited(2) == ["Other", "Base", "Both", 2]
    assert module.Client.inherited(module.Client(), 3) == ["Base", "Client", 3]
    assert [call.args for call in recorded.calls()] == [(2,), (3,)]


def test_the_site_is_the_target_and_the_options_are_the_decorators(module: Any, vendor: str) -> None:
    instrument(f"{vendor}:Client.send", span_type="llm", name="model", replay="run", attributes={"a": 1})
    site = run.site_of(module.Client.send)
    assert site is not None
    assert (site.key, site.name, site.span_type, site.replay) == (f"{vendor}:Client.send", "model", "llm", "run")
    assert site.attributes == (("a", 1),)


def test_the_last_options_win_and_one_undoing_undoes_all(recorded: Recorded, module: Any, vendor: str) -> None:
    held = vars(module)["function"]
    instrument(f"{vendor}:function", span_type="llm", name="first")
    instrument(f"{vendor}:function", span_type="tool", name="second")
    module.function(1)
    assert [call.name for call in recorded.calls()] == ["second"]
    uninstrument(f"{vendor}:function")
    assert vars(module)["function"] is held


def test_the_last_options_win_also_before_the_import(recorded: Recorded, vendor: str) -> None:
    instrument(f"{vendor}:function", name="first")
    instrument(f"{vendor}:function", name="second")
    importlib.import_module(vendor).function(1)
    assert [call.name for call in recorded.calls()] == ["second"]


def test_what_is_uninstrumented_before_the_import_is_left_alone(recorded: Recorded, vendor: str) -> None:
    instrument(f"{vendor}:function")
    instrument(f"{vendor}:no_such_name")
    uninstrument(f"{vendor}:function")
    uninstrument(f"{vendor}:no_such_name")
    module = importlib.import_module(vendor)
    assert module.function(1) == 1
    assert run.site_of(module.function) is None
    instrument(f"{vendor}:function")
    assert run.site_of(module.function) is not None


def test_a_decorated_function_keeps_what_the_options_do_not_say(recorded: Recorded, module: Any, vendor: str) -> None:
    instrument(f"{vendor}:Client.own", name="renamed")
    assert module.Client().own(1) == 1
    (call,) = recorded.calls()
    assert call.name == "renamed"
    site = run.site_of(module.Client.own)
    assert site is not None
    assert site.span_type == "llm"


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("functoin", "has no 'functoin'; the nearest is 'function'"),
        ("Cleint.send", "has no 'Cleint'; the nearest is 'Client'"),
        ("Client.sned", "Client has no 'sned'; the nearest is 'send'"),
        ("Client.size", "a property is no call"),
        ("Client", "Client is a class; decorate its methods"),
        ("client.send.x", "has no 'x'"),
    ],
)
def test_a_name_that_is_not_there_or_cannot_be_called_is_an_error_at_once_or_at_import(
    vendor: str, path: str, says: str
) -> None:
    instrument(f"{vendor}:{path}")
    with pytest.raises(ConfigurationError, match=says):
        importlib.import_module(vendor)
    importlib.import_module(vendor)
    with pytest.raises(ConfigurationError, match=says):
        instrument(f"{vendor}:{path}")
    with pytest.raises(ConfigurationError, match="is not instrumented"):
        uninstrument(f"{vendor}:{path}")


def test_what_the_recorder_calls_itself_is_not_recorded(recorded: Recorded) -> None:
    targets = [
        "json:dumps",
        "json:JSONEncoder.encode",
        "json:loads",
        "pickle:dumps",
        "time:time_ns",
        "io:BytesIO.write",
    ]
    made = [target for target in targets if _instrumented(target)]
    try:
        assert json.loads(json.dumps([1])) == [1]
        traced(name="own", attributes={"a": 1})(lambda: json.dumps({}))()
        names = [call.name for call in recorded.calls()]
    finally:
        for target in made:
            uninstrument(target)
    assert names == ["dumps", "JSONEncoder.encode", "loads", "own", "dumps", "JSONEncoder.encode"]


def _instrumented(target: str) -> bool:
    try:
        instrument(target)
    except ConfigurationError:  # written in C, and cannot be replaced
        return False
    return True


@pytest.mark.parametrize("target", ["math.gcd", "math:", ":gcd", "ma th:gcd", "math:gcd:x", "math:1", "", 3, None])
def test_a_target_of_another_form_is_refused_with_the_form(target: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"write it as 'package\.module:function'"):
        instrument(target)


def test_what_is_built_into_python_and_cannot_be_replaced_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"cannot be replaced \(.*\); decorate a function"):
        instrument("datetime:datetime.isoformat")
    with pytest.raises(ConfigurationError, match="what the recorder is made of"):
        instrument("builtins:len")


def test_what_opening_the_default_database_calls_may_be_instrumented(tmp_path: Path) -> None:
    code = """
    import os
    from clearstone import instrument
    for name in ("getpid", "getcwd", "stat"):
        instrument(f"os:{name}", span_type="tool")
    os.getpid(), os.getcwd(), os.stat(".")
    """
    environment = os.environ | {"CLEARSTONE_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_wrong_option_is_refused_as_the_decorator_does() -> None:
    with pytest.raises(ConfigurationError, match="'again' is neither"):
        instrument("math:gcd", replay="again")  # type: ignore[arg-type]


def test_undoing_says_what_is_instrumented_or_that_something_else_took_its_place(module: Any, vendor: str) -> None:
    instrument(f"{vendor}:function")
    with pytest.raises(ConfigurationError, match="the nearest is " + re.escape(repr(f"{vendor}:function"))):
        uninstrument(f"{vendor}:functoin")
    ours = module.function
    module.function = lambda x: ours(x)
    with pytest.raises(ConfigurationError, match="was replaced by something else"):
        uninstrument(f"{vendor}:function")
    module.function = ours
    uninstrument(f"{vendor}:function")


@pytest.mark.usefixtures("module")
def test_a_name_taken_before_is_not_reached_and_one_taken_after_is(recorded: Recorded, vendor: str) -> None:
    before: dict[str, Any] = {}
    exec(f"from {vendor} import function", before)  # noqa: S102 - an alias as users take it
    instrument(f"{vendor}:function")
    after: dict[str, Any] = {}
    exec(f"from {vendor} import function", after)  # noqa: S102
    assert (before["function"](1), after["function"](2)) == (1, 2)
    assert [call.args for call in recorded.calls()] == [(2,)]


def test_a_submodule_is_instrumented_when_it_is_imported_not_with_its_package(
    recorded: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "vendor_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "part.py").write_text(textwrap.dedent("def work(x):\n    return x\n"))
    monkeypatch.syspath_prepend(str(tmp_path))
    instrument("vendor_package.part:work")
    importlib.import_module("vendor_package")
    assert "vendor_package.part" not in sys.modules
    part = importlib.import_module("vendor_package.part")
    assert part.work(1) == 1
    assert [call.name for call in recorded.calls()] == ["work"]
    uninstrument("vendor_package.part:work")
    for name in ("vendor_package", "vendor_package.part"):
        del sys.modules[name]
