"""Looks at a machine that is about to train: what is there, how fast, and whether its GPUs talk to each other.

    python3 preflight.py facts            tools, disk, GPUs and clock, as one line of JSON
    python preflight.py torch             what torch sees (with the environment that will train)
    python preflight.py reduce            two processes add up a tensor (starts torchrun on itself)
    python preflight.py nodes BYTES       (under torchrun on every node) all processes add up so many bytes
    python3 preflight.py checkpoint DIR   make a small checkpoint in DIR/checkpoints, as the trainer would

The last line of stdout is the answer; a fact that could not be had is {"error": why}.
Standard library only, Python 3.8 or newer; manifest.py lies beside it. It judges
nothing: that is the laptop's part, which knows what was asked.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

WRITE_BYTES = 64 << 20
CHECKPOINT_BYTES = 1 << 20
TIMES = 3
HERE = pathlib.Path(__file__).resolve().parent


def facts():
    return {
        "python": sys.version.split()[0],
        "rsync": first_line(["rsync", "--version"]),
        "gpus": gpus(),
        "disk": disk(),
        "write": write_speed(),
    }


def first_line(argv):
    try:
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=15)
    except FileNotFoundError:
        return {"error": "not installed"}
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"error": type(error).__name__}
    lines = done.stdout.decode(errors="replace").splitlines() or [""]
    return lines[0] if done.returncode == 0 else {"error": lines[0]}


def gpus():
    """nvidia-smi's own answer, unread: rows of `name, driver_version, memory.total`, or its complaint."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=30)
    except FileNotFoundError:
        return {"error": "not installed"}
    except subprocess.TimeoutExpired:
        return {"error": "nvidia-smi did not answer in 30 s"}
    text = done.stdout.decode(errors="replace").strip()
    return {"csv": text} if done.returncode == 0 else {"error": text[:300] or f"exit code {done.returncode}"}


def disk():
    return {"free_bytes": shutil.disk_usage(str(HERE)).free}


def write_speed():
    """Bytes a second until they are on the disk, not only in memory."""
    path = HERE / "write-test"
    block = os.urandom(1 << 20)
    try:
        began = time.perf_counter()
        with path.open("wb") as file:
            for _ in range(WRITE_BYTES >> 20):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        seconds = time.perf_counter() - began
    except OSError as error:
        return {"error": error.strerror or type(error).__name__}
    finally:
        if path.exists():
            path.unlink()
    return {"bytes_per_second": WRITE_BYTES / seconds}


def torch_facts():
    try:
        import torch
    except ImportError as error:
        return {"error": str(error)}
    available = torch.cuda.is_available()
    return {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "is_available": available,
        "device_count": torch.cuda.device_count() if available else 0,
    }


def reduce():
    """Run `rank` in two processes; the answer is what rank 0 printed."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    torchrun.append("--local-addr=127.0.0.1")  # else by the machine's own name, which nobody may know
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    if os.path.isdir("/sys/class/net/lo"):
        # Where the host's own name does not resolve, gloo hangs unless it is told the interface.
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
    began = time.perf_counter()
    try:
        done = subprocess.run([*torchrun, __file__, "rank"], capture_output=True, env=environment, timeout=120)
    except subprocess.TimeoutExpired:
        return {"error": "two processes did not find each other in 120 s"}
    answers = [line for line in done.stdout.decode(errors="replace").splitlines() if line.startswith("{")]
    if done.returncode != 0 or not answers:
        complaints = [line for line in done.stderr.decode(errors="replace").splitlines() if "Error" in line]
        return {"error": (complaints or [f"exit code {done.returncode}"])[0].strip()[:300]}
    return dict(json.loads(answers[-1]), start_seconds=time.perf_counter() - began)


def rank():
    """One of the two processes."""
    import torch
    import torch.distributed as dist

    on_gpus = torch.cuda.is_available() and torch.cuda.device_count() >= 2
    me = int(os.environ["RANK"])
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_gpus else torch.device("cpu")
    if on_gpus:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if on_gpus else "gloo")
    tensor = torch.full((1 << 20,), float(me + 1), device=device)
    dist.all_reduce(tensor)
    right = bool((tensor == 3.0).all())
    began = time.perf_counter()
    dist.all_reduce(tensor)
    if on_gpus:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    dist.destroy_process_group()
    return {"backend": "nccl" if on_gpus else "gloo", "right": right, "seconds": seconds} if me == 0 else None


def nodes(size):
    """One of the processes of several nodes: rank 0 answers with the bandwidth that each link had to carry."""
    import torch
    import torch.distributed as dist

    local, count = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    on_gpus = torch.cuda.is_available() and torch.cuda.device_count() >= count
    device = torch.device("cuda", local) if on_gpus else torch.device("cpu")
    if on_gpus:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if on_gpus else "gloo")
    me, world = dist.get_rank(), dist.get_world_size()
    tensor = torch.full((int(size) // 4,), float(me + 1), device=device)
    dist.all_reduce(tensor)
    right = bool((tensor == world * (world + 1) / 2).all())
    dist.barrier()
    began = time.perf_counter()
    for _ in range(TIMES):
        dist.all_reduce(tensor)
    if on_gpus:
        torch.cuda.synchronize()
    seconds = (time.perf_counter() - began) / TIMES
    dist.destroy_process_group()
    # "Bus bandwidth" as nccl-tests reckons it: what a ring sends over each link, whatever the number of processes.
    bus = 2 * (world - 1) / world * int(size) / seconds
    answer = {"backend": "nccl" if on_gpus else "gloo", "world": world, "right": right, "seconds": seconds, "bus": bus}
    return answer if me == 0 else None


def checkpoint(folder):
    sys.path.insert(0, str(HERE))
    import manifest

    building = pathlib.Path(folder) / "checkpoints" / (manifest.step_name(1) + ".tmp")
    building.mkdir(parents=True)
    (building / "random.bin").write_bytes(os.urandom(CHECKPOINT_BYTES))
    return {"name": manifest.publish(building).name}


MODES = {"facts": facts, "torch": torch_facts, "reduce": reduce, "rank": rank, "nodes": nodes, "checkpoint": checkpoint}

if __name__ == "__main__":
    answer = MODES[sys.argv[1]](*sys.argv[2:])
    if answer is not None:
        sys.stdout.write(json.dumps(answer) + "\n")
