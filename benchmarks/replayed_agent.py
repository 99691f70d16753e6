"""The agent of `benchmarks/replay.py`: so many calls of a model, then a failure."""

from workloads import REPLIES, timed

from clearstone import checkpointable, traced


@traced(span_type="llm")
def ask(messages, **options):
    return {"role": "assistant", "content": REPLIES[0], "usage": {"input": 1500, "output": 130}}


@checkpointable(budget=None)
def run(calls: int, fresh: bool) -> None:
    raise RuntimeError(timed(ask, calls, fresh=fresh))
