"""A provider whose store keeps the rows it is given, and a view of them as calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from clearstone.codec import payload
from clearstone.record.default import configure
from clearstone.record.provider import TracerProvider

if TYPE_CHECKING:
    from clearstone.store.batch import Batch, ChunkRow, EndRow, RawPayload, SpanRow


@dataclass
class Call:
    """One recorded call, as its rows say."""

    name: str
    row: SpanRow
    end: SpanRow | EndRow | None = None
    items: list[tuple[int, Any]] = field(default_factory=list)

    @property
    def args(self) -> Any:
        return load(self.row.input)[0]

    @property
    def kwargs(self) -> Any:
        return load(self.row.input)[1]

    @property
    def value(self) -> Any:
        assert self.end is not None
        return load(self.end.output)

    @property
    def chunks(self) -> list[Any]:
        return [value for _, value in self.items]

    @property
    def ended(self) -> tuple[str | None, bool]:
        """How it ended, and whether completely."""
        assert self.end is not None, f"{self.name} is still open"
        return self.end.outcome, self.end.complete


class RowStore:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []

    def apply(self, batch: Batch) -> None:
        self.batches.append(batch)

    def close(self) -> None: ...


class Recorded:
    """What a provider recorded.

    Args:
        provider: it is the default one.
        store: its store.
    """

    def __init__(self, provider: TracerProvider, store: RowStore) -> None:
        self.provider = provider
        self._store = store

    def calls(self) -> list[Call]:
        """Every call so far, in the order they started."""
        self.provider.flush()
        found: dict[int, Call] = {}
        for batch in self._store.batches:
            for row in batch.spans:
                found[row.span_id] = Call(batch.sites[row.site].name, row, row if row.end_ns is not None else None)
        for batch in self._store.batches:
            for end in batch.ends:
                found[end.span_id].end = end
            for chunk in batch.chunks:
                found[chunk.span_id].items.append(_item(chunk))
        return sorted(found.values(), key=lambda call: (call.row.start_ns, call.row.start_order))

    def one(self, name: str) -> Call:
        """The one call whose span has this name (or ends with it)."""
        (found,) = [call for call in self.calls() if call.name == name or call.name.endswith("." + name)]
        return found

    def parent(self, name: str) -> str | None:
        """The name of the span above the one call of that name."""
        above = self.one(name).row.parent_id
        return next((call.name for call in self.calls() if call.row.span_id == above), None)


def _item(chunk: ChunkRow) -> tuple[int, Any]:
    return chunk.at_ns, load(chunk.value)


def load(raw: RawPayload | None) -> Any:
    return payload.load(payload.of_raw(*raw)) if raw is not None else None


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    store = RowStore()
    provider = configure(provider=TracerProvider(store=store))  # type: ignore[arg-type]  # the half that is written to
    yield Recorded(provider, store)
    provider.shutdown()


Both = Callable[[Callable[[], Any]], Any]
