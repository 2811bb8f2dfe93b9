"""What would be lost if the host ended now: whole checkpoints there that are not verified at home.

Asked right before the only other copy goes away, so the answer is not taken
from the ledger: every file at home is read again.
"""

from __future__ import annotations

from launcher.checkpoints.home import is_verified
from launcher.checkpoints.parts import is_part_at_home
from launcher.checkpoints.remote_checkpoints import list_remote
from launcher.paths import LocalRun, RemoteRun
from launcher.remote.transport import Transport


def unsaved(transport: Transport, run: RemoteRun, local: LocalRun) -> list[int]:
    """Steps of the whole checkpoints on the host that are not whole at home with the same manifest, and of those of
    which it has a part that home has not. Oldest first."""
    listing = list_remote(transport, run.checkpoints)
    whole = [checkpoint.step for checkpoint in listing.whole if not is_verified(local, checkpoint)]
    parts = [part.step for part in listing.parts if not is_part_at_home(local, part)]
    return sorted({*whole, *parts})
