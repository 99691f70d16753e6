"""What is remembered of payloads, and that it hides no secret."""

import os
import pickle
import random
import sys
import threading
from typing import Any

import pytest

from clearstone.codec.redact import MARKER, Redactor, Rules
from clearstone.codec.scanned import CANDIDATES, LARGEST, MOST_BYTES, Doubtful, Naming, Scanned

TOKEN = "ghp_aB3dE6gH9jK2mN5pQ8sT1vW4yZ7abcdef"
MARKED = "[redacted: github token]"
HISTORY = [{"role": "user", "content": f"message {i}: " + "lorem ipsum " * 25} for i in range(20)]


def pickled(messages: Any) -> bytes:
    return pickle.dumps(({"messages": messages, "model": "small", "max_tokens": 5},), 5)


def grown(before: Any, after: Any) -> Any:
    """What `after` loads as when `before` is known to be clean."""
    redactor = Redactor(Rules())
    assert redactor.payload("kin", pickled(before)) is None
    left = redactor.payload("kin", pickled(after))
    return after if left is None else pickle.loads(left)[0]["messages"]


def said(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def test_only_the_end_of_a_grown_history_is_scanned() -> None:
    before, after = pickled(HISTORY), pickled([*HISTORY, said("more")])
    like, start, is_grown = Scanned().kindred((b"x" * 5000, before, pickled(HISTORY[:5])), after)
    assert like is before
    assert is_grown
    assert len(before) - 1100 < start < len(before)


def test_of_two_like_payloads_the_one_that_shares_more_is_taken() -> None:
    short, long = pickled([*HISTORY[:10], said("x" * 5000)]), pickled([*HISTORY[:19], said("y" * 5000)])
    for recent in ((short, long), (long, short)):
        like, start, is_grown = Scanned().kindred(recent, pickled([*HISTORY, said("more")]))
        assert like is long
        assert start > 5000
        assert not is_grown


def test_a_secret_only_in_the_newest_message_is_found() -> None:
    assert grown(HISTORY, [*HISTORY, said(f"use {TOKEN}")]) == [*HISTORY, said(f"use {MARKED}")]
    assert grown(HISTORY, [*HISTORY, {"password": "x"}]) == [*HISTORY, {"password": MARKER}]


@pytest.mark.parametrize("cut", range(len(TOKEN)))
def test_a_secret_that_reaches_into_what_is_new_is_found(cut: int) -> None:
    before = "lorem ipsum " * 500 + TOKEN[:cut]
    after = "lorem ipsum " * 500 + TOKEN
    redactor = Redactor(Rules())
    redactor.payload("kin", pickled(before))
    left = redactor.payload("kin", pickled(after))
    assert left is not None
    assert TOKEN.encode() not in left


def test_a_secret_of_which_two_payloads_have_a_part_each_is_found() -> None:
    def texts(seed: int, length: int) -> str:
        return "".join(random.Random(seed).choices("abc de", k=length))

    for length in range(2300, 2420):
        before, after = texts(1, length), f" {texts(2, 3000)}"
        beginning = f"{before} {TOKEN[:9]}{' ' * (len(TOKEN) - 9)} {texts(3, 3000)}"
        rest = f"other{before[5:]} xx{TOKEN[2:]}{after}"
        redactor = Redactor(Rules())
        assert redactor.payload("kin", pickled(rest)) is None
        assert redactor.payload("kin", pickled(beginning)) is None
        assert redactor.payload("kin", pickled(f"{before} {TOKEN}{after}")) is not None


@pytest.mark.parametrize("step", [1, 7, 100])
@pytest.mark.parametrize(
    ("secret", "marker"),
    [
        (f"eyJ{'a' * 1900}.eyJzdWIiOiIxMjM0In0.{'b' * 300}", "[redacted: jwt]"),
        (f"postgres://me:{'p' * 256}@host", "postgres://me:[redacted: url password]@host"),
        ("-----BEGIN RSA PRIVATE KEY-----\nabc", "[redacted: private key]"),
        (f"Bearer {'a' * 60}9{'b' * 30}", "Bearer [redacted: bearer token]"),
    ],
)
def test_a_long_secret_that_arrives_in_pieces_is_found(step: int, secret: str, marker: str) -> None:
    redactor, filler = Redactor(Rules()), "lorem ipsum " * 500
    for end in [*range(0, len(secret), step), len(secret)]:
        left = redactor.payload("kin", pickled(filler + secret[:end]))
    assert left is not None
    assert pickle.loads(left)[0]["messages"] == filler + marker


def test_a_name_that_was_innocent_so_far_is_remembered_with_what_grows_from_it() -> None:
    name = "".join(["pass", "word"])
    before = [{name: None}, *HISTORY]
    assert grown(before, [*before, {name: "hunter2"}]) == [*before, {name: MARKER}]


def test_what_was_refuted_once_is_not_scanned_again() -> None:
    redactor = Redactor(Rules())
    messages = [said("xx_ghp_abcdefghijklmnop"), *HISTORY]
    redactor.payload("kin", pickled(messages))
    messages = [*messages, said("more")]
    redactor.payload("kin", pickled(messages))
    assert [type(each) for each in redactor._scanned.clean["kin"]] == [Doubtful]
    redactor.payload("names", pickled([{"password": None}, *HISTORY]))
    assert [type(each) for each in redactor._scanned.clean["names"]] == [Naming]


def test_a_grown_history_takes_the_place_of_what_it_grew_from() -> None:
    redactor = Redactor(Rules())
    for length in range(8, 20):
        redactor.payload("kin", pickled(HISTORY[:length]))
    assert redactor._scanned.clean["kin"] == (pickled(HISTORY[:19]),)


def test_kins_do_not_share_what_is_remembered() -> None:
    redactor = Redactor(Rules())
    redactor.payload("a", pickled(HISTORY))
    assert list(redactor._scanned.clean) == ["a"]


def test_few_payloads_of_a_kin_and_few_bytes_in_all_are_remembered() -> None:
    scanned = Scanned()
    for i in range(40):
        scanned.keep_clean("kin", b"%d" % i)
    assert len(scanned.clean["kin"]) == CANDIDATES
    scanned.keep_clean("large", bytes(LARGEST + 1))
    assert "large" not in scanned.clean
    for i in range(2 * MOST_BYTES // LARGEST):
        scanned.keep_clean(i, bytes(LARGEST))
        scanned.keep_redacted(b"%d" % i, b"x")
        assert sum(len(each) for recent in scanned.clean.values() for each in recent) <= MOST_BYTES


def test_names_and_results_that_are_remembered_are_bounded() -> None:
    redactor = Redactor(Rules(function=str.upper))
    for i in range(3):
        redactor.payload("kin", pickle.dumps({f"key {i} {j}": f"text {i} {j}" for j in range(3000)}, 5))
    plain = Redactor(Rules())
    for i in range(3):
        plain.payload("kin", pickle.dumps([f"text {i} {j}" for j in range(3000)], 5))
    for remembered in (redactor._results, redactor._matter, plain._innocent):
        assert 0 < len(remembered) <= 4096


def test_what_only_looks_like_a_text_in_an_image_is_not_remembered_as_one() -> None:
    redactor = Redactor(Rules())
    no_clue = bytes(byte if byte < 32 else 128 | byte for byte in range(256))
    image = random.Random(0).randbytes(100_000).translate(no_clue)  # but places that look like a short text
    assert redactor.payload("kin", pickle.dumps([image, "caption"], 5)) is None
    assert b"\x07caption" in redactor._innocent
    assert len(redactor._innocent) < 10


def test_the_same_secret_is_written_anew_once() -> None:
    redactor = Redactor(Rules())
    first = redactor.payload("a", pickled(said(TOKEN)))
    assert redactor.payload("b", pickled(said(TOKEN))) is first


def test_threads_share_a_redactor() -> None:
    redactor, wrong = Redactor(Rules()), []

    def work(number: int) -> None:
        for i in range(60):
            messages = [*HISTORY[: i % 20], said(f"{number} {i}")]
            if redactor.payload("kin", pickled(messages)) is not None:
                wrong.append(messages)
            left = redactor.payload("kin", pickled([*messages, said(f"{TOKEN} {number}")]))
            if left is None or pickle.loads(left)[0]["messages"][-1] != said(f"{MARKED} {number}"):
                wrong.append(messages)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.skipif(sys.version_info >= (3, 12) and threading.active_count() > 1, reason="fork with threads warns")
def test_a_forked_child_goes_on_redacting() -> None:
    redactor = Redactor(Rules())
    redactor.payload("kin", pickled(HISTORY))
    child = os.fork()
    if child == 0:
        left = redactor.payload("kin", pickled([*HISTORY, said(TOKEN)]))
        os._exit(0 if left is not None and TOKEN.encode() not in left else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
