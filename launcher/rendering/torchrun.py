"""A job by torchrun alone: the plain command line, with the configuration it needs. Pure."""

from __future__ import annotations

from launcher.rendering.script import DISKS, script, trainer
from launcher.spec.jobs import JobSpec
from trainer.config import RunConfig

_COMMENT = """\
{job} by torchrun, in the project's folder, with `trainer` and its packages installed.
SIGTERM to the training processes lets them save; the same script goes on from the newest whole checkpoint.
"""
_NODES = """\
On each of {nodes} machines, at about the same time:
  NODE_RANK=0 RENDEZVOUS=FIRST:29400 sh SCRIPT      (NODE_RANK=1 on the second, and so on)
Where they do not find each other: ADDRESS=, this machine's own on the network between them, and export
GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME, its interface there.
"""


def torchrun_script(job_name: str, job: JobSpec, config: RunConfig) -> str:
    """A shell script for every machine of the job."""
    nodes, comment = job.resources.nodes, _COMMENT.format(job=job_name)
    words = ["torchrun", "--standalone"]
    if nodes > 1:
        comment += _NODES.format(nodes=nodes) + DISKS
        is_host = '$(test "$NODE_RANK" = 0 && echo true || echo false)'
        words = ["torchrun", f"--nnodes={nodes}", '--node-rank="${NODE_RANK:?}"', "--rdzv-backend=c10d"]
        words += ['--rdzv-endpoint="${RENDEZVOUS:?}"', f"--rdzv-id={job_name}", f'--rdzv-conf="is_host={is_host}"']
        words += ['${ADDRESS:+--local-addr="$ADDRESS"}']
    words += [f"--nproc-per-node={job.processes_per_node}", trainer(job)]
    return script(job_name, job, config, comment, {}, " ".join(words))
