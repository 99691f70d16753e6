from __future__ import annotations

import datetime
import time
import uuid
import warnings
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime as datetime_alias
from time import time as time_alias
from time import time_ns as time_ns_alias
from typing import TYPE_CHECKING, TypeVar
from zoneinfo import ZoneInfo

import pydantic
import pytest
import time_machine

from clearstone.errors import ConfigurationError
from clearstone.nondet import deterministic

if TYPE_CHECKING:
    from collections.abc import Callable

Seen = TypeVar("Seen")

START = 1_000_000_000_123_456_789  # 2001-09-09 01:46:40 UTC
NOW = datetime.datetime(2001, 9, 9, 1, 46, 40, 123456, tzinfo=datetime.UTC)
IN_2020 = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)

bound_now = datetime.datetime.now


def in_thread(look: Callable[[], Seen]) -> Seen:
    """Return what `look` returns in a thread that is outside every context."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(look).result()


def default_argument(clock: Callable[[], float] = time.time) -> float:
    return clock()


def test_every_alias_taken_before_shows_the_start() -> None:
    with deterministic(start_ns=START, seed=b"seed"):
        assert {time.time_ns(), time_ns_alias()} == {START}
        assert {time.time(), time_alias(), default_argument()} == {START / 10**9}
        assert {bound_now(datetime.UTC), datetime_alias.now(datetime.UTC)} == {NOW}


def test_it_stands_still_between_reads() -> None:
    with deterministic(start_ns=START, seed=b"seed"):
        assert time.time_ns() == time.time_ns() == START


def test_datetime_now_takes_a_time_zone() -> None:
    with deterministic(start_ns=START, seed=b"seed"):
        tokyo = datetime.datetime.now(ZoneInfo("Asia/Tokyo"))
        assert tokyo == NOW
        assert tokyo.utcoffset() == datetime.timedelta(hours=9)
        assert datetime.datetime.now(tz=datetime.UTC) == NOW


def test_naive_now_and_today_are_in_the_local_time_zone() -> None:
    local = NOW.astimezone().replace(tzinfo=None)
    with deterministic(start_ns=START, seed=b"seed"):
        assert datetime.datetime.now() == datetime.datetime.today() == local
        assert datetime.date.today() == local.date()


def test_utcnow_shows_the_start() -> None:
    with deterministic(start_ns=START, seed=b"seed"), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        assert datetime.datetime.utcnow() == NOW.replace(tzinfo=None)


def test_struct_times_and_texts_without_argument_show_the_start() -> None:
    seconds = START // 10**9
    local = time.localtime(seconds)
    expected = (local, time.gmtime(seconds), time.strftime("%c", local), time.ctime(seconds), time.asctime(local))
    with deterministic(start_ns=START, seed=b"seed"):
        assert (time.localtime(), time.gmtime(), time.strftime("%c"), time.ctime(), time.asctime()) == expected
        assert time.ctime(None) == time.ctime(seconds)


def test_struct_times_and_texts_with_argument_show_the_argument() -> None:
    expected = (time.localtime(5), time.gmtime(5), time.ctime(5), time.asctime(time.gmtime(5)))
    with deterministic(start_ns=START, seed=b"seed"):
        assert (time.localtime(5), time.gmtime(5), time.ctime(5), time.asctime(time.gmtime(5))) == expected


def test_a_bad_argument_raises_what_it_raises_outside() -> None:
    with deterministic(start_ns=START, seed=b"seed"):
        for wrong in ("soon", 1e30):
            with pytest.raises((TypeError, OverflowError, ValueError)):
                time.ctime(wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            time.asctime(1, 2)  # type: ignore[call-arg, arg-type]


def test_pydantic_still_validates_datetimes() -> None:
    class Model(pydantic.BaseModel):
        at: datetime.datetime
        day: datetime.date

    with deterministic(start_ns=START, seed=b"seed"):
        model = Model(at=datetime.datetime.now(datetime.UTC), day=datetime.date.today())
        assert isinstance(model.at, datetime.datetime)
        assert Model.model_validate_json(model.model_dump_json()) == model
        assert type(datetime.datetime.now()) is datetime.datetime


def test_uuid1_holds_the_start_and_never_repeats() -> None:
    with deterministic(start_ns=START, seed=b"seed"):
        values = [uuid.uuid1() for _ in range(5)]
    assert [value.time for value in values] == [START // 100 + 0x01B21DD213814000 + step for step in range(5)]
    assert len({(value.node, value.clock_seq) for value in values}) == 1
    assert {(value.version, value.variant) for value in values} == {(1, uuid.RFC_4122)}


def test_uuid1_of_other_threads_is_real() -> None:
    with deterministic(start_ns=START, seed=b"seed"):
        inside = uuid.uuid1()
        seen = in_thread(uuid.uuid1)
    assert seen.time - inside.time > 10_000_000 * 86_400 * 365 * 15
    assert seen.node != inside.node


def test_uuid1_of_other_threads_is_real_beside_a_journey_of_the_user() -> None:
    with time_machine.travel(IN_2020, tick=False), deterministic(start_ns=START, seed=b"seed"):
        seen = in_thread(uuid.uuid1)
    assert (seen.time - 0x01B21DD213814000) // 10_000_000 == int(IN_2020.timestamp())


def test_other_threads_see_the_real_clock_while_one_is_inside() -> None:
    with deterministic(start_ns=START, seed=b"seed"):
        earliest = time_machine.escape_hatch.time.time_ns()
        seen = in_thread(time.time_ns)
        at = in_thread(lambda: datetime.datetime.now(datetime.UTC))
        latest = time_machine.escape_hatch.time.time_ns()
    assert earliest <= seen <= latest
    assert earliest // 1000 <= at.timestamp() * 1e6 + 1
    assert at.timestamp() * 1e6 - 1 <= latest // 1000


def test_a_journey_of_the_user_inside_wins_and_ends() -> None:
    with deterministic(start_ns=START, seed=b"seed"):
        with time_machine.travel(IN_2020, tick=False):
            assert time.time() == IN_2020.timestamp()
        assert time.time_ns() == START


def test_a_journey_of_the_user_outside_goes_on_for_other_threads() -> None:
    with time_machine.travel(IN_2020, tick=False):
        with deterministic(start_ns=START, seed=b"seed"):
            assert time.time_ns() == START
            assert in_thread(time.time) == IN_2020.timestamp()
        assert time.time() == IN_2020.timestamp()


def test_a_journey_of_the_user_may_end_while_a_context_is_open() -> None:
    journey = time_machine.travel(IN_2020, tick=False)
    journey.start()
    with deterministic(start_ns=START, seed=b"seed"):
        journey.stop()
        assert time.time_ns() == START
        assert in_thread(time.time) > IN_2020.timestamp() + 86_400
    assert not time_machine.escape_hatch.is_travelling()


def test_a_journey_of_the_user_may_outlast_the_context_it_began_in() -> None:
    journey = time_machine.travel(IN_2020, tick=False)
    with deterministic(start_ns=START, seed=b"seed"):
        journey.start()
    assert time.time() == IN_2020.timestamp()
    journey.stop()
    assert not time_machine.escape_hatch.is_travelling()


def test_a_time_machine_that_works_otherwise_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from clearstone.nondet import wall

    wall.check.cache_clear()
    monkeypatch.setattr(wall._Journey, "_time_ns", lambda _: 5)
    with pytest.raises(ConfigurationError, match=r"time-machine \d+\.\d+"), deterministic(start_ns=START, seed=b"seed"):
        pytest.fail("entered")


def test_a_time_machine_without_its_stack_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(time_machine, "traveller_stack", None)
        with pytest.raises(ConfigurationError, match="keeps its journeys"), deterministic(start_ns=START, seed=b"seed"):
            pytest.fail("entered")


def test_a_thread_on_its_way_to_the_clock_gets_the_real_time_when_the_journey_ends_meanwhile() -> None:
    from clearstone.nondet import wall

    journey = wall._Journey()
    journey.end()
    assert time.time_ns() <= journey._time_ns() <= time.time_ns()


def test_a_journey_taken_off_by_a_stranger_ends_quietly() -> None:
    from clearstone.nondet import wall

    journey = wall._Journey()
    journey._travel.stop()
    journey.end()
    assert not time_machine.escape_hatch.is_travelling()
