"""What redaction costs for one payload: 20 chat messages of 300 distinct characters (7 KB).

Prints microseconds, the best of seven rounds: what is above them is other programs' share of the machine.
"""

import pickle
import random
import string
import timeit
from collections.abc import Callable
from functools import partial
from itertools import count

from clearstone.codec.redact import Redactor, Rules
from clearstone.codec.secrets import _runs, clues, has_clue

WORDS = (
    "agent", "plan", "tool", "result", "search", "weather", "invoice", "customer", "please", "summarise", "the",
    "and", "return", "json", "keys", "However,", "I", "said:", "The", "Bank", "29", "well-known", "(page", "3).",
)  # fmt: skip
SECRET = "sk-proj-" + "a1B2c3D4" * 5
_random = random.Random(7)


def prose(length: int = 300) -> str:
    return " ".join(_random.choices(WORDS, k=length))[:length]


def noise(length: int = 300) -> str:
    return "".join(_random.choices(string.ascii_letters + string.digits + " .,;:-_'\"()@", k=length))


def conversation(text: Callable[[], str], length: int = 20) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": text()} for i in range(length)]


def pickled(value: object) -> bytes:
    return pickle.dumps(({"messages": value, "model": "small", "max_tokens": 512, "temperature": 0.2},), 5)


def tell(what: str, run: Callable[[], object], number: int = 2000) -> None:
    print(f"{what:36}{min(timeit.repeat(run, number=number, repeat=7)) / number * 1e6:8.2f}")


def repeated() -> None:
    redactor = Redactor(Rules())
    payloads = [pickled(conversation(prose)) for _ in range(16)]
    for each in payloads:
        redactor.payload("same", each)
    again = bytes(memoryview(payloads[0]))
    print(f"a payload of {len(again)} bytes")
    tell("seen before, 16 candidates", lambda: redactor.payload("same", again))


def grown() -> None:
    redactor = Redactor(Rules())
    messages = conversation(prose)
    before, after = pickled(messages), pickled([*messages, {"role": "user", "content": prose()}])

    def run() -> None:
        redactor._scanned.clean["grown"] = (before,)
        redactor.payload("grown", after)

    tell("a history and one message more", run)


def fresh(kind: str, text: Callable[[], str]) -> None:
    payloads = [pickled(conversation(text)) for _ in range(1400)]
    data, redactor, others, kin = payloads[0], Redactor(Rules()), iter(payloads), count()
    tell(f"fresh {kind}, the first of its kin", lambda: redactor.payload(next(kin), next(others)), 200)
    others_of_kin = iter(payloads)
    redactor_of_kin = Redactor(Rules())
    tell(f"fresh {kind}, 16 others of its kin", lambda: redactor_of_kin.payload("kin", next(others_of_kin)), 200)
    tell("  of this: names of keys", lambda: redactor._names_secret(data))
    tell("  of this: texts", lambda: has_clue(data))
    tell("    of this: runs", lambda: _runs(data))
    for gate, search in sum(clues(), ()):
        tell(f"    {gate.decode()} in all of it", partial(_find, gate, search, data))


def _find(gate: bytes, search: Callable[[bytes], object], data: bytes) -> bool:
    return gate in data and search(data) is not None


def secret() -> None:
    redactor = Redactor(Rules())
    messages = [*conversation(prose, 19), {"role": "user", "content": f"{prose(150)} {SECRET} {prose(100)}"}]
    data = pickled(messages)
    tell("a secret in it, seen before", lambda: redactor.payload("secret", data))
    tell("a secret in it, written anew", lambda: redactor._rewritten(data), 200)


def main() -> None:
    repeated()
    grown()
    fresh("prose", prose)
    fresh("noise", noise)
    secret()


if __name__ == "__main__":
    main()
