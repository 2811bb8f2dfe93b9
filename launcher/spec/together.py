"""Why rented machines do not train together, provider by provider, and what does instead."""

from __future__ import annotations

from launcher.errors import UsageError

WHY_ALONE = {
    "local": "all nodes would be this one machine; `processes` starts several there",
    "vast": "a market of single containers, without a private network between the machines of different owners",
    "runpod": "its pods have no network of their own, and its clusters are another product, which gptops does not rent",
    "lambda_cloud": "gptops rents one machine at a time there; its clusters are another product",
}
"""Vast lets machines of one `cluster_id` have a network, where an owner offers that; no offer of it was ever seen."""

INSTEAD = (
    "several machines of yours as a group (docs/nodes.md), Slurm (docs/slurm.md), or `gptops render --for skypilot`"
)


def require_one(provider: str, nodes: int) -> None:
    """Raises UsageError where several machines of `provider` are wanted that cannot train together."""
    if nodes > 1 and provider in WHY_ALONE:
        raise UsageError(f"{nodes} nodes at `{provider}` cannot train together", why=WHY_ALONE[provider], hint=INSTEAD)
