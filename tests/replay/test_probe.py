"""The probe that no system measured so far passes: all kinds of calls, against a real server on loopback, in one run.

It is recorded once and replayed three times without a request, then with another prompt.
"""

import asyncio
import datetime as dt
import http.server
import json
import random
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import pydantic
import pytest

from clearstone import checkpointable, traced
from clearstone.debugging import Checkpoint, CheckpointManager, ReplayEngine
from clearstone.errors import ReplayDivergence


class Server(http.server.ThreadingHTTPServer):
    """Answers with the number of the request, so that no two answers are alike; counts them."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.requests = 0

    def number(self) -> int:
        with self.lock:
            self.requests += 1
            return self.requests


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        prompt = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["prompt"]
        number = self.server.number()
        if "slow" in prompt:
            time.sleep(0.2)
        self.send_response(400 if prompt == "FAIL" else 200)
        self.end_headers()
        for word in ("live", f"#{number}", f":{prompt}"):
            self.wfile.write(word.encode() + b"\n")

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class BadRequestError(Exception):
    """As clients have it: made from a response, with attributes."""

    def __init__(self, message: str, *, status_code: int, body: dict[str, Any]) -> None:
        super().__init__(message)
        self.status_code, self.body = status_code, body


@dataclass(frozen=True)
class Answer:
    text: str
    words: tuple[str, ...]


class Usage(pydantic.BaseModel):
    prompt: str
    tokens: int


class Pair(NamedTuple):
    first: str
    second: str


prompts = {"first": "hello"}


@checkpointable
class Agent:
    def __init__(self, url: str) -> None:
        self.url = url
        self.total_cost, self.history = 0.0, ["begun"]

    def post(self, prompt: str) -> list[str]:
        request = urllib.request.Request(self.url, json.dumps({"prompt": prompt}).encode())  # noqa: S310 - loopback
        try:
            with urllib.request.urlopen(request) as response:  # noqa: S310
                return [line.decode().strip() for line in response]
        except urllib.error.HTTPError as error:
            told = error.read().decode()
            raise BadRequestError(f"{error.code}", status_code=error.code, body={"told": told}) from error

    @traced(span_type="llm")
    def call(self, prompt: str) -> str:
        return "".join(self.post(prompt))

    @traced(span_type="llm")
    def stream(self, prompt: str) -> Iterator[str]:
        yield from self.post(prompt)

    @traced(span_type="llm")
    async def acall(self, prompt: str) -> str:
        return "".join(await asyncio.get_running_loop().run_in_executor(None, self.post, prompt))

    @traced(span_type="llm")
    async def astream(self, prompt: str) -> Any:
        for word in await asyncio.get_running_loop().run_in_executor(None, self.post, prompt):
            yield word

    @traced(span_type="llm")
    def spend(self, prompt: str) -> str:
        answer = "".join(self.post(prompt))
        self.total_cost += 0.25
        self.history.append(answer)
        return answer

    @traced(span_type="tool")
    def objects(self, prompt: str) -> tuple[Answer, Usage, tuple[int, str], Pair]:
        words = self.post(prompt)
        answer = Answer("".join(words), tuple(words))
        return answer, Usage(prompt=prompt, tokens=len(words)), (1, words[1]), Pair(words[0], words[1])

    async def gathered(self) -> list[str]:
        return list(await asyncio.gather(*(self.acall(f"{name}-task") for name in ("slow", "b", "c"))))

    async def read(self) -> list[str]:
        return [word async for word in self.astream("astream")]

    def in_threads(self) -> list[str]:
        with ThreadPoolExecutor(3) as pool:
            return list(pool.map(self.call, ("slow-thread", "b-thread", "c-thread")))

    def refused(self) -> Any:
        try:
            self.call("FAIL")
        except BadRequestError as error:
            return type(error).__name__, str(error), error.status_code, error.body, type(error.__cause__).__name__
        return None

    def run(self) -> None:
        began = time.monotonic()
        found = {
            "sync": [self.call(prompts["first"]), self.call("again")],
            "stream": list(self.stream("stream")),
            "one of a stream": next(iter(self.stream("left early"))),
            "gather": asyncio.run(self.gathered()),
            "async stream": asyncio.run(self.read()),
            "threads": self.in_threads(),
            "exception": self.refused(),
            "self": (self.spend("cost"), self.spend("cost"), self.total_cost, self.history),
            "objects": self.objects("objects"),
            "random": (random.random(), random.randint(0, 10**9), random.sample(range(100), 5)),
            "time passes": time.monotonic() > began,
            "now": (type(dt.datetime.now(tz=dt.UTC)).__name__, Usage.model_validate({"prompt": "x", "tokens": 1})),
        }
        raise RuntimeError(found)

    def drawn(self) -> Any:
        """What a replay need not know from the record, and what is the same in every replay."""
        return time.time(), uuid.uuid4(), dt.datetime.now(tz=dt.UTC), random.random(), uuid.uuid1()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


@pytest.fixture
def recorded(server: Server) -> tuple[Checkpoint, Any]:
    """The one run that goes out: its checkpoint, and what it found."""
    prompts["first"] = "hello"
    with pytest.raises(RuntimeError) as caught:
        Agent(f"http://127.0.0.1:{server.server_address[1]}").run()
    return CheckpointManager().load_checkpoint("latest"), caught.value.args[0]


def test_all_kinds_of_calls_replay_three_times_to_the_recorded_result_without_a_request(
    server: Server, recorded: tuple[Checkpoint, Any]
) -> None:
    checkpoint, found = recorded
    sent = server.requests
    for _ in range(3):
        engine = ReplayEngine(checkpoint)
        with pytest.raises(RuntimeError) as caught:
            engine.replay_from_checkpoint()
        assert caught.value.args[0] == found
        assert engine.ledger.count("diverged", "beyond", "unused", "live") == 0
        assert engine.ledger.served == sum(span.replay == "serve" for span in checkpoint.trace)
    assert server.requests == sent


def test_clock_and_chance_are_the_same_in_every_replay(recorded: tuple[Checkpoint, Any]) -> None:
    checkpoint, _ = recorded
    first, second, third = (ReplayEngine(checkpoint).replay_from_checkpoint("drawn") for _ in range(3))
    assert first == second == third


def test_another_prompt_is_a_divergence_that_shows_it_and_no_request(
    server: Server, recorded: tuple[Checkpoint, Any]
) -> None:
    checkpoint, _ = recorded
    sent, prompts["first"] = server.requests, "goodbye"
    engine = ReplayEngine(checkpoint)
    with pytest.raises(ReplayDivergence) as caught:
        engine.replay_from_checkpoint()
    assert "prompt: recorded 'hello', now 'goodbye'" in str(caught.value)
    assert 'self.call(prompts["first"])' in str(caught.value)
    assert engine.ledger.count("diverged") == 1
    assert server.requests == sent
