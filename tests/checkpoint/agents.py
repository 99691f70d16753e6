"""What the tests of states and checkpoints are about: an agent of any attributes, and a tool to look with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clearstone import traced


class Agent:
    """Any attributes."""

    def __init__(self, /, **attributes: Any) -> None:
        self.__dict__.update(attributes)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...
        def __setattr__(self, name: str, value: Any) -> None: ...


@traced(span_type="tool")
def look(what: str) -> str:
    return f"{what} is there"
