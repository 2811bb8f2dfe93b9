"""Looks at one of several machines that are to train together: what it is, where the others reach it, how fast.

    python3 - facts VENV                 versions, GPUs and drivers, as the nodes are compared by them
    python3 - way PEER...                the address and the interface from which the peers are reached
    python3 - look VENV PORT PEER...     facts, way and port in one answer; port 0: any that is free
    python3 - addresses                  its addresses, by interface; loopback left out
    python3 - port ADDRESS [PORT]        a free port there; with PORT: whether that one is free
    python3 - listen ADDRESS PORT N      wait for N peers, answer each, take and send bytes, and end
    python3 - reach ADDRESS PORT BYTES   connect, ask the round trip, send and fetch that many bytes
    python3 - code FOLDER                one hash over every file in it

It is fed to python3 on stdin and leaves nothing behind. The last line of stdout is the answer, one line of JSON; a
fact that could not be had is {"error": why}. Standard library only, Python 3.8 or newer.
"""

import errno
import fcntl
import hashlib
import json
import os
import pathlib
import socket
import struct
import subprocess
import sys
import time

PATIENCE = 60.0
"""Seconds in which nodes that were told at the same time have met."""
BLOCK = 1 << 18
SIOCGIFADDR = 0x8915  # ioctl(2): an interface's address, on Linux
HELLO = b"gptops\n"
VERSIONS = """
import json, sys, importlib.metadata as m
def of(name):
    try: return m.version(name)
    except m.PackageNotFoundError: return ''
print(json.dumps({'python': sys.version.split()[0], 'torch': of('torch'), 'numpy': of('numpy')}))
"""
"""Without importing torch."""


def facts(venv):
    python = os.path.join(venv, "bin", "python")
    if not os.path.exists(python):
        python = "python3"
    asked = subprocess.Popen([python, "-c", VERSIONS], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    found = gpus()  # meanwhile
    told = asked.communicate()[0]
    versions = json.loads(told) if asked.returncode == 0 else {"python": "", "torch": "", "numpy": ""}
    return {"versions": versions, "gpus": found, "now": time.time()}


def gpus():
    """Rows of `name, driver`; none where there is no nvidia-smi."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    if done.returncode != 0:
        return []
    return [[part.strip() for part in line.rsplit(",", 1)] for line in done.stdout.decode().splitlines() if line]


def way(*peers):
    """By which of its addresses, and so interfaces, this machine reaches each peer. Sends nothing."""
    found = {}
    for peer in peers:
        try:
            found[peer] = own_address(peer)
        except (OSError, UnicodeError) as error:
            return {"error": "no way to {}: {}".format(peer, getattr(error, "strerror", None) or error)}
    addresses = sorted(set(found.values()))
    if len(addresses) != 1:
        told = ", ".join(f"{peer} from {own}" for peer, own in sorted(found.items()))
        return {"error": "the peers are reached from several addresses: " + told}
    name = interface_of(addresses[0])
    if not name:
        return {"error": "no interface has the address " + addresses[0]}
    if name == "lo":
        return {"error": "the peers are reached over loopback: their address is this machine's own"}
    return {"address": addresses[0], "interface": name}


def look(venv, wanted, *peers):
    found = way(*peers)
    free = port(found["address"], wanted) if "address" in found else {"error": "there is no address for it"}
    return dict(facts(venv), way=found, port=free)


def addresses():
    return {"addresses": {name: address for name, address in interfaces() if name != "lo"}}


def own_address(peer):
    """By IPv4 where the peer has both: so do gloo and NCCL on an interface that has both."""
    known = sorted(socket.getaddrinfo(peer, 9, type=socket.SOCK_DGRAM), key=lambda each: each[0] != socket.AF_INET)
    failure = OSError(errno.EADDRNOTAVAIL, "it has no address")
    for family, kind, _protocol, _name, where in known:
        try:
            with socket.socket(family, kind) as probe:
                probe.connect(where)
                own = probe.getsockname()[0]
        except OSError as error:
            failure = error
            continue
        if own == where[0] and own not in ("127.0.0.1", "::1"):
            raise OSError(errno.EADDRNOTAVAIL, "that is this machine itself")
        return own
    raise failure


def interface_of(address):
    return next((name for name, own in [*interfaces(), *interfaces_v6()] if own == address), "")


def interfaces_v6():
    """The same of IPv6, where an interface has several."""
    try:
        lines = pathlib.Path("/proc/net/if_inet6").read_text().splitlines()
    except OSError:
        return  # a machine without it
    for line in lines:
        digits, *_rest, name = line.split()
        yield name, socket.inet_ntop(socket.AF_INET6, bytes.fromhex(digits))


def family_of(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def shown(address, number):
    return f"[{address}]:{number}" if ":" in address else f"{address}:{number}"


def interfaces():
    """Each interface that has an address, with it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _index, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            try:
                answer = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, request)
            except OSError:
                continue  # an interface without an address
            yield name, socket.inet_ntoa(answer[20:24])


