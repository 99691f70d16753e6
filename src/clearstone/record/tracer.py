"""Tracers: what spans are opened by, and where their records and large payloads go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from clearstone import run
from clearstone.codec.redact import active
from clearstone.errors import ConfigurationError
from clearstone.record import faults
from clearstone.record.live_span import LiveSpan
from clearstone.span import BLOB, SpanKind
from clearstone.store import blobs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clearstone.record.live_span import Encoded
    from clearstone.record.provider import TracerProvider


class Tracer:
    """Opens spans for one component. Made by `TracerProvider.get_tracer`.

    Args:
        provider: where its spans go.
        name: the component's name.
        version: the component's version.
    """

    recording: run.Run
    """The Run that records decorated calls under this name."""

    def __init__(self, provider: TracerProvider, name: str = "", version: str = "") -> None:
        self.provider = provider
        self.journal = provider.journal
        self.payload_limit = provider.payload_limit
        self.name = str(name)
        self.version = str(version)

    def span(
        self,
        name: str,
        span_type: str = "",
        kind: SpanKind | str = SpanKind.INTERNAL,
        attributes: Mapping[str, Any] | None = None,
    ) -> LiveSpan | PassingSpan:
        """Return a span to be used in a ``with`` statement.

        Args:
            name: its name.
            span_type: ``"llm"``, ``"tool"``, ``"agent"``, ...; may also stand in `attributes` under that name.
            kind: OpenTelemetry's span kind.
            attributes: what it starts with.

        Returns:
            The span. Inside a replay, one that records nothing.

        Raises:
            ConfigurationError: `kind` is none of OpenTelemetry's.
        """
        attributes = dict(attributes or {})
        name, span_type = active().text(str(name)), str(span_type or attributes.get("span_type", ""))
        override = run.override.get()
        spans = getattr(override, "span", None)  # of what records though it is no recorder: a fork
        if spans is None and (override is not None or run.is_disabled()):
            return PassingSpan(name, span_type, override)
        span = LiveSpan(self, name, span_type, run.current_span.get()) if spans is None else spans(name, span_type)
        span.kind = _kind(kind)
        span.set_attributes(attributes)
        return span

    def fitting(self, form: int, data: bytes) -> Encoded:
        """Return a payload as the journal takes it: one beyond the limit stands in a file and is named."""
        return self.aside(form, data) if len(data) > self.payload_limit else (form, data)

    def aside(self, form: int, data: bytes) -> Encoded:
        """Put a payload into a blob file; where that cannot be written it stays what it is."""
        folder = self.provider.blobs
        if folder is None:
            return form, data
        try:
            return form | BLOB, blobs.write(folder, data)
        except OSError as error:
            faults.report(f"putting a payload of {len(data):,} bytes into a file", error)
            return form, data


class PassingSpan:
    """A span that records nothing: what `Tracer.span` gives inside a replay, and where Clearstone is disabled."""

    def __init__(self, name: str, span_type: str, override: run.Run | None) -> None:
        self.name = name
        self.span_type = span_type
        self.trace_id = "0" * 32
        self.span_id = "0" * 16
        self._override = override

    def __enter__(self) -> Self:
        entering = getattr(self._override, "entering", None)
        if entering is not None:
            entering(self.name, self.span_type)
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to end."""

    def _ignore(self, *_: Any, **__: Any) -> None:
        """Record nothing."""

    set_attribute = set_attributes = add_event = record_exception = set_status = set_input = set_output = _ignore


def _kind(kind: SpanKind | str) -> SpanKind:
    try:
        return SpanKind(str(kind).upper())
    except ValueError:
        raise ConfigurationError(f"{kind!r} is no span kind; use one of {', '.join(SpanKind)}") from None
