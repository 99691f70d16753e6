"""Spans written by hand, and the provider that keeps them."""

import asyncio
import os
import sqlite3
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from clearstone import configure, run, traced
from clearstone.codec import payload
from clearstone.errors import ConfigurationError, StoreError
from clearstone.observability import MemoryTraceStore, Span, SpanKind, Status, StatusCode, TracerProvider


@pytest.fixture
def provider() -> TracerProvider:
    return TracerProvider(store=MemoryTraceStore())


def only(provider: TracerProvider, trace_id: str) -> Span:
    (span,) = provider.trace_store.get_trace(trace_id)
    return span


def test_a_span_keeps_its_kind_type_attributes_events_and_status(provider: TracerProvider) -> None:
    tracer = provider.get_tracer("component", version="1.2")
    with tracer.span("call", span_type="llm", kind="client", attributes={"ticket": 7}) as span:
        span.set_attribute("tags", ("a", "b"))
        span.add_event("retry", {"n": 1})
        span.set_status("ok")
    kept = only(provider, span.trace_id)
    assert (kept.kind, kept.span_type, kept.status) == (SpanKind.CLIENT, "llm", Status(StatusCode.OK))
    assert kept.attributes == {"ticket": 7, "tags": ["a", "b"]}
    assert [(event.name, event.attributes) for event in kept.events] == [("retry", {"n": 1})]
    assert (kept.tracer_name, kept.tracer_version) == ("component", "1.2")


def test_the_span_type_may_stand_among_the_attributes(provider: TracerProvider) -> None:
    with provider.get_tracer().span("call", attributes={"span_type": "tool"}) as span:
        pass
    assert (only(provider, span.trace_id).span_type, only(provider, span.trace_id).replay) == ("tool", "serve")


def test_an_attribute_of_another_type_is_kept_as_its_repr(provider: TracerProvider) -> None:
    class Odd:
        def __eq__(self, other: object) -> bool:
            raise AssertionError("compared")

        __hash__ = object.__hash__

    with provider.get_tracer().span("call") as span:
        span.set_attributes({"odd": Odd(), "nan": float("nan"), "path": Path("x")})
    kept = only(provider, span.trace_id).attributes
    assert "Odd" in kept["odd"]
    assert (kept["nan"], kept["path"]) == ("nan", "PosixPath('x')")


def test_a_hand_written_span_holds_an_input_and_an_output_like_a_decorated_call(provider: TracerProvider) -> None:
    with provider.get_tracer().span("call", span_type="llm") as span:
        span.set_input({"q": 1})
        span.set_output(answer := ["a"])
        answer.append("later")
    kept = only(provider, span.trace_id)
    assert kept.input is not None
    assert kept.outcome is not None
    assert kept.outcome.value is not None
    assert (payload.load(kept.input), payload.load(kept.outcome.value)) == ({"q": 1}, ["a"])


def test_an_exception_that_leaves_the_block_marks_the_span_and_goes_on(provider: TracerProvider) -> None:
    with pytest.raises(KeyError), provider.get_tracer().span("call") as span:
        raise KeyError("gone")
    kept = only(provider, span.trace_id)
    assert kept.status.code is StatusCode.ERROR
    assert kept.outcome is not None
    assert kept.outcome.failure is not None
    assert kept.outcome.failure.type_name == "KeyError"


def test_record_exception_adds_opentelemetrys_event_and_leaves_the_status(provider: TracerProvider) -> None:
    with provider.get_tracer().span("call") as span:
        span.record_exception(ValueError("bad"))
    kept = only(provider, span.trace_id)
    assert kept.status.code is StatusCode.UNSET
    assert kept.events[0].attributes["exception.type"] == "ValueError"
    assert kept.events[0].attributes["exception.message"] == "bad"


@pytest.mark.parametrize("bad", ["FINE", "", 3])
def test_a_status_that_is_none_of_opentelemetrys_is_refused(provider: TracerProvider, bad: Any) -> None:
    with provider.get_tracer().span("call") as span, pytest.raises(ConfigurationError, match="no span status"):
        span.set_status(bad)


def test_a_span_kind_that_is_none_of_opentelemetrys_is_refused(provider: TracerProvider) -> None:
    with pytest.raises(ConfigurationError, match="no span kind"):
        provider.get_tracer().span("call", kind="sideways")


