"""What a checkpoint remembers of the process it was taken in, so that another one can find the code again."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clearstone._version import __version__
from clearstone.codec import redact
from clearstone.codec.payload import main_file
from clearstone.codec.redact import MARKER

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@dataclass(frozen=True, slots=True)
class Environment:
    """A process: interpreter, program and import path.

    Args:
        python: version, ``major.minor.micro``.
        implementation: ``CPython``, ...
        platform: as `platform.platform` says.
        clearstone: this library's version.
        argv: the command line, without its secrets.
        cwd: the working directory.
        sys_path: the import path, made absolute.
        main_file: the script that ran as ``__main__``; empty in a notebook or a shell.
        main_module: its importable name if it ran with ``python -m``; else empty.
        hash_seed: ``PYTHONHASHSEED``, or ``"random"``.
    """

    python: str
    implementation: str
    platform: str
    clearstone: str
    argv: tuple[str, ...]
    cwd: str
    sys_path: tuple[str, ...]
    main_file: str
    main_module: str
    hash_seed: str

    @property
    def python_minor(self) -> str:
        """``major.minor``: bytecode is only valid within one."""
        return ".".join(self.python.split(".")[:2])


def current() -> Environment:
    """Describe this process."""
    import platform  # when something failed: its expressions take a while to compile

    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    return Environment(
        python=platform.python_version(),
        implementation=platform.python_implementation(),
        platform=platform.platform(),
        clearstone=__version__,
        argv=tuple(without_secrets(sys.argv)),
        cwd=_cwd(),
        sys_path=tuple(str(Path(entry).absolute()) for entry in sys.path),
        main_file=main_file(main) if main is not None else "",
        main_module=spec.name if spec is not None else "",
        hash_seed=os.environ.get("PYTHONHASHSEED") or "random",
    )


def without_secrets(argv: Sequence[str]) -> Iterator[str]:
    """Yield a command line's arguments without their secrets, by the rules for whatever is recorded.

    Args:
        argv: the arguments. The value of an option, or of ``NAME=value``, is one where its name says so: in
            ``--api-key X``, ``--api-key=X`` and ``API_KEY=X`` it is X.
    """
    redactor, option = redact.active(), ""
    for argument in map(str, argv):
        name, equals, value = argument.partition("=")
        if option and not argument.startswith("--") and redactor.is_secret_key(option):
            yield MARKER
        elif value and redactor.is_secret_key(name.lstrip("-")):
            yield f"{name}={MARKER}"
        else:
            yield redactor.text(argument)
        option = name.lstrip("-") if name.startswith("-") and not equals else ""


def _cwd() -> str:
    try:
        return str(Path.cwd())
    except FileNotFoundError:  # the folder was removed under the process
        return ""
