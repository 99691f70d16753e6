"""Checkpoints, replay and the debugger. Exports only."""

from clearstone.checkpoint.listing import checkpoints
from clearstone.checkpoint.manager import CheckpointInfo, CheckpointManager
from clearstone.checkpoint.model import Checkpoint
from clearstone.debugger.session import ReplayEngine
from clearstone.replay.determinism import DeterministicExecutionContext
from clearstone.whatif import Fork

__all__ = [
    "Checkpoint",
    "CheckpointInfo",
    "CheckpointManager",
    "DeterministicExecutionContext",
    "Fork",
    "ReplayEngine",
    "checkpoints",
]
