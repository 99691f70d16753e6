"""Today's source: where a replay finds the agent's class, its functions, and the script it came from.

Idea: code that can be imported is imported. A script that ran as ``__main__`` is imported once more from its recorded
file, under another name, so that its main block does not run and a fix in the file is what replays.

What changed since the checkpoint was made is told from the fingerprints it holds.

Invariant: importing the script makes no decorated call: one that would is refused with the line to add. The stored
code is used only when asked for (``code="recorded"``), when the file is gone, or where there never was one (a notebook
that is not the running one), and `notes` says so.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from clearstone import run
from clearstone.checkpoint.environment import current, differences
from clearstone.checkpoint.fingerprints import changed_since
from clearstone.checkpoint.origin import is_installed_file
from clearstone.codec import payload
from clearstone.codec.payload import main_file
from clearstone.codec.renames import Finder, Renames, how_to_say
from clearstone.errors import ReplayError, TargetError
from clearstone.nearest import nearest
from clearstone.replay.lines import quoted_then
from clearstone.span import MAIN_ALIAS, MAIN_NAMES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from clearstone.checkpoint.fingerprints import Change
    from clearstone.checkpoint.model import Checkpoint
    from clearstone.span import Site

Code = Literal["today", "recorded"]

NO_RENAMES = Renames()


class Source:
    """Finds code for the replay of one checkpoint.

    Args:
        checkpoint: what is replayed.
        code: ``"today"`` for the source as it is now, ``"recorded"`` for the stored code of the script.
        renames: what has another name today.
    """

    def __init__(self, checkpoint: Checkpoint, code: Code = "today", renames: Renames = NO_RENAMES) -> None:
        self._checkpoint = checkpoint
        self._renames = renames
        self.finder = Finder(renames, self.module)
        self._code = code
        self._main: ModuleType | None = None
        self._looked = False
        self.notes: list[str] = list(differences(checkpoint.environment, current()))

    def loading(self) -> contextlib.AbstractContextManager[None]:
        """Find recorded code where it is today, for the ``with`` block."""
        return payload.definitions_from(self.main, self.finder if self._renames.rules else None)

    def main(self) -> ModuleType | None:
        """Return today's module of the recorded ``__main__``; None: use the stored code.

        Raises:
            TargetError: the script does not import today.
        """
        if not self._looked:
            self._main = self._find_main()
            self._looked = True
        return self._main

    def module(self, name: str) -> ModuleType:
        """Import a module; the recorded ``__main__`` is today's script.

        Raises:
            ModuleNotFoundError: there is none of that name.
            TargetError: the script does not import today.
        """
        if name in MAIN_NAMES or self._is_the_script(name):
            main = self.main()
            if main is None:
                raise TargetError("the recorded __main__ has no file to import today; name a module instead")
            return main
        return self._imported(name)

    def _imported(self, name: str) -> ModuleType:
        self._extend_path()
        if name in sys.modules:
            return sys.modules[name]
        with run.overriding(_Importing(f"the module {name}")):
            return importlib.import_module(name)

    def _is_the_script(self, name: str) -> bool:
        """Whether importing `name` would import the script a second time, with classes that are not the agent's."""
        file = self._checkpoint.environment.main_file
        if self._checkpoint.agent_module not in MAIN_NAMES or name in sys.modules or Path(file).stem != name:
            return False
        self._extend_path()
        spec = importlib.util.find_spec(name)
        return spec is not None and spec.origin == file

    def agent_class(self) -> type:
        """Return the agent's class.

        Raises:
            TargetError: it is not there today; names the nearest.
        """
        module, qualname = self._checkpoint.agent_module, self._checkpoint.agent_class_name
        if "<locals>" in qualname or (module in MAIN_NAMES and self.main() is None):
            return self._stored_class()
        found = self._named(module, qualname, "class")
        if not isinstance(found, type):
            raise TargetError(f"{module}.{qualname} is no class today, but {type(found).__name__}")
        return found

    def function(self, site: str) -> Any:
        """Return the callable of a site, ``module:qualname``.

        Raises:
            TargetError: it is not there today; names the nearest.
        """
        module, _, qualname = site.partition(":")
        if "<locals>" in qualname:
            raise TargetError(
                f"{qualname} was defined inside a function and cannot be found again; move it to a module"
            )
        return self._named(module, qualname, "function")

    def changes(self) -> tuple[Change, ...]:
        """Return which of the recorded functions and classes are not the same in what has been loaded for this replay.

        Where the stored code of ``__main__`` is used nothing is said of it.
        """
        checkpoint = self._checkpoint
        return changed_since(checkpoint.code, checkpoint.environment.python_minor, {"__main__": self._main})

    def quoted_then(self, line: str) -> str:
        """Return the source of a recorded line (see `clearstone.replay.lines.quoted_then`)."""
        trace = self._checkpoint.trace
        return quoted_then(line, self._checkpoint.code, trace.spans[0].start_ns if trace.spans else 0)

    def _named(self, module_name: str, qualname: str, what: str) -> Any:
        try:
            module = self.module(module_name)
        except ModuleNotFoundError as error:
            raise TargetError(
                f"the module {module_name!r} of the recorded {what} {qualname} cannot be imported here ({error}); "
                f"run from its folder, install it, or put it on PYTHONPATH; {self.near(module_name)}. "
                f"{how_to_say(str(error.name))}"
            ) from error
        owner: Any = module
        for part in qualname.split("."):
            found = getattr(owner, part, None)
            if found is None:
                told = _missing(owner, part, f"the recorded {what} {module_name}.{qualname}")
                raise TargetError(f"{told}. {how_to_say(f'{module_name}:{qualname}')}")
            owner = found
        return owner

    def near(self, module: str) -> str:
        """Say which modules of the user's there are where one of that name is not."""
        import pkgutil

        package = sys.modules.get(module.rpartition(".")[0])
        users = (each for each in self._checkpoint.environment.sys_path if not is_installed_file(f"{each}{os.sep}"))
        folders = getattr(package, "__path__", users)
        prefix = f"{package.__name__}." if package is not None else ""
        found = sorted({each.name for each in pkgutil.iter_modules(map(str, folders), prefix)})
        return nearest(module, found).replace("it has", "there are", 1)

    def _stored_class(self) -> type:
        stored = self._checkpoint.agent_class
        if stored is None:
            raise TargetError(f"checkpoint {self._checkpoint.checkpoint_id} holds no class")
        try:
            with self.loading():
                cls: type = payload.load(stored)
        except ReplayError as error:
            raise TargetError(f"the stored class {self._checkpoint.agent_name} does not load: {error}") from error
        return cls

    def _find_main(self) -> ModuleType | None:
        recorded, running = self._checkpoint.environment, sys.modules.get("__main__")
        if self._code == "recorded":
            self.notes.append("The stored code of __main__ is used, as asked.")
            return None
        if running is not None and main_file(running) == recorded.main_file:
            return running
        if recorded.main_module:
            return self._imported(recorded.main_module)
        if not recorded.main_file:
            self.notes.append("The code of __main__ had no file (a notebook or shell): the stored code is used.")
            return None
        if not Path(recorded.main_file).is_file():
            self.notes.append(f"The script {recorded.main_file} is gone: the stored code is used.")
            return None
        self._extend_path()
        return _import_script(Path(recorded.main_file), recorded.argv)

    def _extend_path(self) -> None:
        """Let imports find what the recorded process found; what this process has comes first."""
        for entry in self._checkpoint.environment.sys_path:
            if entry not in sys.path and Path(entry).exists():
                sys.path.append(entry)


