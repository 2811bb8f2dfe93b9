"""One simulated errand: a user who types the same command until it is over, and what is true afterwards."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from launcher.books.ledger import InstanceRow, Ledger
from launcher.errors import GptopsError
from launcher.hosts.preflight_checks import Check, Verdict
from launcher.hosts.steps import Lines
from launcher.managed.errand import Errand, begin, going, read
from launcher.managed.loop import carry_out
from launcher.managed.outside import Outside, Wish
from launcher.paths import LocalRun, StatePaths
from launcher.project import find_project
from launcher.providers.base import Wanted
from launcher.providers.retrying import Retrying
from launcher.renting.market import RentRequest
from launcher.renting.renter import Renter
from launcher.running.tick import Talk
from launcher.spec.jobs_file import Jobs, load_jobs
from tests.launcher.checkpoint_maker import silent
from tests.launcher.simulated.cloud import Cloud
from tests.launcher.simulated.faults import Schedule
from tests.launcher.simulated.wire import Wire
from tests.launcher.simulated.world import START, Killed, World
from trainer import manifest

COMMANDS = 60
"""How often the user types it."""
AN_HOUR, A_DAY = 3600.0, 86400.0

JOB = """\
  {name}:
    stage: pretrain
    provider: vast
    resources: {{disk_gib: 1}}
    budget: {{max_usd: {max_usd}}}
    sync: {{every_seconds: 110}}
    train: {{train: {{max_steps: 20}}, schedule: {{warmup_steps: 2}}}}
"""


@dataclass
class Simulated:
    """Everything of one seed."""

    schedule: Schedule
    folder: Path
    keys: Path
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.world = World(self.schedule)
        self.state = StatePaths(self.folder / "state")
        self.root = (self.folder / "project").resolve()
        (self.root / "trainer").mkdir(parents=True)
        (self.root / "trainer" / "__init__.py").write_text("")
        self.names = [f"job{i}" for i in range(self.schedule.jobs)]
        usd = "null" if self.schedule.max_usd is None else str(self.schedule.max_usd)
        jobs = "".join(JOB.format(name=name, max_usd=usd) for name in self.names)
        (self.root / "jobs.yaml").write_text(f"jobs:\n{jobs}")
        shutil.copytree(self.keys, self.state.private_key.parent)
        self.world.is_safe = self.is_at_home
        self.jobs: Jobs = load_jobs(self.root / "jobs.yaml")

    def run(self) -> Errand:
        """Until it is over. Whatever else happens, the user comes back after an hour and types the same."""
        for _ in range(COMMANDS):
            self.world.alive = True
            try:
                errand = self._command()
            except Killed:
                self.say("-- killed")
            except GptopsError as error:
                if self.world.alive:
                    self.say(f"-- {type(error).__name__}: {error.what}: {error.why}")
                self.world.alive = True
                self.world.pass_time(AN_HOUR)
            else:
                if errand.is_over:
                    return errand
        raise AssertionError("it is not over")

    def _command(self) -> Errand:
        with self.ledger() as ledger:
            errand = going(ledger, self.root, self.names) or begin(ledger, self.root, self.names)
            self.errand_id = errand.errand_id
            return carry_out(errand, self._outside(ledger))

    @contextmanager
    def ledger(self) -> Iterator[Ledger]:
        """Open while gptops lives: nothing is written by a dead one."""
        with Books(self.state.ledger, self.world) as ledger:
            ledger.world = self.world
            yield ledger

    def _outside(self, ledger: Ledger) -> Outside:
        world = self.world
        cloud = Retrying(Cloud(world), world)
        talk = Talk(silent, lambda pulled: self.say(f"synced {pulled.name}"), self.say)

        def connect(host):  # type: ignore[no-untyped-def]
            return Wire(world, host, self.schedule.max_steps)

        def rent(wish: Wish) -> InstanceRow:
            renter = Renter(cloud, ledger, self.state, world, Lines(self.say, world), connect=connect)
            request = RentRequest(
                Wanted(), "tests", name=wish.name, limits=wish.limits, spent_usd=wish.spent_usd, hours=wish.hours
            )
            return renter.rent(request, None)

        def examine(row: InstanceRow, transport: object) -> list[Check]:
            verdict = Verdict.FAIL if world.strikes("unfit") else Verdict.PASS
            return [Check("all-reduce", verdict, "drawn")]

        return Outside(
            ledger=ledger, state=self.state, clock=world, project=find_project(self.root), jobs=self.jobs,
            environment={}, provider=lambda name: cloud, connect=connect, rent=rent, examine=examine,
            guard=lambda job, row, transport, hours: row, talk=talk, show=lambda view: self.say(view.line),
            notify=lambda news: None, skip_setup=True,
        )  # fmt: skip

    def say(self, text: str) -> None:
        line = f"{self.world.seconds - START:8.0f} s  {text}"
        if not self.said or self.said[-1].split("  ", 1)[1] != text:
            self.said.append(line)

    # What is true afterwards

    def is_at_home(self, run_id: str, text: str) -> bool:
        """Whether some run at home has this checkpoint, by every byte."""
        name = manifest.step_name(json.loads(text)["step"])
        for path in (self.root / "runs").glob(f"*/checkpoints/{name}"):
            try:
                if (path / manifest.FILE_NAME).read_text() == text and manifest.verify(path):
                    return True
            except manifest.BrokenCheckpoint:
                continue
        return False

    def violations(self, errand: Errand) -> list[str]:
        """Everything that may never be, and is."""
        found = list(self.world.violations)
        found += [f"{machine.label} is still there" for machine in self.world.living()]
        dollars = self.world.dollars
        self.world.pass_time(A_DAY)
        if self.world.dollars > dollars:
            found.append(f"${self.world.dollars - dollars:.2f} were spent after the end")
        with self.ledger() as ledger:
            found += [f"{row.name} is {row.state.value} in the ledger" for row in ledger.instances()]
            for run in ledger.runs():
                for row in ledger.checkpoints(run.run_id):
                    path = LocalRun(Path(run.local_root)).checkpoints / manifest.step_name(row.step)
                    if not path.exists() or manifest.verify(path).step != row.step:
                        found.append(f"{path} was at home and is not")
            errand = read(ledger.errand(errand.errand_id))
        return found + self._about_the_end(errand)

    def _about_the_end(self, errand: Errand) -> list[str]:
        assert errand.ending is not None
        if errand.ending.exit_code != 0:
            return [] if errand.ending.what else ["it failed without a reason"]
        if not errand.is_last:
            return ["it ended well before its last job"]
        local, last = LocalRun(self.root / "runs" / errand.run_id), self.schedule.max_steps
        found = []
        if not (local.checkpoints / manifest.step_name(last)).exists():
            found.append("the last checkpoint is not at home")
        curve = [json.loads(line)["step"] for line in local.metrics.read_text().splitlines()]
        if curve != list(range(1, last + 1)):
            found.append(f"the curve is {curve}")
        return found


class Books(Ledger):
    """The ledger of a gptops that may be dead: then nothing can be written to it any more."""

    world: World

    def _insert(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        self._require_life()
        return super()._insert(*args, **kwargs)

    def _update(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        self._require_life()
        return super()._update(*args, **kwargs)

    def _require_life(self) -> None:
        if not self.world.alive:
            raise Killed
