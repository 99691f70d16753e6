"""What a checkpoint remembers of the process it was taken in, so that another one can find the code again."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from clearstone._version import __version__
from clearstone.checkpoint.git import Commit, commit_of
from clearstone.checkpoint.origin import is_installed_file
from clearstone.codec import redact
from clearstone.codec.payload import main_file
from clearstone.codec.redact import MARKER

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


MOST_TOLD = 5


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
        hash_seed: ``PYTHONHASHSEED``, or ``"random"``: that one Python does not tell, and it cannot be had again.
        magic: what this interpreter's bytecode begins with, in hex.
        packages: the versions of loaded packages that say theirs, by name.
        commit: the git commit of the program's source; empty where that is not known.
        changed: loaded source files that differ from it; None where that is not known.
        time_zone: the local time zone, as ``TZ`` or its names and offset say.
        locale: as `locale.setlocale` says.
        hash_mark: what one text hashes to: the same in two processes where their hash seeds are. Empty in checkpoints
            of versions that did not take it.
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
    magic: str
    packages: dict[str, str]
    commit: str
    changed: tuple[str, ...] | None
    time_zone: str
    locale: str
    hash_mark: str = ""

    @property
    def python_minor(self) -> str:
        """``major.minor``: bytecode is only valid within one."""
        return ".".join(self.python.split(".")[:2])

    def running(self, other: Environment) -> Environment:
        """Return this process as one that runs the script of another."""
        return replace(self, argv=other.argv, main_file=other.main_file, main_module=other.main_module)


_known: tuple[int, Environment] | None = None


def known() -> Environment:
    """Return what `current` said last in this process: looking takes some milliseconds, and seldom finds another."""
    return _known[1] if _known is not None and _known[0] == os.getpid() else current()


def current() -> Environment:
    """Describe this process."""
    global _known  # noqa: PLW0603 - one process, one environment
    _known = os.getpid(), _looked_at()
    return _known[1]


def _looked_at() -> Environment:
    import importlib.util
    import locale
    import platform  # when something failed: its expressions take a while to compile

    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    file, cwd = main_file(main) if main is not None else "", _cwd()
    commit = commit_of(Path(file).parent if file else Path(cwd or "/"), _sources()) or Commit("", None)
    return Environment(
        python=platform.python_version(),
        implementation=platform.python_implementation(),
        platform=platform.platform(),
        clearstone=__version__,
        argv=tuple(without_secrets(sys.argv)),
        cwd=cwd,
        sys_path=tuple(str(Path(entry).absolute()) for entry in sys.path),
        main_file=file,
        main_module=spec.name if spec is not None else "",
        hash_seed=_hash_seed(),
        magic=importlib.util.MAGIC_NUMBER.hex(),
        packages=_packages(),
        commit=commit.commit,
        changed=commit.changed,
        time_zone=os.environ.get("TZ") or f"{'/'.join(time.tzname)} ({-time.timezone:+d} s)",
        locale=locale.setlocale(locale.LC_ALL),
        hash_mark=f"{hash('clearstone') & 0xFFFF_FFFF_FFFF_FFFF:016x}",
    )


def _hash_seed() -> str:
    """Return what this process was started with; a variable that it ignores, or has set too late, is none."""
    if not sys.flags.hash_randomization:
        return "0"
    asked = os.environ.get("PYTHONHASHSEED") or "random"
    return "random" if sys.flags.ignore_environment or asked == "0" else asked


def _packages() -> dict[str, str]:
    """Return what loaded packages say of their version: their own attribute, as asking the distribution is slow."""
    found = {}
    for name, module in sorted(sys.modules.items()):
        version = vars(module).get("__version__") if "." not in name and isinstance(module, ModuleType) else None
        if isinstance(version, str) and name not in sys.stdlib_module_names:
            found[name] = version
    return found


def _sources() -> Iterator[Path]:
    """Give the files of loaded modules that are not installed."""
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and file.endswith(".py") and not is_installed_file(file):
            yield Path(file)


def differences(then: Environment, now: Environment) -> Iterator[str]:
    """Say what else is different here, where a call of `then` is made again `now`."""
    if then.cwd != now.cwd:
        yield f"It ran in {then.cwd}; this is {now.cwd}."
    if then.time_zone != now.time_zone:
        yield f"Its time zone was {then.time_zone}; here it is {now.time_zone}."
    if then.locale != now.locale:
        yield f"Its locale was {then.locale}; here it is {now.locale}."
    both = {name: version for name, version in then.packages.items() if now.packages.get(name, version) != version}
    if both:
        told = ", ".join(
            f"{name} {version} (now {now.packages[name]})" for name, version in list(both.items())[:MOST_TOLD]
        )
        more = f" and {len(both) - MOST_TOLD} more" if len(both) > MOST_TOLD else ""
        yield f"Other versions were loaded: {told}{more}."
    if then.commit and now.commit and then.commit != now.commit:
        changed = f", with {len(then.changed)} file(s) changed" if then.changed else ""
        yield f"Its source was at commit {then.commit[:12]}{changed}; here it is at {now.commit[:12]}."


def hash_alike(then: Environment, now: Environment) -> bool:
    """Whether texts hash in both to the same, so that sets of them have one order."""
    if then.hash_mark and now.hash_mark:
        return then.hash_mark == now.hash_mark
    return then.hash_seed == now.hash_seed != "random"


def other_hash_seed(then: Environment, now: Environment) -> str:
    """Say that texts hash otherwise `now` than they did `then`; empty where they do not."""
    if hash_alike(then, now):
        return ""
    was = "random" if then.hash_seed == "random" else f"PYTHONHASHSEED={then.hash_seed}"
    return (
        f"Its hash seed was {was} and is another one here, so sets of strings may have another order; "
        f"'clearstone doctor' names the lines where that matters."
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
