"""Who signs a checkpoint: this machine, where all that its trace holds was recorded under a key that it trusts.

Invariant: what a stranger's database holds never becomes ours by being saved again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clearstone import notice
from clearstone.codec import keys, payload

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clearstone.checkpoint.model import Checkpoint
    from clearstone.codec.keys import Key
    from clearstone.span import Payload, Trace


def signing_key(checkpoint: Checkpoint) -> Key:
    """Return the key that signs a checkpoint: nobody's where something in its trace is not known to be ours."""
    own, strange = keys.machine_key(), strangers(checkpoint.trace)
    if strange and own.secret:
        notice.say(
            f"checkpoint {checkpoint.checkpoint_id} is not signed: {strange} value(s) of its trace were not recorded "
            f"under a key this machine trusts"
        )
    return keys.nobodys() if strange else own


def strangers(trace: Trace) -> int:
    """Return how many values of a trace were not recorded under a key this machine trusts."""
    known = (keys.machine_key(), *keys.trusted_keys())
    return sum(not _is_ours(each, known) for span in trace for each in span.payloads())


def _is_ours(given: Payload, known: Sequence[Key]) -> bool:
    """Whether a payload has not left this process yet, or was named by a key we trust."""
    return not given.name or any(key.vouches(given.name, *payload.to_raw(given)) for key in known)
