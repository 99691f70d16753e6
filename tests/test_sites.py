"""Which arguments of a call have which names, whatever is decorated."""

import functools
from pathlib import Path
from typing import Any

import pytest

from clearstone import configure, traced
from clearstone.codec import payload
from clearstone.codec.redact import MARKER
from clearstone.sites import positional_names


def login(user: str, password: str, /, n: int = 0, *rest: Any, key: int = 1) -> str:
    return user


def of_itself(self: Any, user: str, password: str) -> str:
    return user


class Client:
    def ask(self, user: str, password: str) -> str:
        return user

    def tell(this: Any, user: str, password: str) -> str:  # noqa: N805 - the subject
        return user

    @classmethod
    def made(kind: Any, user: str, password: str) -> str:  # noqa: N804 - the subject
        return user

    @staticmethod
    def free(user: str, password: str) -> str:
        return user

    def __call__(self, user: str, password: str) -> str:
        return user

    login_as_ann = functools.partialmethod(ask, "ann")
    made_as_ann = functools.partialmethod(made, "ann")
    either = functools.singledispatchmethod(ask)


@pytest.mark.parametrize(
    ("target", "names"),
    [
        (login, ("user", "password", "n")),
        (functools.partial(login, "ann"), ("password", "n")),
        (functools.partial(login, "ann", key=2), ("password", "n")),
        (functools.partial(Client.ask, Client(), "ann"), ("password",)),
        (Client.ask, ("user", "password")),
        (Client().ask, ("user", "password")),
        (Client().tell, ("user", "password")),
        (Client.made, ("user", "password")),
        (vars(Client)["made"], ("user", "password")),
        (vars(Client)["free"], ("user", "password")),
        (vars(Client)["login_as_ann"], ("password",)),
        (vars(Client)["made_as_ann"], ("password",)),
        (vars(Client)["either"], ("user", "password")),
        (Client(), ("user", "password")),
        (Client.tell, ("this|user", "user|password", "password")),
        (of_itself, ("self|user", "user|password", "password")),
        (dict.get, ("key", "default")),
        (lambda: None, ()),
        (5, ()),
    ],
)
def test_names_are_of_the_places_in_a_call(target: Any, names: tuple[str, ...]) -> None:
    assert positional_names(target) == names


def recorded(home: Path, ask: Any) -> list[tuple[Any, ...]]:
    """The arguments that are recorded of the calls that `ask` makes."""
    provider = configure(home=home)
    ask()
    provider.flush()
    spans = provider.trace_store.spans(payloads=True)
    return [payload.load(span.input)[0] for span in spans if span.input is not None]


def test_a_secret_given_by_position_to_a_partial_is_hidden(tmp_path: Path) -> None:
    ask = traced(functools.partial(login, "ann"))
    assert recorded(tmp_path, lambda: ask("hunter2", 5)) == [(MARKER, 5)]


def test_a_secret_given_by_position_to_a_method_is_hidden_however_its_object_is_named(tmp_path: Path) -> None:
    class Agent:
        tell = traced(Client.tell)
        made = traced(vars(Client)["made"])
        free = traced(vars(Client)["free"])
        later = staticmethod(traced(Client.free))
        ask_as_ann = traced(vars(Client)["login_as_ann"])
        itself = traced(of_itself)

    def ask() -> None:
        Agent().tell("ann", "hunter2")
        Agent.made("ann", "hunter2")
        Agent.free("ann", "hunter2")
        Agent.later("ann", "hunter2")
        Agent().ask_as_ann("hunter2")
        Agent().itself("ann", "hunter2")

    found = recorded(tmp_path, ask)
    assert [args[-1] for args in found] == [MARKER] * 6
    assert [args[0] for args in found[1:3]] == ["ann", "ann"]
