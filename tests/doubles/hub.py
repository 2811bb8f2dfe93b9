"""A Hugging Face hub on this machine, as far as `datasets` and `huggingface_hub` read it.

It serves what it is given, over HTTP, and misbehaves when told: it drops a connection in the middle of a file, asks to
come back later, hides a file that it lists, or guards a repository. Clients find it by HF_ENDPOINT.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class Fault:
    """Something that goes wrong with the requests whose path has `matching` in it."""

    matching: str
    status: int = 0
    """Answered instead; 0 answers, but drops the connection after `after_bytes`."""
    after_bytes: int = 0
    times: int = 1_000_000
    headers: Mapping[str, str] = field(default_factory=dict)
    met: int = 0
    """How many requests it has spoilt."""


@dataclass(frozen=True)
class Repository:
    """One version of a dataset or a model."""

    kind: str
    name: str
    files: Mapping[str, bytes]

    @property
    def commit(self) -> str:
        digest = hashlib.sha1()
        for path, data in sorted(self.files.items()):
            digest.update(path.encode() + b"\0" + hashlib.sha256(data).digest())
        return digest.hexdigest()

    def info(self) -> dict[str, Any]:
        return {
            "_id": "1",
            "id": self.name,
            "sha": self.commit,
            "lastModified": "2026-01-01T00:00:00.000Z",
            "private": False,
            "gated": False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "siblings": [{"rfilename": path} for path in sorted(self.files)],
        }

    def tree(self, below: str, *, recursive: bool) -> list[dict[str, Any]] | None:
        """What is below a folder; None where there is no such folder."""
        prefix = f"{below.strip('/')}/" if below.strip("/") else ""
        entries: dict[str, dict[str, Any]] = {}
        for path, data in sorted(self.files.items()):
            if not path.startswith(prefix):
                continue
            parts = path[len(prefix) :].split("/")
            for depth in range(1, len(parts)):
                folder = prefix + "/".join(parts[:depth])
                if recursive or depth == 1:
                    entries[folder] = {"type": "directory", "oid": _oid(folder.encode()), "size": 0, "path": folder}
            if recursive or len(parts) == 1:
                entries[path] = {"type": "file", "oid": _oid(data), "size": len(data), "path": path}
        return list(entries.values()) if entries or not prefix else None


class Hub:
    """The repositories, the faults, and what was asked for."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], list[Repository]] = {}
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.endpoint = ""

    def publish(self, name: str, files: Mapping[str, bytes | str], *, kind: str = "datasets") -> Repository:
        """A new version of a repository; the older ones can still be asked for by their commit."""
        data = {path: each.encode() if isinstance(each, str) else each for path, each in files.items()}
        repository = Repository(kind, name, data)
        self.repositories.setdefault((kind, name), []).append(repository)
        return repository

    def publish_dataset(
        self, name: str, files: Mapping[str, bytes | str], *, config: str = "default", split: str = "train"
    ) -> Repository:
        """A dataset whose card says which files are the split, as those of the real hub do."""
        data_files = [{"split": split, "path": sorted(files)}]
        card = {"configs": [{"config_name": config, "data_files": data_files}]}
        return self.publish(name, {"README.md": f"---\n{json.dumps(card)}\n---\n# {name}\n", **files})

    def fail(self, matching: str, **how: Any) -> Fault:
        """From now on spoil the requests whose path has `matching` in it."""
        fault = Fault(matching, **how)
        self.faults.append(fault)
        return fault

    def guard(self, name: str) -> Fault:
        """Make a repository one whose terms must be accepted first."""
        headers = {"X-Error-Code": "GatedRepo", "X-Error-Message": f"Access to dataset {name} is restricted."}
        return self.fail(f"{name}/resolve", status=401, headers=headers)

    def environment(self, home: Path) -> dict[str, str]:
        """For processes that are to read from here, with a cache of their own in `home`."""
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    def version(self, kind: str, name: str, revision: str) -> Repository | None:
        """The version a revision names; None where there is none."""
        versions = self.repositories.get((kind, name), [])
        wanted = [each for each in versions if revision in ("main", each.commit)]
        return wanted[-1] if wanted else None

    def fault_for(self, path: str) -> Fault | None:
        """The first fault that has not worn off."""
        for fault in self.faults:
            if fault.matching in path and fault.met < fault.times:
                fault.met += 1
                return fault
        return None


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub that answers on a port of its own until the block ends."""
    hub = Hub()

    class Handler(_Handler):
        served = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: Hub

    def log_message(self, format: str, *args: Any) -> None:
        """Silence; `Hub.requests` has every one."""

    def do_HEAD(self) -> None:
        self._route()

    def do_GET(self) -> None:
        self._route()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._route()

    def _route(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        self.served.requests.append(f"{self.command} {path} {self.headers.get('Range', '')}".strip())
        fault = self.served.fault_for(path)
        if fault and fault.status:
            self._answer(fault.status, b"refused", **fault.headers)
        elif found := _API.fullmatch(path):
            self._api(found, recursive=parse_qs(url.query).get("recursive", [""])[0].lower() in ("true", "1"))
        elif found := _RESOLVE.fullmatch(path):
            self._resolve(found, fault)
        else:
            self._answer(404, b"no such route")

    def _api(self, found: re.Match[str], *, recursive: bool) -> None:
        repository = self.served.version(found["kind"], found["name"], found["revision"] or "main")
        if repository is None:
            return self._missing(found["kind"], found["name"])
        if found["what"] != "tree":
            return self._json(repository.info())
        entries = repository.tree(found["below"] or "", recursive=recursive)
        if entries is None:
            return self._answer(404, b"{}", **{"X-Error-Code": "EntryNotFound"})
        return self._json(entries)

    def _resolve(self, found: re.Match[str], fault: Fault | None) -> None:
        kind = "datasets" if found["dataset"] else "models"
        repository = self.served.version(kind, found["name"], found["revision"])
        if repository is None:
            return self._missing(kind, found["name"])
        data = repository.files.get(found["file"])
        if data is None:
            return self._answer(404, b"", **{"X-Error-Code": "EntryNotFound", "X-Repo-Commit": repository.commit})
        headers = {"ETag": f'"{_oid(data)}"', "X-Repo-Commit": repository.commit, "Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            return self._answer(200, data, cut_after=fault.after_bytes if fault else None, **headers)
        first, last = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1)
        if first >= len(data):
            return self._answer(416, b"", **{"Content-Range": f"bytes */{len(data)}"})
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        return self._answer(206, data[first : last + 1], cut_after=fault.after_bytes if fault else None, **headers)

    def _missing(self, kind: str, name: str) -> None:
        code = "RepoNotFound" if (kind, name) not in self.served.repositories else "RevisionNotFound"
        self._answer(404, b"{}", **{"X-Error-Code": code})

    def _json(self, value: Any) -> None:
        self._answer(200, json.dumps(value).encode(), **{"Content-Type": "application/json"})

    def _answer(self, status: int, body: bytes, cut_after: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body if cut_after is None else body[:cut_after])
        if cut_after is not None:
            self.close_connection = True


_API = re.compile(
    r"/api/(?P<kind>models|datasets)/(?P<name>[^/]+/[^/]+)"
    r"(?:/(?P<what>revision|tree)/(?P<revision>[^/]+)(?:/(?P<below>.*))?)?"
)
_RESOLVE = re.compile(r"/(?P<dataset>datasets/)?(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")


def _oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
