"""A session in a real notebook kernel, where input comes over a socket and an event loop is running."""

import os
import queue
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import KernelManager

SETUP = """
    import asyncio
    from clearstone import checkpointable, traced
    from clearstone.debugging import CheckpointManager, ReplayEngine

    @checkpointable
    class Agent:
        def __init__(self):
            self.seen = []

        @traced(span_type="llm")
        def ask(self, q):
            live.append(q)
            return {"a": 1}[q]

        def run(self, q):
            self.seen.append(self.ask(q))
            return {}[q]

        async def arun(self, q):
            await asyncio.sleep(0)
            self.seen.append(self.ask(q))
            return {}[q]

    live = []
    def fail(call):
        try:
            call()
        except KeyError:
            pass
        return ReplayEngine(CheckpointManager().load_checkpoint("latest"))
"""


class Notebook:
    """Runs cells in a kernel and answers its prompts."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def run(self, cell: str, *typed: str, stdin: bool = True) -> str:
        """Return everything the cell printed, its traceback included."""
        waiting, printed = list(typed), []
        self.client.execute(textwrap.dedent(cell), allow_stdin=stdin)
        while True:
            try:
                prompt = self.client.get_stdin_msg(timeout=0.05)["content"]["prompt"]
                printed.append(prompt)
                self.client.input(waiting.pop(0) if waiting else "q")
            except queue.Empty:
                pass
            try:
                message = self.client.get_iopub_msg(timeout=0.05)
            except queue.Empty:
                continue
            content = message["content"]
            if message["msg_type"] == "stream":
                printed.append(content["text"])
            elif message["msg_type"] == "error":
                printed.append("\n".join(content["traceback"]))
            elif message["msg_type"] == "status" and content["execution_state"] == "idle":
                return "".join(printed)


@pytest.fixture
def notebook(tmp_path: Path) -> Iterator[Notebook]:
    manager = KernelManager()
    env = os.environ | {"CLEARSTONE_HOME": str(tmp_path / "home"), "IPYTHONDIR": str(tmp_path / "ipython")}
    manager.start_kernel(cwd=str(tmp_path), env=env)
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    made = Notebook(client)
    assert made.run(SETUP) == ""
    yield made
    client.stop_channels()
    manager.shutdown_kernel(now=True)
    manager.cleanup_resources()


def test_a_session_in_a_notebook_stops_in_the_cell_and_asks_through_the_kernel(notebook: Notebook) -> None:
    out = notebook.run(
        "engine = fail(lambda: Agent().run('a')); engine.start_debugging_session()", "n", "p self.seen", "c"
    )
    assert out.count("(Pdb)") >= 3
    assert "run()" in out
    assert "[1]" in out
    assert "Replay Failed: KeyError" in out
    out = notebook.run("print(live, engine.mock_config)")
    assert out.split() == ["['a']", "{'llm':", "['__main__.Agent.ask']}"]


def test_an_async_method_is_debugged_in_a_notebook_whose_loop_is_running(notebook: Notebook) -> None:
    cell = """
        try:
            await Agent().arun('a')
        except KeyError:
            engine = fail(lambda: None)
        try:
            engine.start_debugging_session()
        except KeyError as error:
            print("raised", error, live)
    """
    out = notebook.run(cell, "n", "n", "p self.seen", "c")
    assert "arun()" in out
    assert "[1]" in out
    assert "raised 'a' ['a']" in out


def test_a_notebook_that_cannot_ask_leaves_the_session_quietly(notebook: Notebook) -> None:
    out = notebook.run("print(fail(lambda: Agent().run('a')).start_debugging_session())", stdin=False)
    assert out.rstrip().endswith("None")
    assert "Traceback" not in out


def test_a_cell_that_was_mended_is_what_replays(notebook: Notebook) -> None:
    notebook.run("engine = fail(lambda: Agent().run('a'))")
    mended = textwrap.dedent(SETUP).replace("return {}[q]", "return {}.get(q, 'mended')").replace("live = []", "")
    assert notebook.run(mended) == ""
    out = notebook.run(
        "print(ReplayEngine(CheckpointManager().load_checkpoint('latest')).replay_from_checkpoint(), live)"
    )
    assert out.strip() == "mended ['a']"
