"""A connection to a machine of the world, keeping the Transport contract; it understands what gptops types there."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from launcher.errors import HostRefused, HostUnfit, LocalFault, Unreachable
from launcher.remote.host import Host
from launcher.remote.rsync import OnProgress, RsyncOutcome
from launcher.remote.transport import Command, Result
from tests.launcher.simulated.world import Machine, Training, World

OK = Result(0, "", "")


@dataclass
class Said:
    """The output of one command."""

    output: bytes
    is_cut: bool = False

    def read(self, most: int) -> bytes:
        piece, self.output = self.output[:most], self.output[most:]
        return piece

    def exit_code(self) -> int | None:
        return None if self.is_cut else 0


class Wire:
    """To whatever machine is at the host's address now."""

    rsh = "nobody calls rsync here"

    def __init__(self, world: World, host: Host, max_steps: int) -> None:
        self.host = host
        self._world = world
        self._max_steps = max_steps

    def close(self) -> None:
        pass

    def ssh_argv(self, command: Command | None = None, *, tty: bool = False) -> list[str]:
        raise AssertionError("the simulation has no OpenSSH")

    def run(self, command: Command, *, timeout_seconds: float = 60.0) -> Result:
        machine = self._reach(timeout_seconds)
        result = self._done(machine, command)
        if self._world.strikes("lost-answer"):
            raise Unreachable("lost the host during a command", why="cut")
        self._world.after()
        return result

    @contextmanager
    def stream(self, command: Command) -> Iterator[Said]:
        machine = self._reach(60.0)
        run = machine.runs.get(command.argv[1].split("/")[1])
        assert command.argv[2] == "log", command
        yield Said((run.log if run else "").encode()[int(command.argv[3]) :])

    def push(
        self, files: Sequence[str], source: Path, target: PurePosixPath, *, on_progress: OnProgress | None = None
    ) -> RsyncOutcome:
        machine = self._reach(600.0)
        for name in files:
            if self._world.strikes("cut-push"):
                raise Unreachable("the connection broke", why="cut")
            content = (source / name).read_bytes()
            if "checkpoints" in target.parts and self._world.strikes("corrupt-push"):
                content = b"corrupted"
            machine.files[str(target / name)] = content
        if self._world.on("host-full"):
            raise HostUnfit("the disk is full on the host", why="No space left on device")
        return RsyncOutcome(len(files), 0)

    def pull(
        self,
        files: Sequence[str],
        source: PurePosixPath,
        target: Path,
        *,
        on_progress: OnProgress | None = None,
        lock: int | None = None,
        temporary: Path | None = None,
    ) -> RsyncOutcome:
        machine = self._reach(600.0)
        for name in files:
            content = machine.files.get(str(source / name))
            if content is None:
                if temporary is not None:
                    continue
                raise HostUnfit("rsync could not copy everything", why=f"no file {name}")
            if self._world.on("home-full") and temporary is None:
                raise LocalFault("the disk is full here", why="No space left on device")
            if temporary is None and self._world.strikes("cut-pull"):
                raise Unreachable("the connection broke during the transfer", why="cut")
            if temporary is None and self._world.strikes("corrupt-pull"):
                content = b"x" * len(content)
            (target / name).write_bytes(content)
        return RsyncOutcome(len(files), 0)

    def _reach(self, timeout_seconds: float) -> Machine:
        world = self._world
        world.call()
        world.pass_time(0.2)
        for machine in world.living():
            if machine.address() in self.host.addresses and world.is_up(machine):
                if world.on("ssh-refused"):
                    raise HostRefused("the host key has changed", why="another machine")
                if not world.on("ssh-down") and not world.on("all-down"):
                    return machine
        world.pass_time(min(15.0, timeout_seconds))
        raise Unreachable("could not reach the host", why="timed out")

    # What is typed there

    def _done(self, machine: Machine, command: Command) -> Result:
        argv = command.argv
        if argv[0] == "python3":
            return self._manifest_program(machine, argv[3:])
        if argv[0] == "sh" and argv[1].endswith("run.sh"):
            return self._run_script(machine, argv)
        if argv[0] == "sh" and "tar -xf" in argv[2] and "code" in argv[2]:
            return self._prepare(machine, argv[4], command.stdin)
        if argv[0] == "sh" and "was not prepared" in argv[2]:
            return self._start(machine, argv[4], argv[5])
        if argv[0] == "sh" and "rmdir" in argv[2] and "mv" in argv[2]:
            self._move(machine, argv[4], argv[5])
        if argv[:2] == ("rm", "-rf"):
            self._remove(machine, argv[3])
        return Result(1, "", "") if argv[0] == "test" else OK

    def _prepare(self, machine: Machine, folder: str, stdin: bytes) -> Result:
        if self._world.on("host-full"):
            return Result(1, "", "tar: No space left on device")
        self._remove(machine, folder)
        with tarfile.open(fileobj=io.BytesIO(stdin)) as archive:
            for entry in archive:
                file = archive.extractfile(entry)
                assert file is not None
                machine.files[f"{folder}/{entry.name}"] = file.read()
        return OK

    def _start(self, machine: Machine, preparing: str, root: str) -> Result:
        self._move(machine, preparing, root)
        run_id = root.split("/")[1]
        if f"{root}/run.sh" not in machine.files:
            return Result(69, "", "the run was not prepared")
        run = machine.runs.setdefault(run_id, Training(run_id, self._max_steps))
        self._world.begin(machine, run, 1)
        return self._status(run)

    def _run_script(self, machine: Machine, argv: tuple[str, ...]) -> Result:
        run = machine.runs.get(argv[1].split("/")[1])
        if run is None:
            return Result(2, "", f"sh: 0: cannot open {argv[1]}: run.sh")
        if argv[2] == "start":
            self._world.begin(machine, run, int(argv[3]))
        if argv[2] == "stop":
            self._world.pass_time(20.0)
            self._world.stop(machine, run)
        return self._status(run)

    def _status(self, run: Training) -> Result:
        facts = {
            "phase": "running" if run.phase == "lost" else run.phase,
            "attempt": run.attempt,
            "exit_code": "" if run.exit_code is None else run.exit_code,
            "stop_requested": 1 if run.stop_requested else "",
            "alive": "yes" if run.phase == "running" else "no",
            "step": run.step or "",
            "end": "yes",
        }
        return Result(0, "".join(f"{name}={value}\n" for name, value in facts.items()), "")

    def _manifest_program(self, machine: Machine, words: tuple[str, ...]) -> Result:
        verb, folder = words[0], words[1]
        if verb == "list":
            rows = []
            for path in sorted(machine.files):
                if path.startswith(f"{folder}/step_") and path.endswith("/MANIFEST.json"):
                    rows.append({"name": path.split("/")[-2], "manifest": machine.files[path].decode()})
            return Result(0, json.dumps(rows) + "\n", "")
        text = machine.files.get(f"{folder}/MANIFEST.json")
        if verb == "remove":
            run_id = folder.split("/")[1]
            if text is not None and not self._world.is_safe(run_id, text.decode()):
                self._world.violations.append(f"{folder} was removed on the host, and is not at home")
            self._remove(machine, folder)
            return OK
        return OK if text is not None and machine.is_whole(folder, text.decode()) else Result(1, "", "it is damaged")

    def _move(self, machine: Machine, source: str, target: str) -> None:
        for path in [path for path in machine.files if path.startswith(f"{source}/")]:
            machine.files[target + path.removeprefix(source)] = machine.files.pop(path)

    def _remove(self, machine: Machine, folder: str) -> None:
        for path in [path for path in machine.files if path.startswith(f"{folder}/")]:
            del machine.files[path]
