"""Which machines do not train together, and what does instead. Vast's and RunPod's may: nodes.market."""

from __future__ import annotations

from launcher.errors import UsageError

WHY_ALONE = {
    "local": "all nodes would be this one machine; `processes` starts several there",
    "lambda_cloud": "its public API launches single instances and makes no private network for them; 1-Click Clusters "
    "are not in it",
}

INSTEAD = "a group of machines of yours (docs/nodes.md), Slurm (docs/slurm.md), or `gptops render --for skypilot`"


def require_one(provider: str, nodes: int) -> None:
    """Raises UsageError where several machines of `provider` are wanted that cannot train together."""
    if nodes > 1 and provider in WHY_ALONE:
        raise UsageError(f"{nodes} nodes at `{provider}` cannot train together", why=WHY_ALONE[provider], hint=INSTEAD)
