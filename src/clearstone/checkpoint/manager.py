"""`CheckpointManager`: making, saving, finding and loading checkpoints.

Idea: a folder of files, each standing alone. Their headers are the only index, so a file may be copied in, renamed or
deleted by anyone.

Invariant: `load_checkpoint` reads; it unpickles nothing (`Checkpoint.agent_state` and a replay do, when asked).
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from clearstone import home, run
from clearstone.checkpoint import container, loading, packfile, packs, serial
from clearstone.checkpoint.making import checkpoint_of
from clearstone.checkpoint.signing import signing_key
from clearstone.codec import payload
from clearstone.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    UntrustedCheckpointError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from clearstone.checkpoint.container import Header
    from clearstone.checkpoint.model import Checkpoint
    from clearstone.span import Trace

SUFFIX = ".ckpt"
SUFFIXES = (SUFFIX, packs.SUFFIX)


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """One line about a checkpoint, from its header alone.

    Args:
        path: the file.
        step: which step of it, where it is a pack; else None.
        checkpoint_id: its id.
        trace_id: the trace it belongs to.
        agent: ``module.Class``.
        span_name: the name of the span it was taken at.
        created_ns: when it was made, nanoseconds since the epoch.
        error: ``Type: message`` of the failure; empty for a checkpoint made by hand.
        occurrences: how many times this failure has been seen.
        moment: see `Checkpoint`.
        size: bytes of the file, or of its step.
        metadata: what its maker noted.
    """

    path: Path
    step: int | None
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


LATEST_NS = 1 << 62
"""A moment in the year 2116: a later one is no date that this Python can show."""


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
        return checkpoint_of(agent, _with_open_span(trace, span_id), span_id, now)

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
        name = filename or _file_name(checkpoint)
        if Path(name).name != name or "\0" in name:
            raise CheckpointError(f"{name!r} is not a bare file name; the folder is {self.checkpoint_dir}")
        try:
            self.checkpoint_dir.mkdir(parents=True, exist_ok=True)
            path = self.checkpoint_dir / name
            container.write(path, *serial.pack(checkpoint), signing_key(checkpoint))
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
        found = load(reference, [self.checkpoint_dir, home.checkpoint_folder()])
        if trust:
            return replace(found, untrusted="")
        if found.untrusted:
            raise UntrustedCheckpointError(found.untrusted)
        return found

    def update_metadata(self, reference: str | os.PathLike[str], metadata: Mapping[str, Any]) -> Path:
        """Change what a saved checkpoint notes about itself.

        A file is replaced by one with the new metadata, whole or not at all. A step of a pack is never changed: the
        checkpoint is written beside the pack as a file of its own, which takes the step's place in listings.

        Args:
            reference: which one (see `load_checkpoint`).
            metadata: what is added to its metadata, or replaced there; None as a value removes a key.

        Returns:
            The path of the file.

        Raises:
            CheckpointNotFoundError, CheckpointDamagedError, UntrustedCheckpointError: as `load_checkpoint`.
            CheckpointError: a value is not JSON, or the file cannot be written.
        """
        return annotate(find(reference, [self.checkpoint_dir, home.checkpoint_folder()]), metadata)

    def list_checkpoints(self) -> list[CheckpointInfo]:
        """Return the checkpoints of the folder, newest first."""
        return list_folder(self.checkpoint_dir)


def default_folders() -> list[Path]:
    """Return where checkpoints are looked for: the default home, and ``.checkpoints`` in the working directory."""
    return [home.checkpoint_folder(), Path(".checkpoints")]


class Found(NamedTuple):
    """A checkpoint by its file, and which step of it; None for the newest."""

    path: Path
    step: int | None


def load(reference: str | os.PathLike[str], folders: Sequence[Path]) -> Checkpoint:
    """Read the checkpoint that `reference` means, also one that is not trusted (see `Checkpoint.untrusted`).

    Raises:
        CheckpointNotFoundError, CheckpointDamagedError: as `CheckpointManager.load_checkpoint`.
    """
    return loading.load(*find(reference, folders))


def find(reference: str | os.PathLike[str], folders: Sequence[Path]) -> Found:
    """Return what `reference` means (see `CheckpointManager.load_checkpoint`).

    Raises:
        CheckpointNotFoundError: nothing, or more than one.
    """
    text = os.fspath(reference)
    for path in (Path(text), *(folder / text for folder in folders)):
        if text != "latest" and _is_file(path):
            return Found(path, None)
    for folder in folders:
        matching = _matching(text, folder)
        found = {info.checkpoint_id: Found(info.path, info.step) for info in matching}  # saved under two names: either
        if len({info.trace_id for info in matching}) == 1 and matching[0].trace_id.startswith(text):
            return Found(matching[0].path, matching[0].step)  # of a run, the newest
        if len(found) > 1:
            listed = ", ".join(list(found)[:5])
            raise CheckpointNotFoundError(f"{text!r} begins {len(found)} checkpoints ({listed}); give more of the id")
        if found:
            return next(iter(found.values()))
    raise CheckpointNotFoundError(_nothing_found(text, folders))


def annotate(where: Found, metadata: Mapping[str, Any]) -> Path:
    """Change the metadata of a checkpoint (see `CheckpointManager.update_metadata`)."""
    _require_json(metadata)
    path, found = where.path, loading.load(*where)
    if container.read_header(path).is_pack:
        path = path.with_name(_file_name(found))
        found = loading.load(path) if _is_file(path) else found  # what was noted before
    merged = {name: value for name, value in {**found.metadata, **metadata}.items() if value is not None}
    return CheckpointManager(path.parent).save_checkpoint(replace(found, metadata=merged), path.name)


def list_folder(folder: Path) -> list[CheckpointInfo]:
    """Return the readable checkpoints of a folder, newest first; a missing folder has none."""
    return in_order(info for path in files_in(folder) for info in infos(path))


def in_order(found: Iterable[CheckpointInfo]) -> list[CheckpointInfo]:
    """Return the checkpoints of a folder newest first; of one that has a file of its own (`annotate`) not the step."""
    found = sorted(found, key=attrgetter("created_ns"), reverse=True)
    alone = {each.checkpoint_id for each in found if each.step is None}
    return [each for each in found if each.step is None or each.checkpoint_id not in alone]


def newest(infos: Sequence[CheckpointInfo]) -> list[CheckpointInfo]:
    """Return what ``latest`` means, if there is any: the newest that is no fork's; of forks alone the newest.

    Args:
        infos: newest first.
    """
    return [*[info for info in infos if "fork_of" not in info.metadata][:1], *infos[:1]][:1]


def files_in(folder: Path) -> list[Path]:
    """Return the files of a folder that may hold checkpoints; a missing folder has none."""
    try:
        with os.scandir(folder) as entries:
            return [folder / each.name for each in entries if each.name.endswith(SUFFIXES)]
    except OSError:
        return []


def infos(path: Path) -> list[CheckpointInfo]:
    """Return what a listing shows of a file: nothing of one that is torn, gone or foreign; loading it says why."""
    try:
        headers = loading.headers_of(path)
        alone = not headers or not headers[0].is_pack
        ends = [0, *(header.after for header in headers)]
        if alone:
            return [info for header in headers for info in _info(header, None, header.after)]
        return [
            info
            for number, header in packfile.kept(headers)
            for info in _info(header, number, ends[number + 1] - ends[number])
        ]
    except (CheckpointError, OSError):
        return []


def _info(header: Header, step: int | None, size: int) -> Iterator[CheckpointInfo]:
    summary = header.summary
    shown = {name: summary[name] for name, kind in _SHOWN.items() if type(summary.get(name)) is kind}
    if len(shown) == len(_SHOWN) and 0 <= summary["created_ns"] < LATEST_NS and summary["occurrences"] < LATEST_NS:
        yield CheckpointInfo(path=header.path, step=step, size=size, **shown)


def _file_name(checkpoint: Checkpoint) -> str:
    return f"{checkpoint.trace.trace_id}_{checkpoint.checkpoint_id}{SUFFIX}"


def _require_json(metadata: Mapping[str, Any]) -> None:
    """Refuse what JSON has no form for, or gives back as something else: NaN, a tuple, a number as a key."""
    for name, value in metadata.items():
        try:
            is_same = type(name) is str and json.loads(json.dumps(value, allow_nan=False)) == value
            why = "" if is_same else "it would come back as something else"
        except (TypeError, ValueError, RecursionError) as error:
            why = str(error)
        if why:
            shown = payload.safe_repr(value)
            raise CheckpointError(f"metadata {name!r}: {shown} is not JSON ({why}); give texts, numbers and lists")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long for one, a folder that may not be entered
        return False


def _matching(text: str, folder: Path) -> list[CheckpointInfo]:
    infos = list_folder(folder)
    if text == "latest":
        return newest(infos)
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
