"""Where one process's files lie: on a disk that all processes share, or on its node's own.

Each disk has one process that publishes, removes and lists what lies there. Without a shared disk every node has its
part of a checkpoint whose tensors are spread, and one node all of any other.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Disk:
    """One of `parts` disks, as one process sees it."""

    part: int
    """Its number, from 0 on."""
    parts: int
    """How many there are; 1 where all share one."""
    is_first: bool
    """Whether this process is the one that publishes and removes there."""

    @classmethod
    def of_all(cls, is_first: bool) -> Disk:
        """The one disk that all processes share; the first of all is the first there."""
        return cls(0, 1, is_first)

    @property
    def is_shared(self) -> bool:
        return self.parts == 1
