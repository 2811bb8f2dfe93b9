"""A job by Hugging Face Accelerate's own launcher, with the configuration file it reads. Pure."""

from __future__ import annotations

from typing import Any

from launcher.errors import JobsError
from launcher.rendering.script import DISKS, script, trainer
from launcher.spec.jobs import JobSpec
from trainer.config import RunConfig, dump_yaml

_COMMENT = """\
{job} by `accelerate launch`, in the project's folder, with `trainer` and its packages installed.
"""
_NODES = """\
On each of {nodes} machines, at about the same time:
  NODE_RANK=0 FIRST=ADDRESS-OF-THE-FIRST sh SCRIPT      (NODE_RANK=1 on the second, and so on)
Where they do not find each other: export GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME, the interface between them.
"""
_PORT = 29400


def accelerate_script(job_name: str, job: JobSpec, config: RunConfig) -> str:
    """A shell script for every machine of the job. Raises JobsError where Accelerate would start something else."""
    _require_what_it_starts(job_name, job)
    nodes, comment = job.resources.nodes, _COMMENT.format(job=job_name)
    words = ["accelerate", "launch", '--config_file="$run/accelerate.yaml"']
    if nodes > 1:
        comment += _NODES.format(nodes=nodes) + DISKS
        words += ['--machine_rank="${NODE_RANK:?}"', '--main_process_ip="${FIRST:?}"', f"--main_process_port={_PORT}"]
    files = {"accelerate.yaml": dump_yaml(accelerate_config(job))}
    return script(job_name, job, config, comment, files, " ".join([*words, trainer(job)]))


def accelerate_config(job: JobSpec) -> dict[str, Any]:
    """What `accelerate launch` would otherwise take from a file of the machine. Precision is the trainer's."""
    processes = job.processes_per_node * job.resources.nodes
    return {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "MULTI_GPU" if job.resources.gpus and processes > 1 else "NO",
        "num_machines": job.resources.nodes,
        "num_processes": processes,
        "use_cpu": not job.resources.gpus,
        "mixed_precision": "no",
        # The only one for which `--main_process_ip` is where all meet: c10d does not read it on one network.
        "rdzv_backend": "static",
        "same_network": True,
    }


def _require_what_it_starts(job_name: str, job: JobSpec) -> None:
    if not job.resources.gpus and (job.processes_per_node > 1 or job.resources.nodes > 1):
        # accelerate 1.15 starts one process on a CPU, whatever it is told, and says nothing.
        raise JobsError(
            f"accelerate would not start the processes of `{job_name}` on a CPU",
            why="its launcher starts several only on GPUs, or through MPI",
            hint=f"gptops render {job_name} --for torchrun",
        )
