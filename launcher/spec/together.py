"""Why rented machines do not train together, provider by provider, and what does instead."""

from __future__ import annotations

from launcher.errors import UsageError

WHY_ALONE = {
    "local": "all nodes would be this one machine; `processes` starts several there",
    "vast": "single containers without a private network between them; machines of one `cluster_id`, which may have "
    "one, are not rented as such",
    "runpod": "its pods have no network of their own, and its clusters are another product, which gptops does not rent",
    "lambda_cloud": "gptops rents one machine at a time there; its clusters are another product",
}

INSTEAD = "a group of machines of yours (docs/nodes.md), Slurm (docs/slurm.md), or `gptops render --for skypilot`"


def require_one(provider: str, nodes: int) -> None:
    """Raises UsageError where several machines of `provider` are wanted that cannot train together."""
    if nodes > 1 and provider in WHY_ALONE:
        raise UsageError(f"{nodes} nodes at `{provider}` cannot train together", why=WHY_ALONE[provider], hint=INSTEAD)
