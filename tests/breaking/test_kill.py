"""``kill -9``: every call that had returned is kept once and whole, with its parent; what had not is interrupted."""

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SEED = int(os.environ.get("CLEARSTONE_SEED", "3"))
SHORT, LONG = 12, 300


def kill_at_moments(recorder: Any, moments: range) -> None:
    kept = 0
    for moment in moments:
        seconds = random.Random(f"{SEED}.{moment}").uniform(0, 0.12)
        print(f"seed {SEED}, moment {moment}: killed {seconds:.4f} s after every thread had recorded")
        recorder.database.unlink(missing_ok=True)
        recorder.counters.write_bytes(bytes(recorder.module.SLOTS * 8))
        recorder.run_until_killed(seconds)
        kept += recorder.check()
    print(f"{len(moments)} moments, {kept:,} calls had returned: all kept, none twice, none torn")


@pytest.mark.once
def test_a_kill_at_any_moment_loses_no_call_that_had_returned(recorder: Any) -> None:
    kill_at_moments(recorder, range(SHORT))


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_300_kills_at_any_moment_lose_no_call_that_had_returned(recorder: Any, capsys: Any) -> None:
    kill_at_moments(recorder, range(LONG))
    with capsys.disabled():
        print(capsys.readouterr().out.splitlines()[-1])


def killed_in_the_middle_of_transactions(recorder: Any, statements: list[int]) -> int:
    kept = 0
    for statement in statements:
        recorder.database.unlink(missing_ok=True)
        recorder.counters.write_bytes(bytes(recorder.module.SLOTS * 8))
        process = recorder.run(statement)
        assert process.wait(60) == -signal.SIGKILL, process.communicate()
        kept += recorder.check()
    return kept


@pytest.mark.once
def test_a_kill_in_the_middle_of_a_transaction_loses_nothing(recorder: Any) -> None:
    assert killed_in_the_middle_of_transactions(recorder, [1, 2, 3, 5, 8, 30]) >= 0


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_kill_at_any_of_the_first_60_statements_loses_nothing(recorder: Any, capsys: Any) -> None:
    kept = killed_in_the_middle_of_transactions(recorder, list(range(1, 61)))
    with capsys.disabled():
        print(
            f"60 kills, each at another statement of the writer's transactions; {kept:,} calls had returned: all kept"
        )


@pytest.mark.once
def test_a_recovery_that_is_killed_in_the_middle_is_finished_by_the_next(
    recorder: Any, program: Callable[..., Any], tmp_path: Path
) -> None:
    recorder.run_until_killed(0.1)
    for statement in (1, 2, 4, 9, 20, 35):
        process = program(
            """
            import os, signal, sys
            from pathlib import Path
            from clearstone.record.recovery import journal_folder, recover
            from clearstone.store.sqlite import SQLiteTraceStore

            left = [int(sys.argv[2])]

            def trace(_):
                left[0] -= 1
                if not left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)

            store = SQLiteTraceStore(sys.argv[1])
            with store.database.using() as db:
                db.set_trace_callback(trace)
            recover(store, journal_folder(Path(sys.argv[1])))
            """,
            recorder.database,
            statement,
        )
        assert process.wait(60) == -signal.SIGKILL, process.communicate()
    recorder.check()


def test_two_openers_at_once_recover_each_journal_once(recorder: Any, program: Callable[..., Any]) -> None:
    recorder.run_until_killed(0.1)
    openers = [
        program(
            """
            import sys
            from clearstone.observability import TracerProvider

            print("ready", flush=True)
            sys.stdin.readline()
            provider = TracerProvider(sys.argv[1])
            assert provider.shutdown(60), provider.flush(0)
            """,
            recorder.database,
        )
        for _ in range(4)
    ]
    for opener in openers:
        assert opener.stdout.readline() == "ready\n"
    for opener in openers:
        opener.stdin.write("\n")
        opener.stdin.flush()
    for opener in openers:
        _, errors = opener.communicate(timeout=60)
        assert (opener.returncode, errors) == (0, "")
    recorder.check()
