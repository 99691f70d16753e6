"""A research agent that asks a real language model, and fails on something the model really says.

For each question it asks the model for the subject, searches a small library, lets the model answer from the best
passage it has not used yet, and asks once more whether the passage bears the answer out. The bug is in `parse_verdict`.
"""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import local_model

from clearstone import checkpointable, traced

LIBRARY = Path(__file__).with_name("library.txt")
QUESTIONS = ("Why is the sea salty?", "Why does the sea look blue?", "Why does the tide rise?")


def words(text: str) -> set[str]:
    """Return the different words of a text, in lower case."""
    return set(re.findall(r"[a-z]+", text.lower()))


@traced
def parse_verdict(reply: str) -> bool:
    """Read the model's yes or no."""
    return {"yes": True, "no": False}[reply.lower().rstrip(".")]


@checkpointable
class ResearchAgent:
    """Answers questions from a small library and remembers what it found.

    Args:
        shortest: How long a word must be to say what a passage is about.
    """

    def __init__(self, shortest: int = 4) -> None:
        self.memory: list[dict[str, Any]] = []
        self.rank = lambda query, passage: sum(len(word) >= shortest for word in words(query) & words(passage))

    @traced
    def research(self, question: str) -> dict[str, Any]:
        """Answer one question and check the answer, remembering each finding as it comes."""
        note: dict[str, Any] = {"question": question, "asked": datetime.now(tz=UTC).isoformat(timespec="milliseconds")}
        self.memory.append(note)
        subject = self.call_llm(f"{question}\nName the subject of this question.", 8)
        passage = note["passage"] = self.choose(question, self.search(f"{question} {subject}"))
        answer = note["answer"] = self.call_llm(f"{passage}\n\nUse this text to answer in one sentence: {question}", 32)
        check = f"Text: {passage}\nAnswer: {answer}\n\nIs the answer true? Reply with one word, yes or no."
        note["true"] = parse_verdict(self.call_llm(check, 12))
        return note

    @traced
    def choose(self, question: str, passages: list[str]) -> str:
        """Return the passage that fits best among those not used before."""
        used = [note.get("passage") for note in self.memory]
        return max((p for p in passages if p not in used), key=lambda p: self.rank(question, p))

    @traced(span_type="tool")
    def search(self, query: str) -> list[str]:
        """Return the passages of the library that share a telling word with the query."""
        return [passage for passage in LIBRARY.read_text(encoding="utf-8").splitlines() if self.rank(query, passage)]

    @traced(span_type="llm")
    def call_llm(self, prompt: str, max_tokens: int) -> str:
        """Ask the model."""
        return local_model.ask(prompt, max_tokens)


def main() -> int:
    """Research the questions in a row."""
    try:
        local_model.load()
    except local_model.ModelMissingError as missing:
        print(missing, file=sys.stderr)
        return 2
    agent = ResearchAgent()
    for question in QUESTIONS:
        note = agent.research(question)
        print(f"{question}\n  {note['answer']}\n  true, says the model: {note['true']}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
