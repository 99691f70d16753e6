"""Where a replay depends on what no record holds: `clearstone doctor` names the line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Shell

AGENT = """
import asyncio, os, random, threading, time, uuid
from concurrent.futures import ThreadPoolExecutor
from clearstone import checkpointable, traced

class Thing: pass

@checkpointable(rebuild={{"lock": threading.Lock}})
class Agent:
    def __init__(self):
        self.lock, self.count, self.found = threading.Lock(), 0, []

    @traced(span_type="llm")
    def ask(self, q):
        return q.upper()

    @traced(span_type="llm")
    async def aask(self, q):
        await asyncio.sleep(0.01)
        return q.upper()

    @traced
    def job(self, number):
        answer = self.ask(f"job {{number}}")
        time.sleep(0.01)
        with self.lock:
            self.count += number
        return answer

    def race(self, number):
        before = self.count
        before = before * 2 + number
        self.count = before

    async def chain(self, number):
        return [await self.aask(f"{{number}}.{{part}}") for part in range(3)]

    async def chains(self):
        return await asyncio.gather(*map(self.chain, range(4)))

    def run(self):
        words = {{"red", "green", "blue", "black", "white"}}
{body}
        raise ValueError("end")

if __name__ == "__main__":
    Agent().run()
"""


def agent(shell: Shell, *body: str) -> None:
    lines = "\n".join(f"        {line}" for line in body)
    (shell.folder / "agent.py").write_text(AGENT.format(body=lines))
    assert "end" in shell.python("agent.py").stderr


def examined(shell: Shell, *options: str) -> tuple[int, dict[str, Any]]:
    run = shell("doctor", "latest", "--json", *options)
    assert run.stdout, run.stderr
    return run.returncode, json.loads(run.stdout)


def test_code_that_depends_on_nothing_else_parts_nowhere(shell: Shell) -> None:
    agent(
        shell,
        "for number in {1, 5, 900, 33}: self.found.append(number)",
        "self.found += [random.random(), str(uuid.uuid4()), time.time(), len(words), 'red' in words]",
        "with ThreadPoolExecutor(3) as pool: self.found += pool.map(self.job, range(8))",
        "self.found += asyncio.run(self.chains())",
        "self.found += sorted(words)",
    )
    code, told = examined(shell)
    assert (told["places"], told["calls"], told["values"]) == ([], [], [])
    assert (code, told["parts"], told["diverged"], told["complete"]) == (0, False, False, True)
    assert [each["hash_seed"] for each in told["replays"]] == ["1", "2", "3", "4"]
    assert len({each["lines"] for each in told["replays"]}) == 1
    assert "reused 20 · diverged 0" in told["replays"][0]["summary"]
    run = shell("doctor", "latest", "--replays", "2")
    assert run.stdout.startswith("Nothing parts: 2 replays (hash seeds 1, 2; threads calm and pressed) ran the same")


def test_going_through_a_set_is_named_with_what_both_did_and_the_way_out(shell: Shell) -> None:
    agent(shell, "for word in words:", "    self.found.append(word)")
    code, told = examined(shell)
    place = told["places"][0]
    assert (code, place["source"], place["kind"], place["by_hash_seed"]) == (1, "for word in words:", "value", True)
    assert place["one"].startswith("word = '")
    assert place["other"].startswith("word = '")
    assert place["one"] != place["other"]
    assert "sorted(...)" in place["advice"]
    assert [each["name"] for each in told["values"]] == ["self.found"]
    run = shell("doctor", "latest")
    assert f"agent.py:{place['line']}: for word in words:\n    word = '" in run.stdout
    assert "At the end:\n  self.found: [" in run.stdout
    assert "is changed at" not in run.stdout


def test_a_call_with_other_arguments_parts_and_diverges(shell: Shell) -> None:
    agent(shell, "self.ask(' '.join(words))")
    code, told = examined(shell)
    assert (code, told["parts"], told["diverged"]) == (1, True, True)
    assert "took another way than the record" in shell("doctor", "latest").stdout


def test_threads_that_race_are_named_with_the_line_where_they_do(shell: Shell) -> None:
    agent(shell, "with ThreadPoolExecutor(4) as pool: list(pool.map(self.race, range(12)))")
    code, told = examined(shell)
    place = told["places"][0]
    assert (code, place["source"]) == (1, "before = self.count")
    assert place["in"].startswith("main/thread ")
    assert "hold a lock" in place["advice"]


def test_an_attribute_that_ends_otherwise_is_told_with_the_lines_that_change_it(shell: Shell) -> None:
    agent(
        shell, "with ThreadPoolExecutor(4) as pool: list(pool.map(self.found.append, range(12)))", "self.found[0] += 0"
    )
    code, told = examined(shell)
    assert (code, told["places"]) == (1, [])
    (value,) = told["values"]
    assert value["name"] == "self.found"
    (line,) = value["lines"]
    assert line.startswith(str(shell.folder / "agent.py"))
    assert line.endswith(": self.found[0] += 0")
    assert f"it is changed at {line}" in shell("doctor", "latest").stdout


def test_an_address_is_told_as_one(shell: Shell) -> None:
    agent(shell, "name = f'{Thing()}'")
    _, told = examined(shell, "--replays", "2")
    (place,) = told["places"]
    assert (place["source"], place["by_hash_seed"]) == ("name = f'{Thing()}'", False)
    assert "Addresses" in place["advice"]


def test_a_fix_is_no_parting_and_another_call_diverges_everywhere_alike(shell: Shell) -> None:
    agent(shell, "self.ask('a')")
    source = shell.folder / "agent.py"
    recorded = source.read_text()
    source.write_text(recorded.replace('raise ValueError("end")', "return 1"))
    code, told = examined(shell)
    assert (code, told["parts"], told["diverged"]) == (0, False, False)
    source.write_text(recorded.replace("self.ask('a')", "self.ask('b')"))
    run = shell("doctor", "latest")
    assert run.returncode == 1
    assert run.stdout.startswith("Nothing parts")
    assert "That is neither for the hash seed nor for threads" in run.stdout


def test_what_is_taken_from_todays_machine_is_listed(shell: Shell) -> None:
    agent(shell, "os.environ['HOME']")
    run = shell("doctor", "latest", "--replays", "2", HOME="/")
    assert "Taken from today's machine, not from the record: environment variable HOME" in run.stdout


def test_what_the_agent_prints_and_reads_stays_out_of_the_report(shell: Shell) -> None:
    agent(shell, "print('loud')")
    run = shell("doctor", "latest", "--replays", "2", typed="typed\n")
    assert "loud" not in run.stdout + run.stderr


@pytest.mark.parametrize("arguments", [["nothing"], ["latest", "--replays", "1"], ["latest", "--function", "nothing"]])
def test_what_cannot_be_replayed_is_one_sentence_and_exit_code_2(shell: Shell, arguments: list[str]) -> None:
    agent(shell, "pass")
    run = shell("doctor", *arguments)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.splitlines()[-1].startswith("Error: ")


def test_a_replay_whose_process_dies_is_told_with_its_last_words(shell: Shell) -> None:
    agent(shell, "pass")
    source = shell.folder / "agent.py"
    source.write_text(source.read_text().replace('raise ValueError("end")', "print('last', flush=True); os._exit(7)"))
    run = shell("doctor", "latest")
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.startswith("last\n")
    assert "with hash seed 1 ended with exit code 7 before the replay did" in run.stderr


def test_the_first_replay_has_the_recorded_seed_where_it_was_chosen(shell: Shell) -> None:
    agent(shell, "pass")
    shell.python("agent.py", PYTHONHASHSEED="2")
    _, told = examined(shell)
    assert [each["hash_seed"] for each in told["replays"]] == ["2", "1", "3", "4"]
    assert [each["threads"] for each in told["replays"]] == ["calm", "pressed", "pressed", "pressed"]