def port(address, wanted="0"):
    try:
        with socket.socket(family_of(address)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, int(wanted)))
            probe.listen(1)
            return {"port": probe.getsockname()[1]}
    except OSError as error:
        return {"error": refused(wanted, error), "taken": error.errno == errno.EADDRINUSE}


def refused(number, error):
    return f"port {number} is taken" if error.errno == errno.EADDRINUSE else str(error.strerror)


def listen(address, number, count):
    """Answer `count` peers, one after the other."""
    met = 0
    deadline = time.monotonic() + PATIENCE
    with socket.socket(family_of(address)) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind((address, int(number)))
            server.listen(int(count))
        except OSError as error:
            return {"error": refused(number, error)}
        while met < int(count):
            server.settimeout(max(0.1, deadline - time.monotonic()))
            try:
                peer = server.accept()[0]
            except OSError:
                return {"error": f"{met} of {count} nodes came to port {number} in {PATIENCE:.0f} s"}
            with peer:
                peer.settimeout(PATIENCE)
                met += answer(peer)
    return {"met": met}


def answer(peer):
    """Serve one peer; whether it was one of ours."""
    if read(peer, len(HELLO)) != HELLO:
        return False
    peer.sendall(HELLO)
    for _ in range(3):
        peer.sendall(read(peer, 1))
    size = struct.unpack("!Q", read(peer, 8))[0]
    drain(peer, size)
    peer.sendall(b".")
    pour(peer, size)
    read(peer, 1)
    return True


def reach(address, number, size):
    """Seconds of a round trip, and bytes a second both ways. Tries until the other listens."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            peer = socket.create_connection((address, int(number)), timeout=max(0.1, deadline - time.monotonic()))
            break
        except OSError as error:
            if time.monotonic() >= deadline or error.errno not in (errno.ECONNREFUSED, errno.EHOSTUNREACH):
                why = error.strerror or f"no answer in {PATIENCE:.0f} s"
                return {"error": f"cannot reach {shown(address, number)}: {why}"}
            time.sleep(0.05)
    with peer:
        peer.settimeout(PATIENCE)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return measured(peer, int(size))


def measured(peer, size):
    peer.sendall(HELLO)
    if read(peer, len(HELLO)) != HELLO:
        return {"error": "something else than gptops listens there"}
    trips = []
    for _ in range(3):
        began = time.perf_counter()
        peer.sendall(b"?")
        read(peer, 1)
        trips.append(time.perf_counter() - began)
    began = time.perf_counter()
    peer.sendall(struct.pack("!Q", size))
    pour(peer, size)
    read(peer, 1)
    sent = time.perf_counter()
    drain(peer, size)
    done = time.perf_counter()
    peer.sendall(b".")
    rates = {"to": size / max(sent - began, 1e-9), "from": size / max(done - sent, 1e-9)}
    return {"round_trip": min(trips), "bytes_per_second": rates}


def read(peer, size):
    data = b""
    while len(data) < size:
        more = peer.recv(size - len(data))
        if not more:
            break
        data += more
    return data


def drain(peer, size):
    while size > 0:
        got = len(peer.recv(min(BLOCK, size)))
        if not got:
            return
        size -= got


def pour(peer, size):
    block = b"\0" * BLOCK
    while size > 0:
        peer.sendall(block[: min(BLOCK, size)])
        size -= BLOCK


def code(folder):
    """Names, modes and contents; what Python compiles by itself apart."""
    digest, count = hashlib.sha256(), 0
    root = pathlib.Path(folder)
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if "__pycache__" in name.split("/") or path.is_dir():
            continue
        content = os.readlink(str(path)).encode() if path.is_symlink() else path.read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode(errors="surrogateescape"))
        digest.update(content)
        count += 1
    return {"sha256": digest.hexdigest(), "files": count}


MODES = {
    "facts": facts,
    "way": way,
    "look": look,
    "addresses": addresses,
    "port": port,
    "listen": listen,
    "reach": reach,
    "code": code,
}

if __name__ == "__main__":
    try:
        found = MODES[sys.argv[1]](*sys.argv[2:])
    except OSError as problem:
        found = {"error": f"{type(problem).__name__}: {problem.strerror or problem}"}
    sys.stdout.write(json.dumps(found) + "\n")
