"""Makes the golden files of the format that this version writes.

    CLEARSTONE_KEY=golden python -m tests.golden.make

Files of an earlier format are never made again: they are there to show that a later version reads them.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.golden.agents import Agent

from clearstone import configure
from clearstone.checkpoint import container, loading, packfile
from clearstone.checkpoint.environment import Environment
from clearstone.checkpoint.manager import CheckpointManager
from clearstone.checkpoint.packfile import PackFile
from clearstone.checkpoint.packs import Pack

if TYPE_CHECKING:
    from clearstone.checkpoint.model import Checkpoint

HERE = Path(__file__).parent
ROOT = str(HERE.parents[1])
QUESTIONS = ("one", "two", "three")
NOWHERE = Environment(
    python="3.11.0", implementation="CPython", platform="", clearstone="0.1.0", argv=(), cwd="", sys_path=(),
    main_file="", main_module="", hash_seed="random", magic="", packages={}, commit="", changed=None, time_zone="UTC",
    locale="C",
)  # fmt: skip


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    configure(home=folder)
    try:
        Agent().run(*QUESTIONS)
    except ValueError:
        (made,) = (folder / "checkpoints").iterdir()
    version = ".".join(map(str, container.FORMAT))
    path = HERE / f"run_{version}.pack"
    path.unlink(missing_ok=True)
    pack = Pack(path)
    with container.opened(made) as file:
        found = PackFile(made, file)
        for number, _ in packfile.kept(found.headers):
            checkpoint = anywhere(found.checkpoint(number))
            pack.append(checkpoint, trace=checkpoint.trace if found.holds_trace(number) else None)
    alone = loading.load(path)
    CheckpointManager(HERE).save_checkpoint(alone, f"failure_{version}.ckpt")


def anywhere(checkpoint: Checkpoint) -> Checkpoint:
    """Return it without what tells where it was made."""
    return replace(
        checkpoint,
        environment=NOWHERE,
        trace=without_paths(checkpoint.trace),
        failure=without_paths(checkpoint.failure),
        stack=without_paths(checkpoint.stack),
    )


def without_paths(value: Any) -> Any:
    """Return a frozen value with every text in it named from the root of the project."""
    if type(value) is str:
        return value.replace(ROOT, "/home/you/project")
    if isinstance(value, tuple):
        return tuple(map(without_paths, value))
    if isinstance(value, dict):
        return {name: without_paths(each) for name, each in value.items()}
    if hasattr(value, "__dataclass_fields__"):
        names = [name for name in value.__dataclass_fields__ if value.__dataclass_fields__[name].init]
        return replace(value, **{name: without_paths(getattr(value, name)) for name in names})
    return value


if __name__ == "__main__":
    main()
