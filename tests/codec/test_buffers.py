"""A pickle and its large buffers as one run of bytes."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearstone.codec import buffers, payload

if TYPE_CHECKING:
    import numpy.typing as npt


@given(st.binary(), st.lists(st.binary(), max_size=5))
def test_what_is_packed_comes_back(data: bytes, parts: list[bytes]) -> None:
    assert buffers.unpack(buffers.pack(data, parts)) == (data, tuple(parts))


@given(st.binary(max_size=200))
def test_bytes_that_were_not_packed_are_refused_or_read_whole(data: bytes) -> None:
    try:
        first, rest = buffers.unpack(data)
    except ValueError:
        return
    assert buffers.pack(first, rest) == data


@pytest.mark.parametrize(
    "array",
    [
        np.arange(1000),
        np.zeros((3, 0)),
        np.asfortranarray(np.ones((20, 30))),
        np.arange(100)[::3],
        np.array(["a", None]),
    ],
)
def test_an_array_comes_back_equal_and_writable(array: npt.NDArray[np.generic]) -> None:
    form, data = payload.encode({"array": array, "again": array})
    loaded = payload.load(payload.of_raw(form, data))
    assert (loaded["array"] == array).all()
    assert loaded["array"] is loaded["again"]
    loaded["array"][...] = 0


def test_a_large_array_is_kept_out_of_the_pickle() -> None:
    array = np.arange(100_000)
    given = payload.of_raw(*payload.encode([array]))
    assert [len(each) for each in given.buffers] == [array.nbytes]
    assert len(given.data) < 1000
    assert payload.to_raw(given) == payload.encode([array])


def test_a_later_change_of_the_array_does_not_change_the_record() -> None:
    array = np.arange(10)
    given = payload.dump(array)
    array[:] = 0
    assert payload.load(given).tolist() == list(range(10))


class TwoDimensional:
    """Hands out a buffer that is not contiguous."""

    def __reduce_ex__(self, protocol: object) -> tuple[object, ...]:
        return bytes, (pickle.PickleBuffer(memoryview(bytes(100))[::2]),)


def test_a_buffer_that_is_not_contiguous_costs_no_record() -> None:
    assert payload.dump(TwoDimensional()).codec == "stand-in"
