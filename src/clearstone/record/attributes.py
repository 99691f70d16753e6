"""What a span's attributes keep: plain values as OpenTelemetry allows them, and without secrets.

https://opentelemetry.io/docs/specs/otel/common/#attribute
"""

from __future__ import annotations

import math
from typing import Any

from clearstone.codec import payload
from clearstone.codec.redact import active

LARGEST_INT_BITS = 1024
"""A larger int is kept as its repr: Python refuses to print very large ones."""


def kept(key: str, value: Any) -> Any:
    """Return an attribute as it is kept: plain, and without secrets."""
    if isinstance(value, list | tuple) and all(_is_plain(item) for item in value):
        return active().attribute(key, list(value))
    return active().attribute(key, value if _is_plain(value) else active().shown(payload.safe_repr(value)))


def _is_plain(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)  # JSON has no NaN and no infinity
    if isinstance(value, int):
        return value.bit_length() <= LARGEST_INT_BITS
    return value is None or isinstance(value, str)
