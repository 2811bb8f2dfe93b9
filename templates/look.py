"""Looks at the machines of a Slurm job: what each is, whether it has the login node's disk, and how they talk.

    python3 look.py node VENV       on each node, before a training would begin: versions, GPUs, disk, clock, links
    python look.py process BYTES    each process, under torchrun: what torch sees, and an all-reduce over all

job.sbatch runs it as it runs a training. It leaves its answers, one line of JSON each, in the folder of the job:
looks/NODE.node, looks/NODE.torch and looks/all.reduce; a fact that could not be had is {"error": why}. Beside it lie
node.py and preflight.py; `clock`, in the folder, is written by the login node now and then. It judges nothing.
Standard library only, but for torch; Python 3.8 or newer.
"""

import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import time

import node as machine

LINK_BYTES = 32 << 20
FOLDER = pathlib.Path(os.environ["GPTOPS_FOLDER"])


def look(venv):
    """Everything about this node, and its link to the one before it."""
    answer = machine.facts(venv)
    answer["clock"] = clock()
    nodes = said("scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]).split()
    if len(nodes) > 1:
        answer["link"] = link(nodes, nodes.index(own_name()))
    return answer


def clock():
    """By how many seconds this node's clock is ahead of what the login node wrote last."""
    try:
        return {"ahead": time.time() - float((FOLDER / "clock").read_text())}
    except (OSError, ValueError) as error:
        return {"error": f"cannot read what the login node writes: {error}"}


def link(nodes, place):
    """Down the list, each node goes to the one before it, and then waits for the one after it."""
    found = {"place": place, "address": address_of(nodes[place])}
    found["interface"] = machine.interface_of(found["address"])
    if place > 0:
        found["to"] = nodes[place - 1]
        found["way"] = machine.reach(address_of(nodes[place - 1]), port_of(place - 1), LINK_BYTES)
    if place + 1 < len(nodes):
        machine.listen(found["address"], port_of(place), 1)
    return found


def port_of(place):
    """Beside that of the training's meeting (job.sbatch)."""
    return 10000 + (int(os.environ["SLURM_JOB_ID"]) + 1 + place) % 20000


def address_of(name):
    """As Slurm knows the node, as a number where that can be told."""
    match = re.search(r" NodeAddr=(\S+)", said("scontrol", "show", "node", "--oneliner", name))
    known = match.group(1) if match else name
    try:
        return socket.gethostbyname(known)
    except OSError:
        return known


def process(size):
    """One process of the training that might be."""
    import torch

    if os.environ["LOCAL_RANK"] == "0":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        put(own_name() + ".torch", {"version": torch.__version__, "cuda": torch.version.cuda, "device_count": count})
    if int(os.environ["WORLD_SIZE"]) > 1:
        import preflight

        answer = preflight.nodes(size)
        if answer is not None:
            put("all.reduce", answer)


def own_name():
    return os.environ["SLURMD_NODENAME"]


def said(*words):
    return subprocess.run(words, stdout=subprocess.PIPE, timeout=30).stdout.decode(errors="replace")


def put(name, answer):
    building = FOLDER / "looks" / (name + ".tmp")
    building.parent.mkdir(exist_ok=True)
    building.write_text(json.dumps(answer) + "\n")
    building.replace(building.with_suffix(""))


if __name__ == "__main__":
    if sys.argv[1] == "process":
        process(sys.argv[2])
    else:
        try:
            found = look(sys.argv[2])
        except (OSError, ValueError, subprocess.SubprocessError) as problem:
            found = {"error": f"{type(problem).__name__}: {problem}"}
        put(own_name() + ".node", found)