_imported: dict[tuple[str, int, int], ModuleType] = {}


def _import_script(file: Path, argv: tuple[str, ...]) -> ModuleType:
    """Import a script under another name; the same unchanged file is imported once."""
    status = file.stat()
    key = (str(file), status.st_mtime_ns, status.st_size)
    if key not in _imported:
        _imported[key] = _execute(file, argv)
    sys.modules[MAIN_ALIAS] = _imported[key]
    return _imported[key]


def _execute(file: Path, argv: tuple[str, ...]) -> ModuleType:
    spec = importlib.util.spec_from_file_location(MAIN_ALIAS, file)
    if spec is None or spec.loader is None:
        raise TargetError(f"the script {file} is no Python source; replay with --code recorded")
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(MAIN_ALIAS)
    sys.modules[MAIN_ALIAS] = module
    try:
        with run.overriding(_Importing(str(file))), _argv(argv):
            spec.loader.exec_module(module)
    except BaseException as error:
        sys.modules.pop(MAIN_ALIAS) if before is None else sys.modules.update({MAIN_ALIAS: before})
        if isinstance(error, TargetError | KeyboardInterrupt):
            raise
        raise TargetError(
            f"the script {file} does not import today: {type(error).__name__}: {error}. Fix it, or replay the stored "
            f"code with --code recorded"
        ) from error
    return module


@contextlib.contextmanager
def _argv(argv: tuple[str, ...]) -> Iterator[None]:
    before, sys.argv = sys.argv, list(argv)
    try:
        yield
    finally:
        sys.argv = before


class _Importing:
    """The Run while code is imported: calls that belong to a main block are refused.

    Args:
        what: the script or module, for the message.
    """

    def __init__(self, what: str) -> None:
        self._what = what

    def begin(self, site: Site, *_: Any) -> run.OpenCall:
        if site.replay == "run" and not site.boundary:
            return run.PASSING
        raise TargetError(
            f"importing {self._what}{_importing_line()} calls {site.target}. Put what runs the agent under "
            f"'if __name__ == \"__main__\":', or replay the stored code with --code recorded"
        )


def _importing_line() -> str:
    """Say which line at a module's top level is running, innermost import first."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_name != "<module>":
        frame = frame.f_back
    return f", line {frame.f_lineno}" if frame is not None else ""


def _missing(owner: Any, name: str, what: str) -> str:
    names = [each for each in dir(owner) if not each.startswith("_")]
    place = getattr(owner, "__name__", "its module")
    place = "the script" if place in MAIN_NAMES else place
    return f"{what} is not there today: {place} has no {name!r}; {nearest(name, names)}"
