"""Every error Clearstone raises on purpose, as one tree.

::

    ClearstoneError
    ├── ConfigurationError    (ValueError)         a decorator, option or argument that cannot be meant
    ├── StoreError            (OSError)            a trace database that cannot be opened, read or written
    │   ├── StoreUnavailableError                         one that is damaged, locked, full or read-only just now
    │   └── UnstorableSpanError                           a span that no store can take
    ├── TraceNotFoundError    (LookupError)        no trace or span under that id
    ├── CheckpointError
    │   ├── CheckpointNotFoundError (FileNotFoundError)   no checkpoint under that reference
    │   ├── CheckpointDamagedError  (ValueError)          not a checkpoint, torn, altered, or from a newer version
    │   ├── UntrustedCheckpointError (PermissionError)    one that nobody this machine trusts has signed
    │   └── StateError              (TypeError)           the agent's state cannot be taken or given back
    └── ReplayError           (RuntimeError)
        ├── TargetError             (LookupError)         a class, script, function or mock target that is not there
        ├── ReplayExhausted         (StopIteration)       a served call found no recorded outcome left
        ├── ReplayDivergence                              a served call differs from every recorded one
        ├── BeyondRecord                                  the replay got past the end of the record
        ├── LiveCallRefused         (PermissionError)     the replayed code was about to go out, or start a process
        ├── UnservableOutcome                             the recorded outcome holds a stand-in, not the value
        ├── MissingMemberError                            an attribute that could not be saved was used
        └── FrozenClockError        (TimeoutError)        a loop waits for a clock that only ``sleep`` moves

Each class derives from what a caller would already catch, so that `except FileNotFoundError` keeps working where a
file is missing. Every message names the value, the reason and the next step.
"""


class ClearstoneError(Exception):
    """The root: catching it catches everything Clearstone raises on purpose."""


class ConfigurationError(ClearstoneError, ValueError):
    """A decorator, option or argument that cannot be meant."""


class StoreError(ClearstoneError, OSError):
    """A trace database that cannot be opened, read or written."""


class StoreUnavailableError(StoreError):
    """A trace database that is damaged, locked, full or read-only: it may be usable later."""


class UnstorableSpanError(StoreError):
    """A span that no store can take, now or later: a field of it has another type."""


class TraceNotFoundError(ClearstoneError, LookupError):
    """No trace or span under that id."""


class CheckpointError(ClearstoneError):
    """Anything about a checkpoint."""


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """No checkpoint under that reference."""


class CheckpointDamagedError(CheckpointError, ValueError):
    """A file that is no checkpoint, is torn or altered, or comes from a newer version."""


class UntrustedCheckpointError(CheckpointError, PermissionError):
    """A checkpoint that no key this machine trusts has signed: loading what it holds could run anybody's code."""


class StateError(CheckpointError, TypeError):
    """The agent's state cannot be taken or given back."""


class ReplayError(ClearstoneError, RuntimeError):
    """Anything that stops a replay."""


class TargetError(ReplayError, LookupError):
    """A class, script, function or mock target that is not there."""


class ReplayExhausted(ReplayError, StopIteration):  # noqa: N818 - the documented API raises a StopIteration here
    """A served call found no recorded outcome left."""


class ReplayDivergence(ReplayError):  # noqa: N818 - a replay that took another way, not a fault of the caller
    """A served call differs from every recorded call of its site."""


class BeyondRecord(ReplayError):  # noqa: N818 - not a failure: the code got further than it did when recorded
    """The replay got past the end of the record, into a call it does not have."""


class LiveCallRefused(ReplayError, PermissionError):  # noqa: N818 - the guard did its work
    """The replayed code was about to use the network, start a process, or (where that is refused) change a file."""


class UnservableOutcome(ReplayError):  # noqa: N818 - the outcome is at fault
    """The recorded outcome could not be serialised when it was recorded, so it cannot be served."""


class MissingMemberError(ReplayError):
    """The replayed code used an attribute of the agent that could not be saved in the checkpoint."""


class FrozenClockError(ReplayError, TimeoutError):
    """A loop waits for a clock that only ``sleep`` and served calls move."""