def test_open_spans_are_seen_with_what_they_hold_so_far(provider: TracerProvider) -> None:
    with provider.get_tracer().span("outer") as outer, provider.get_tracer().span("inner") as inner:
        inner.set_attribute("late", 1)
        seen = {span.name: span for span in provider.trace_store.get_trace(outer.trace_id)}
        assert (seen["outer"].is_open, seen["inner"].attributes) == (True, {"late": 1})
        assert seen["inner"].duration_ms >= 0


def test_spans_of_tasks_and_threads_have_the_parents_of_their_own_context(provider: TracerProvider) -> None:
    tracer = provider.get_tracer()

    async def work(name: str) -> None:
        with tracer.span(name):
            await asyncio.sleep(0)
            with tracer.span(f"{name} child"):
                await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(*(work(str(i)) for i in range(5)))

    with tracer.span("root") as root:
        thread = threading.Thread(target=lambda: asyncio.run(main()))
        thread.start()
        thread.join()
    spans = {span.name: span for span in provider.trace_store.get_trace(root.trace_id)}
    for i in range(5):
        assert spans[str(i)].parent_id == root.span_id
        assert spans[f"{i} child"].parent_id == spans[str(i)].span_id


def test_shutdown_may_be_called_twice_and_spans_that_end_later_are_stored(tmp_path: Path) -> None:
    provider = TracerProvider(tmp_path / "t.db")
    with provider.get_tracer().span("outer") as outer:
        with provider.get_tracer().span("inner"):
            assert provider.shutdown()
        assert provider.shutdown()
    stored = {span.name: span.is_open for span in provider.trace_store.get_trace(outer.trace_id)}
    assert stored == {"outer": False, "inner": False}
    provider.shutdown()


class FailingStore(MemoryTraceStore):
    """A store that is down until it is told otherwise."""

    down = True

    def apply(self, batch: Any) -> None:
        if self.down:
            raise StoreError("the store is down on purpose")
        super().apply(batch)


@pytest.mark.usefixtures("faults_allowed")
def test_a_store_that_comes_back_gets_every_span() -> None:
    store = FailingStore()
    provider = TracerProvider(store=store)
    with provider.get_tracer().span("call") as span:
        pass
    assert not provider.flush(timeout=0.2)
    assert [waiting.name for waiting in provider.trace_so_far(span.trace_id)] == ["call"]
    store.down = False
    assert provider.flush(timeout=10)
    assert len(store.get_trace(span.trace_id)) == 1


@pytest.mark.usefixtures("faults_allowed")
def test_what_a_shutdown_could_not_store_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    store = FailingStore()
    provider = TracerProvider(store=store)
    with provider.get_tracer().span("call"):
        pass
    assert not provider.shutdown(timeout=0.2)
    assert "is down on purpose" in capsys.readouterr().err
    store.down = False
    provider.shutdown()


def run_script(tmp_path: Path, source: str, **env: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "script.py").write_text(textwrap.dedent(source))
    return subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, env=os.environ | env, capture_output=True, text=True, check=True
    )


def test_spans_are_flushed_when_the_interpreter_exits(tmp_path: Path) -> None:
    run_script(
        tmp_path,
        """
        from clearstone import traced
        traced(name="last")(abs)(-1)
        """,
    )
    provider = TracerProvider(tmp_path / "home" / "traces.db")
    assert [summary.name for summary in provider.trace_store.traces()] == ["last"]
    provider.shutdown()


def test_a_disabled_process_records_nothing_and_creates_nothing(tmp_path: Path) -> None:
    run = run_script(
        tmp_path,
        """
        import asyncio
        from clearstone import checkpointable, traced
        @checkpointable
        class A:
            @traced
            def go(self): return 1
            async def ago(self): return 2
            def stream(self): yield 3
        print(A().go(), asyncio.run(A().ago()), list(A().stream()))
        """,
        CLEARSTONE_DISABLED="1",
    )
    assert run.stdout.split() == ["1", "2", "[3]"]
    assert not (tmp_path / "home").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_child_records_for_itself_and_the_parent_goes_on(tmp_path: Path) -> None:
    run_script(
        tmp_path,
        """
        import os, warnings
        warnings.simplefilter("ignore")
        from clearstone import traced
        from clearstone.record.default import default_provider
        work = traced(lambda who: who, name="work")
        work("before")
        child = os.fork()
        work("child" if child == 0 else "parent")
        if child == 0:
            default_provider().shutdown()
            os._exit(0)
        os.waitpid(child, 0)
        """,
    )
    provider = TracerProvider(tmp_path / "home" / "traces.db")
    traces = [provider.trace_store.get_trace(one.trace_id) for one in provider.trace_store.traces()]
    said = sorted(payload.load(span.input)[0][0] for trace in traces for span in trace if span.input)
    assert said == ["before", "child", "parent"]
    provider.shutdown()


