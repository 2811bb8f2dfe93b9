"""What a pod of RunPod runs and whom it lets in, alone or in a cluster. Pure."""

from __future__ import annotations

from typing import Any

from launcher.providers.base import CreateRequest
from launcher.providers.runpod_catalog import disk_gb

VENDOR_IMAGE = "runpod/pytorch:1.0.2-cu1281-torch280-ubuntu2404"
"""Where no job names one. RunPod's own images start an sshd when PUBLIC_KEY is set."""
SSHD = (
    "bash -c 'export DEBIAN_FRONTEND=noninteractive; apt-get update -qq; "
    "apt-get install -y -qq --no-install-recommends openssh-server rsync; "
    "mkdir -p /run/sshd ~/.ssh; chmod 700 ~/.ssh; "
    'echo "$PUBLIC_KEY" >> ~/.ssh/authorized_keys; chmod 600 ~/.ssh/authorized_keys; '
    'env | grep "^RUNPOD_" >> /etc/environment; '
    "ssh-keygen -A; exec /usr/sbin/sshd -D -e'"
)
"""What any other image with apt is told to run. RUNPOD_* must reach logins: the dead-man's switch ends the pod so."""


def container(request: CreateRequest) -> dict[str, Any]:
    """The part of the create request that both have: image, disk, SSH."""
    image = request.image or VENDOR_IMAGE
    told: dict[str, Any] = {
        "image": image,
        "disk": disk_gb(request.disk_gib),
        "ports": ["22/tcp"],
        "env": {"PUBLIC_KEY": request.public_key},
        "startSsh": True,
    }
    return told if image.startswith("runpod/") else {**told, "args": SSHD}
