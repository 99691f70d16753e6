from __future__ import annotations

import gc
import sys
import time
from types import BuiltinFunctionType
from typing import TYPE_CHECKING, Any, cast

import pytest

from clearstone.nondet import method_table, patches
from clearstone.nondet.method_table import BuiltinSwap, UnsupportedLayoutError

if TYPE_CHECKING:
    from collections.abc import Callable

swapping = pytest.mark.skipif(not method_table.works(), reason="this interpreter keeps builtins in another way")


def builtin(function: Callable[..., Any]) -> BuiltinFunctionType:
    return cast(BuiltinFunctionType, function)


def boom(*_arguments: Any) -> None:
    raise LookupError("from the dispatcher")


def test_this_interpreter_is_supported_if_it_is_a_plain_cpython() -> None:
    plain = sys.implementation.name == "cpython" and not hasattr(sys, "gettotalrefcount")
    assert method_table.works() == (plain and getattr(sys, "_is_gil_enabled", lambda: True)())


@swapping
def test_the_dispatcher_is_called_while_installed_and_the_original_before_and_after() -> None:
    swap = BuiltinSwap(builtin(time.process_time), lambda _: lambda: -5.0)
    assert isinstance(time.process_time(), float)
    swap.install()
    try:
        assert time.process_time() == -5.0
        assert isinstance(swap.original(), float)
    finally:
        swap.remove()
    assert isinstance(time.process_time(), float)


@swapping
@pytest.mark.parametrize(("function", "arguments"), [(time.thread_time, ()), (time.gmtime, (0,)), (sys.intern, ("a",))])
def test_an_exception_of_the_dispatcher_reaches_the_caller(function: Any, arguments: tuple[Any, ...]) -> None:
    swap = BuiltinSwap(builtin(function), lambda _: boom)
    swap.install()
    try:
        with pytest.raises(LookupError, match="from the dispatcher"):
            function(*arguments)
    finally:
        swap.remove()
    function(*arguments)


@swapping
def test_swapping_a_thousand_times_keeps_every_reference_alive() -> None:
    swap = BuiltinSwap(builtin(time.thread_time_ns), lambda _: lambda: 7)
    for _ in range(1000):
        swap.install()
        assert time.thread_time_ns() == 7
        swap.remove()
    gc.collect()
    assert time.thread_time_ns() >= 0


@swapping
@pytest.mark.parametrize("function", [print, sum, sys.getsizeof])
def test_a_builtin_with_keywords_is_refused(function: Any) -> None:
    with pytest.raises(UnsupportedLayoutError):
        BuiltinSwap(builtin(function), lambda original: original)


@swapping
@pytest.mark.parametrize("function", [boom, str.upper, [].append, object()])
def test_what_is_no_builtin_of_a_module_is_refused(function: Any) -> None:
    with pytest.raises(UnsupportedLayoutError):
        BuiltinSwap(function, lambda original: original)


@pytest.mark.parametrize("attribute", ["gettotalrefcount", "getobjects"])
def test_a_debug_build_is_not_supported(monkeypatch: pytest.MonkeyPatch, attribute: str) -> None:
    monkeypatch.setattr(sys, attribute, lambda: 0, raising=False)
    assert not method_table.works.__wrapped__()


def test_an_unsupported_interpreter_falls_back_to_the_attribute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(method_table, "works", lambda: False)
    patch = patches.builtin_patch(time, "sleep", lambda _: lambda _seconds: "asleep")
    assert isinstance(patch, patches.AttributePatch)
    original = time.sleep
    patch.install()
    try:
        slept: object = time.sleep(3600)  # type: ignore[func-returns-value]
        assert slept == "asleep"
        assert patch.original is original
    finally:
        patch.remove()
    assert time.sleep is original


def test_a_function_somebody_else_put_there_falls_back_to_the_attribute(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(time, "sleep", boom)
        assert isinstance(patches.builtin_patch(time, "sleep", lambda original: original), patches.AttributePatch)
