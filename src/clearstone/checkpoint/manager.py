"""`CheckpointManager`: making, saving, finding and loading checkpoints.

Idea: a folder of files, each standing alone. Their headers are the only index, so a file may be copied in, renamed or
deleted by anyone.

Invariant: `load_checkpoint` reads; it unpickles nothing (`Checkpoint.agent_state` and a replay do, when asked).
"""

from __future__ import annotations

import datetime as dt
import os
import random
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clearstone import home, notice, run
from clearstone.checkpoint import container, serial, state, trust
from clearstone.checkpoint.environment import current
from clearstone.checkpoint.model import Checkpoint
from clearstone.codec import keys, payload
from clearstone.errors import (
    CheckpointDamagedError,
    CheckpointError,
    CheckpointNotFoundError,
    TraceNotFoundError,
    UntrustedCheckpointError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from clearstone.codec.keys import Key
    from clearstone.span import Payload, Span, Trace

SUFFIX = ".ckpt"


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """One line about a checkpoint, from its header alone.

    Args:
        path: the file.
        checkpoint_id: its id.
        trace_id: the trace it belongs to.
        agent: ``module.Class``.
        span_name: the name of the span it was taken at.
        created_ns: when it was made, nanoseconds since the epoch.
        error: ``Type: message`` of the failure; empty for a checkpoint made by hand.
        occurrences: how many times this failure has been seen.
        moment: ``"failure"``, ``"exit"`` or ``"entry"`` of a call, or ``"made"`` by hand.
        size: bytes of the file.
        metadata: what its maker noted.
    """

    path: Path
    checkpoint_id: str
    trace_id: str
    agent: str
    span_name: str
    created_ns: int
    error: str
    occurrences: int
    moment: str
    size: int
    metadata: dict[str, Any]


_SHOWN = {
    **dict.fromkeys(("checkpoint_id", "trace_id", "agent", "span_name", "error", "moment"), str),
    **dict.fromkeys(("created_ns", "occurrences"), int),
    "metadata": dict,
}
"""What a summary holds, and of which type: a file may say anything."""


class CheckpointManager:
    """Makes, saves and loads checkpoints.

    Args:
        checkpoint_dir: the folder for files; created when the first one is saved.
    """

    def __init__(self, checkpoint_dir: str | os.PathLike[str] = ".checkpoints") -> None:
        self.checkpoint_dir = Path(checkpoint_dir)

    def create_checkpoint(self, agent: Any, trace: Trace, span_id: str) -> Checkpoint:
        """Take a checkpoint of `agent` as it is now.

        Args:
            agent: any object; its state is what `get_state` returns, else its attributes.
            trace: the trace, as `provider.trace_store.get_trace` returned it.
            span_id: a span of it, or one still open in this process, which may be younger than `trace`.

        Returns:
            The checkpoint, not yet saved.

        Raises:
            TraceNotFoundError: the trace has no such span.
            StateError: the agent's state cannot be taken.
        """
        now = time.time_ns()
        trace = _with_open_span(trace, span_id)
        span = trace.span(span_id)
        if span is None:
            raise TraceNotFoundError(
                f"trace {trace.trace_id} has no span {span_id!r}; get the trace again after that span has ended"
            )
        current: Any = run.current_span.get()
        others = current.others_on(agent) if current is not None and not current.inherited else ()
        taken = state.take(agent)
        taken = replace(taken, concurrent=tuple(dict.fromkeys((*others, *taken.concurrent))))
        return new_checkpoint(agent, taken, trace=trace, span=span, taken_ns=now, random_state=random.getstate())

    def save_checkpoint(self, checkpoint: Checkpoint, filename: str | None = None) -> Path:
        """Write `checkpoint` to the folder, whole or not at all.

        Args:
            checkpoint: what to save.
            filename: a file name; None for ``<trace>_<checkpoint id>.ckpt``.

        Returns:
            The path of the file.

        Raises:
            UntrustedCheckpointError: it was loaded from a file that nobody this machine trusts has signed.
            CheckpointError: `filename` is no bare file name, `metadata` is not JSON, or the file cannot be written.
        """
        if checkpoint.untrusted:  # saving it would sign it
            raise UntrustedCheckpointError(checkpoint.untrusted)
        name = filename or f"{checkpoint.trace.trace_id}_{checkpoint.checkpoint_id}{SUFFIX}"
        if Path(name).name != name or "\0" in name:
            raise CheckpointError(f"{name!r} is not a bare file name; the folder is {self.checkpoint_dir}")
        try:
            self.checkpoint_dir.mkdir(parents=True, exist_ok=True)
            path = self.checkpoint_dir / name
            container.write(path, *serial.pack(checkpoint), _signing(checkpoint))
        except (TypeError, ValueError, RecursionError) as error:
            raise CheckpointError(f"metadata must be JSON: {error}; put plain values there") from error
        except OSError as error:
            raise CheckpointError(f"the checkpoint cannot be written to {self.checkpoint_dir}: {error}") from error
        return path

    def load_checkpoint(self, reference: str | os.PathLike[str], *, trust: bool = False) -> Checkpoint:
        """Read a checkpoint.

        Args:
            reference: a path (also relative), a file name, the beginning of a checkpoint or trace id, or ``"latest"``;
                looked for in `checkpoint_dir` first, then in the default home.
            trust: take it whoever made it, this once: a replay of it may run their code.

        Raises:
            CheckpointNotFoundError: there is none, or several begin so.
            CheckpointDamagedError: the file is torn, altered, no checkpoint, or a newer version's.
            UntrustedCheckpointError: no key this machine trusts has signed it.
        """
        found = load(find(reference, [self.checkpoint_dir, home.checkpoint_folder()]))
        if trust:
            return replace(found, untrusted="")
        if found.untrusted:
            raise UntrustedCheckpointError(found.untrusted)
        return found

    def list_checkpoints(self) -> list[CheckpointInfo]:
        """Return the checkpoints of the folder, newest first."""
        return list_folder(self.checkpoint_dir)


def _signing(checkpoint: Checkpoint) -> Key:
    """Return the key that signs a checkpoint: nobody's where something in its trace is not known to be ours."""
    own = keys.machine_key()
    known = (own, *keys.trusted_keys())
    strange = sum(not _is_ours(each, known) for span in checkpoint.trace for each in span.payloads())
    if strange and own.secret:
        notice.say(
            f"checkpoint {checkpoint.checkpoint_id} is not signed: {strange} value(s) of its trace were not recorded "
            f"under a key this machine trusts"
        )
    return keys.nobodys() if strange else own


def _is_ours(given: Payload, known: Sequence[Key]) -> bool:
    """Whether a payload has not left this process yet, or was named by a key we trust."""
    return not given.name or any(key.vouches(given.name, *payload.to_raw(given)) for key in known)


def default_folders() -> list[Path]:
    """Return where checkpoints are looked for: the default home, and ``.checkpoints`` in the working directory."""
    return [home.checkpoint_folder(), Path(".checkpoints")]


def new_checkpoint(
    agent: Any, taken: state.AgentState, *, trace: Trace, span: Span, taken_ns: int, **more: Any
) -> Checkpoint:
    """Return a checkpoint of a state that has been taken.

    Args:
        agent: the object whose state it is; None for a function.
        taken: its state.
        trace: the spans so far.
        span: the span it was taken at.
        taken_ns: when the state was taken, nanoseconds since the epoch.
        **more: further fields of `Checkpoint`.
    """
    cls = type(agent)
    fields = {
        "checkpoint_id": f"ckpt_{os.urandom(6).hex()}",
        "created_ns": time.time_ns(),
        "agent_class_name": cls.__qualname__ if agent is not None else "",
        "agent_module": cls.__module__ if agent is not None else span.site.partition(":")[0],
        "agent_class": payload.dump(cls) if agent is not None else None,
        **more,
    }
    return Checkpoint(
        trace=trace,
        span_id=span.span_id,
        timestamp=_utc(taken_ns),
        version=span.tracer_version,
        state=taken,
        environment=current(),
        **fields,
    )


def load(path: Path) -> Checkpoint:
    """Read the checkpoint file `path`, also one that is not trusted: it can be looked at (see `Checkpoint.untrusted`).

    Raises:
        CheckpointNotFoundError, CheckpointDamagedError: as `CheckpointManager.load_checkpoint`.
    """
    header, sections = container.read(path, serial.SECTIONS)
    why = trust.why_not(header)
    told = (
        f"{path} {why}, and replaying it could run whatever its maker wants. Look at it with 'clearstone inspect "
        f"{path}'; if you know where it is from, 'clearstone trust {path}'"
    )
    try:
        return serial.unpack(header.content, sections, untrusted=told if why else "")
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise CheckpointDamagedError(
            f"{path} is intact but holds no checkpoint this version can read ({type(error).__name__}: {error}); "
            f"upgrade with 'pip install -U clearstone'"
        ) from error


def find(reference: str | os.PathLike[str], folders: Sequence[Path]) -> Path:
    """Return the file that `reference` means (see `CheckpointManager.load_checkpoint`).

    Raises:
        CheckpointNotFoundError: none, or more than one.
    """
    text = os.fspath(reference)
    for path in (Path(text), *(folder / text for folder in folders)):
        if text != "latest" and _is_file(path):
            return path
    for folder in folders:
        found = {info.checkpoint_id: info.path for info in _matching(text, folder)}  # saved under two names: either
        if len(found) > 1:
            listed = ", ".join(list(found)[:5])
            raise CheckpointNotFoundError(f"{text!r} begins {len(found)} checkpoints ({listed}); give more of the id")
        if found:
            return next(iter(found.values()))
    raise CheckpointNotFoundError(_nothing_found(text, folders))


def list_folder(folder: Path) -> list[CheckpointInfo]:
    """Return the readable checkpoints of a folder, newest first; a missing folder has none."""
    found = [info for path in folder.glob(f"*{SUFFIX}") if (info := _info(path)) is not None]
    return sorted(found, key=lambda info: info.created_ns, reverse=True)


def _info(path: Path) -> CheckpointInfo | None:
    try:
        summary = container.read_header(path).summary
        if any(type(summary[name]) is not kind for name, kind in _SHOWN.items()):
            return None
        return CheckpointInfo(path=path, size=path.stat().st_size, **{name: summary[name] for name in _SHOWN})
    except (CheckpointError, OSError, KeyError):  # torn, gone or foreign; loading it by name says why
        return None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long for one, a folder that may not be entered
        return False


def _matching(text: str, folder: Path) -> list[CheckpointInfo]:
    infos = list_folder(folder)
    if text == "latest":
        return infos[:1]
    if not text:
        return []
    starts = (text, f"ckpt_{text}")
    return [info for info in infos if info.checkpoint_id.startswith(starts) or info.trace_id.startswith(text)]


def _nothing_found(text: str, folders: Iterable[Path]) -> str:
    looked = " or ".join(str(folder) for folder in dict.fromkeys(folders))
    if text == "latest":
        return f"no checkpoint in {looked} yet; one is saved when an exception leaves a @checkpointable agent"
    if os.sep in text and not text.endswith(SUFFIX):
        return f"{text} is not a checkpoint file; those end in {SUFFIX}"
    return f"no checkpoint {text!r} in {looked}; 'clearstone checkpoints' lists what is there"


def _with_open_span(trace: Trace, span_id: str) -> Trace:
    """Look again: the span may be open, and younger than the trace that was passed."""
    span = run.find_open_span(span_id)
    return trace.merged(span.trace_so_far()) if span is not None and span.trace_id == trace.trace_id else trace


def _utc(time_ns: int) -> dt.datetime:
    seconds, nanoseconds = divmod(time_ns, 10**9)
    return dt.datetime.fromtimestamp(seconds, dt.UTC).replace(microsecond=nanoseconds // 1000)