def test_configure_sets_the_home_and_the_default_provider(tmp_path: Path) -> None:
    chosen = configure(home=tmp_path / "elsewhere")
    traced(name="here")(abs)(1)
    assert [summary.name for summary in chosen.trace_store.traces()] == ["here"]
    assert (tmp_path / "elsewhere" / "traces.db").exists()


@pytest.mark.usefixtures("faults_allowed")
def test_a_default_provider_that_cannot_be_made_is_said_once_and_calls_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CLEARSTONE_HOME", str(tmp_path / "file" / "home"))
    assert [traced(abs)(-1), traced(abs)(-2)] == [1, 2]
    assert capsys.readouterr().err.count("clearstone:") == 1


def test_a_provider_refuses_a_file_that_is_no_trace_database(tmp_path: Path) -> None:
    path = tmp_path / "some.txt"
    path.write_bytes(content := b"not a database, just some text that is long enough")
    with pytest.raises(StoreError, match=r"some\.txt"):
        TracerProvider(path)
    assert path.read_bytes() == content


def test_an_empty_file_becomes_a_trace_database(tmp_path: Path) -> None:
    (tmp_path / "t.db").touch()
    provider = TracerProvider(tmp_path / "t.db")
    with provider.get_tracer().span("work") as span:
        pass
    assert provider.shutdown()
    assert len(provider.trace_store.get_trace(span.trace_id)) == 1
    provider.shutdown()


@pytest.mark.parametrize(("folder", "ours"), [(".clearstone", True), ("mine", False)])
def test_a_folder_the_user_had_gets_no_gitignore_but_our_own_always_has_one(
    tmp_path: Path, folder: str, ours: bool
) -> None:
    (tmp_path / folder).mkdir()
    configure(home=tmp_path / folder)
    assert (tmp_path / folder / ".gitignore").exists() == ours


def test_a_pools_worker_does_not_keep_the_span_it_was_started_in(provider: TracerProvider) -> None:
    with ThreadPoolExecutor(1) as pool:
        with provider.get_tracer().span("first") as first:
            inside = pool.submit(run.current_span.get).result()
        assert inside is first
        assert pool.submit(run.current_span.get).result() is None


@pytest.mark.usefixtures("faults_allowed")
def test_a_span_that_no_store_can_take_is_given_up_and_the_others_are_stored(tmp_path: Path) -> None:
    provider = TracerProvider(tmp_path / "t.db")
    with provider.get_tracer().span("root") as root:
        for name in ("one", "impossible", "two"):
            with provider.get_tracer().span(name) as span:
                if name == "impossible":
                    span.start_ns = 2**70  # type: ignore[union-attr]
    assert provider.shutdown()
    stored = {span.name for span in provider.trace_store.get_trace(root.trace_id)}
    assert {"root", "one", "two"} <= stored
    provider.shutdown()


def test_a_failure_is_not_held_up_by_a_database_that_another_process_locks(tmp_path: Path) -> None:
    provider = TracerProvider(tmp_path / "t.db")
    with provider.get_tracer().span("root") as root:
        assert provider.flush()
        other = sqlite3.connect(tmp_path / "t.db")
        other.execute("BEGIN IMMEDIATE")
        with provider.get_tracer().span("inside"):
            pass
        assert {span.name for span in provider.trace_so_far(root.trace_id)} == {"root", "inside"}
        other.rollback()
        other.close()
    assert provider.shutdown()


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_of_multiprocessing_store_their_spans(tmp_path: Path, method: str) -> None:
    run_script(
        tmp_path,
        f"""
        import multiprocessing, warnings
        warnings.simplefilter("ignore")
        from clearstone import traced
        @traced
        def work(who):
            return who
        def many():
            for i in range(50):
                work(i)
        if __name__ == "__main__":
            work("parent")
            child = multiprocessing.get_context({method!r}).Process(target=many)
            child.start()
            child.join()
        """,
    )
    provider = TracerProvider(tmp_path / "home" / "traces.db")
    assert len(provider.trace_store.traces()) == 51
    provider.shutdown()
