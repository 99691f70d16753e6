"""Time-travel debugging for AI agents: record, checkpoint, replay and debug.

from clearstone import checkpointable, traced
"""

from clearstone import _conflict
from clearstone._version import __version__
from clearstone.boundaries import checkpointable
from clearstone.checkpoint.labelled import snapshot
from clearstone.checkpoint.listing import checkpoints
from clearstone.decorators import traced
from clearstone.errors import ClearstoneError
from clearstone.instrumentation import instrument, uninstrument
from clearstone.record.default import configure

__all__ = [
    "ClearstoneError",
    "__version__",
    "checkpointable",
    "checkpoints",
    "configure",
    "instrument",
    "snapshot",
    "traced",
    "uninstrument",
]

_conflict.refuse_clearstone_sdk()
