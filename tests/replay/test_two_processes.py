"""Two replays of one checkpoint, in processes with other hash seeds, are the same in all that can be seen of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

AGENT = """
    import asyncio, random, threading, time, uuid
    from concurrent.futures import ThreadPoolExecutor
    from clearstone import checkpointable, traced

    @checkpointable
    class Agent:
        def __init__(self):
            self.numbers, self.words, self.notes = {1, 5, 900, 33}, {"red", "green", "blue"}, []

        @traced(span_type="llm")
        def ask(self, q):
            return {"asked": q, "at": time.time()}

        @traced(span_type="llm")
        async def aask(self, q):
            await asyncio.sleep(random.random() / 100)
            return q.upper()

        @traced
        def job(self, number):
            return self.ask(f"job {number}")["asked"]

        @traced
        async def chain(self, number):
            first = await self.aask(f"first {number}")
            return [first, await self.aask(f"then {number}")]

        async def chains(self):
            return await asyncio.gather(*map(self.chain, range(5)))

        def run(self):
            for number in self.numbers:
                self.notes.append(number)
            self.notes += [random.random(), str(uuid.uuid4()), time.time(), time.monotonic()]
            with ThreadPoolExecutor(3) as pool:
                self.notes += pool.map(self.job, range(8))
            self.notes += asyncio.run(self.chains())
            self.notes.append(time.perf_counter())
            raise RuntimeError(*self.notes)

    if __name__ == "__main__":
        Agent().run()
"""

REPLAY = """
    import io, json, sys
    from clearstone.debugger.events import Log, OpenLog
    from clearstone.debugger.following import Follower
    from clearstone.debugging import CheckpointManager, ReplayEngine

    def entry(call):
        # the how-manieth of its site it is, counted over all threads, is what it is among threads: chance
        return {name: value for name, value in call.as_json().items() if name != "number"}

    engine = ReplayEngine(CheckpointManager().load_checkpoint("latest"))
    file = io.BytesIO()
    log = OpenLog(file)
    try:
        with Follower(log, is_pressed="pressed" in sys.argv).following():
            engine.replay_from_checkpoint()
    except RuntimeError as error:
        result = error.args
    log = Log(file, log.closed())
    events = {name: [event[:3] for block in log.blocks(name) for event in block.events()] for name in log.sequences}
    agent = engine._agent
    print(json.dumps({
        "result": result,
        "state": [sorted(agent.numbers), sorted(agent.words), agent.notes],
        "ledger": sorted(json.dumps(entry(each)) for each in engine.ledger),
        "events": events,
        "hash": hash("a text"),
    }, sort_keys=True))
"""


def ran(folder: Path, source: str, *arguments: str, seed: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "CLEARSTONE_HOME": str(folder / "home"), "PYTHONHASHSEED": seed}
    (folder / source).write_text(textwrap.dedent(AGENT if source == "agent.py" else REPLAY))
    command = [sys.executable, source, *arguments]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def test_results_states_ledgers_and_the_lines_of_each_task_and_thread_are_the_same(tmp_path: Path) -> None:
    assert "RuntimeError" in ran(tmp_path, "agent.py", seed="random").stderr
    found: list[dict[str, Any]] = []
    for seed, how in (("1", "calm"), ("2", "calm"), ("3", "pressed"), ("random", "pressed")):
        run = ran(tmp_path, "replay.py", how, seed=seed)
        assert run.returncode == 0, run.stderr
        found.append(json.loads(run.stdout))
    hashes = [each.pop("hash") for each in found]
    assert len(set(hashes)) == 4
    for each in found[1:]:
        assert each["result"] == found[0]["result"]
        assert each["state"] == found[0]["state"]
        assert each["ledger"] == found[0]["ledger"]
        assert each["events"] == found[0]["events"]
    sequences = set(found[0]["events"])
    assert {"main", "main/thread 8", "main/task 1", "main/task 1/task 5"} <= sequences
    assert len(found[0]["ledger"]) == 8 * 2 + 5 * 3 + 2
