"""What changed in the agent, from the command line: nothing of it is loaded."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.cli.conftest import Shell


def test_diff_of_one_checkpoint_tells_what_the_failed_call_changed(failed: Shell) -> None:
    run = failed("diff", "latest")
    assert run.returncode == 1
    assert run.stdout == "added   self.notes[1]: 2\n"
    told = json.loads(failed("diff", "latest", "--json").stdout)
    assert told == [{"kind": "added", "path": "self.notes[1]", "after": 2}]


def test_diff_of_two_checkpoints(failed: Shell) -> None:
    (first,) = (failed.folder / ".clearstone" / "checkpoints").glob("*.pack")
    source = failed.folder / "agent.py"
    source.write_text(source.read_text().replace("[bold]markup[/bold]", "another note"))
    failed.python("agent.py")
    run = failed("diff", str(first), "latest")
    assert run.returncode == 1
    assert "changed self.notes[0]: '[bold]markup[/bold]' -> 'another note'" in run.stdout


def test_a_checkpoint_and_itself_have_no_difference(failed: Shell) -> None:
    run = failed("diff", "latest", "latest")
    assert (run.returncode, run.stdout) == (0, "")
    assert "No difference" in run.stderr
    assert failed("diff", "latest", "latest", "--json").stdout == "[]\n"


def test_a_checkpoint_of_one_state_needs_another(failed: Shell) -> None:
    failed.python("-c", MADE_BY_HAND)
    run = failed("diff", "latest")
    assert run.returncode == 2
    assert "holds one state; name another checkpoint" in run.stderr


MADE_BY_HAND = """
from clearstone.debugging import CheckpointManager
from clearstone.observability import TracerProvider
provider = TracerProvider()
with provider.get_tracer("t").span("step") as span:
    pass
manager = CheckpointManager()
trace = provider.trace_store.get_trace(span.trace_id)
manager.save_checkpoint(manager.create_checkpoint(object(), trace, span.span_id))
"""
