"""The agent of the golden files: its name stands in them, so it stays as it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from clearstone import checkpointable, traced


@dataclass
class Note:
    text: str
    tags: list[str] = field(default_factory=list)


@checkpointable(on="entry", nested=True)
class Agent:
    def __init__(self) -> None:
        self.messages: list[Any] = [{"role": "user", "content": f"message {i}", "n": [i]} for i in range(200)]
        self.notes = {"first": Note("first", ["a"])}
        self.alias = self.messages[70]["n"]
        self.itself = [self, self.messages]
        self.asked = 0

    @traced(span_type="llm")
    def _ask(self, question: str) -> str:
        return f"answer to {question}"

    @traced(span_type="tool")
    def _look(self, what: str) -> Note:
        if what == "nothing":
            raise LookupError("there is nothing")
        return Note(what)

    def step(self, question: str) -> None:
        self.asked += 1
        self.messages.append({"role": "assistant", "content": self._ask(question), "n": [self.asked]})
        self.notes[question] = self._look(question)

    def run(self, *questions: str) -> int:
        for question in questions:
            self.step(question)
        raise ValueError(f"failed after {self.asked} with {len(self.messages)} messages")
