"""Labels as ids: for providers whose instances are files, whose name alone must tell whose they are."""

from __future__ import annotations

import re

from launcher.errors import ProviderError


def id_of(label: str) -> str:
    """`gptops.p.1a2b` for `gptops:p:1a2b`. No colon: it would break every PATH-like variable it stands in."""
    if not re.fullmatch(r"gptops:[A-Za-z0-9._-]+:[A-Za-z0-9-]+", label):
        raise ProviderError(f"{label!r} is no label", why="expected gptops:<project>:<uuid>")
    return label.replace(":", ".")


def label_of(instance_id: str) -> str:
    """The label it was made from. The project may have dots, the last part has none."""
    project, _, unique = instance_id.removeprefix("gptops.").rpartition(".")
    return f"gptops:{project}:{unique}"


def checked_id(instance_id: str) -> str:
    """The id, when it is a plain file name."""
    if not re.fullmatch(r"gptops\.[A-Za-z0-9._-]+", instance_id):
        raise ProviderError(f"{instance_id!r} is no id of a host", hint="gptops ps")
    return instance_id
