"""Arrays and frames as their parts: what numpy and pandas hold, whatever order or buffer it lies in.

Nothing is imported: a value of a library that is not loaded is none of its.
"""

from __future__ import annotations

import sys
from typing import Any

LARGEST_FLOAT = {"f": 8, "c": 16}
"""Bytes of the largest float and complex number whose bytes all count."""


def is_one(value: Any) -> bool:
    """Whether a value is an array or a frame, and no subclass that holds more."""
    numpy, pandas = sys.modules.get("numpy"), sys.modules.get("pandas")
    kind = type(value)
    if numpy is not None and (kind is numpy.ndarray or kind is numpy.ma.MaskedArray):
        return True
    return pandas is not None and (kind in {pandas.DataFrame, pandas.Series} or isinstance(value, pandas.Index))


def parts_of(value: Any) -> Any:
    """Return the content of an array or a frame as builtins, as far as they say it."""
    numpy, pandas = sys.modules["numpy"], sys.modules.get("pandas")
    if type(value) is numpy.ndarray:
        return {"dtype": value.dtype.str, "shape": value.shape, "values": _values(numpy, value)}
    if type(value) is numpy.ma.MaskedArray:  # its fill value is there only once it was asked for
        return {"mask": numpy.ma.getmaskarray(value).tolist(), "data": parts_of(value.filled(numpy.zeros(1)[0]))}
    if isinstance(value, pandas.DataFrame):  # type: ignore[union-attr]  # it is of pandas
        columns = [_column(numpy, value.iloc[:, number]) for number in range(value.shape[1])]
        return {"columns": _column(numpy, value.columns), "index": _column(numpy, value.index), "data": columns}
    index = {"index": _column(numpy, value.index)} if hasattr(value, "index") else {}
    return {**index, "data": _column(numpy, value)}


def _column(numpy: Any, value: Any) -> Any:
    """Return a column, or an index, as its type, its name or names, and its values."""
    names = list(value.names) if hasattr(value, "names") else [value.name]
    return {"dtype": str(value.dtype), "names": names, "values": _values(numpy, value.to_numpy())}


def _values(numpy: Any, array: Any) -> Any:
    """Return the values, row by row: as bytes where all are numbers without a not-a-number, which has many forms."""
    if array.dtype.hasobject or array.dtype.kind not in "biufcSUmM":
        return array.tolist()
    if array.dtype.kind in "fc" and array.dtype.itemsize > LARGEST_FLOAT[array.dtype.kind]:
        return array.astype(str).tolist()  # a long double's bytes have gaps
    if array.dtype.kind in "fc":
        array = array + array.dtype.type(0)  # -0.0 is 0.0
        if numpy.isnan(array).any():
            return array.tolist()
    return array.tobytes()
