"""What a growing conversation costs on disk: 200 LLM calls, each passing the whole history so far.

    python benchmarks/history.py [--calls 200]

Each call adds one message of 500 random bytes, so the calls pass a hundred times what there is. The bound is three
times the messages plus 1 KB a call, for everything in the folder: database, journal and blobs.
"""

import argparse
import random
import string
import tempfile
from pathlib import Path

import clearstone
from clearstone import traced
from clearstone.observability import SQLiteTraceStore

MESSAGE, A_CALL, TIMES = 500, 1024, 3
SECONDS = 600.0


@traced(span_type="llm")
def ask(messages: list[dict[str, str]]) -> str:
    return "yes"


def record(calls: int, folder: Path) -> dict[str, int]:
    """Record the calls; return the bytes in `folder` when all is stored, when the provider is closed, and tidied."""
    drawn, history = random.Random(7), []
    provider = clearstone.configure(home=folder)
    for _ in range(calls):
        history.append({"role": "user", "content": "".join(drawn.choices(string.printable, k=MESSAGE))})
        ask(history)
    if not provider.flush(SECONDS):
        raise SystemExit("the store did not take everything")
    sizes = {"flushed": size_of(folder)}
    provider.shutdown(SECONDS)
    sizes["closed"] = size_of(folder)
    store = SQLiteTraceStore(folder / "traces.db")
    while store.tidy(SECONDS):
        pass
    store.close()
    return sizes | {"tidied": size_of(folder)}


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=200)
    calls = parser.parse_args().calls
    with tempfile.TemporaryDirectory() as folder:
        taken = record(calls, Path(folder))
    messages, passed = calls * MESSAGE, calls * (calls + 1) // 2 * MESSAGE
    bound = TIMES * messages + A_CALL * calls
    print(f"{calls} calls, {messages:,} bytes of messages, passed as {passed:,} bytes")
    for when, size in taken.items():
        within = "within" if size <= bound else "OVER"
        print(f"{when:8} {size:12,} bytes on disk, {size / messages:6.2f} times the messages: {within} {bound:,}")


if __name__ == "__main__":
    main()
