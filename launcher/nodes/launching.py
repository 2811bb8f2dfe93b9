"""Start one run on several nodes: everything is done on all of them at once, and it runs on all of them or on none.

upload, setup ─▶ alike? ─▶ met? ─▶ ledger: preparing ─▶ prepare beside ─▶ same code? ─▶ start ─▶ ledger: running
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace

from launcher.books.audit import audit
from launcher.books.ledger import InstanceRow, Ledger, NodeRow, RunRow
from launcher.clock import Clock
from launcher.commands import nodes as node_commands
from launcher.crash import crashpoint
from launcher.errors import GptopsError, HostUnfit
from launcher.hosts.setup import run_setup
from launcher.lock import hold
from launcher.nodes.facts import ask, require_alike
from launcher.nodes.looking import Look, look_at
from launcher.nodes.meeting import Meeting, meet, order_of
from launcher.paths import StatePaths
from launcher.remote.several import Several
from launcher.remote.together import together
from launcher.running.launch import give_beginning, limit, prepare, start_there
from launcher.running.launch_plan import LaunchPlan
from launcher.running.means import Means
from launcher.running.recorded import clear_up, make_home, mark, require_open, resolve, run_row
from launcher.running.status import Phase, RunStatus, status_of_nodes
from launcher.running.stop import end_start
from launcher.running.upload import Uploaded, upload
from launcher.sizes import size_text


@dataclass(frozen=True)
class NodesMeans:
    """What starting needs besides the plan. `several` has the nodes' connections in the order of the rows."""

    several: Several
    ledger: Ledger
    state: StatePaths
    clock: Clock
    say: Callable[[str], None]

    def reordered(self, order: Sequence[int]) -> NodesMeans:
        """The same with the nodes in another order."""
        return replace(self, several=Several([self.several.nodes[node] for node in order]))

    @contextmanager
    def of(self, node: int) -> Iterator[Means]:
        """For one node, in a thread: with a ledger of its own, and its name before what it says."""
        transport = self.several.nodes[node]
        name = transport.host.name
        with Ledger(self.state.ledger, self.clock) as ledger:
            say = lambda line: self.say(f"{name}: {line}")  # noqa: E731
            yield Means(transport, ledger, self.state, self.clock, say, lambda *_: nullcontext(lambda _done: None))


def launch_on_nodes(plan: LaunchPlan, rows: Sequence[InstanceRow], means: NodesMeans) -> tuple[RunRow, Several]:
    """Bring everything to the nodes and start the run on all. Returns it with its nodes in their order."""
    names = means.several.names
    uploads = together(names, lambda node: _made_ready(plan, node, means))
    for row, done in zip(rows, uploads, strict=True):
        means.ledger.record_transfer(row.label, "up", done.bytes)
    crashpoint("train:set_up")
    nodes = means.several.nodes
    insides = [row.inside or _ssh_host(row) for row in rows]
    looks = look_at(nodes, insides, plan.setup.venv, plan.job.resources.rendezvous_port, means.clock)
    require_alike(names, [look.facts for look in looks])
    order = order_of([look.place for look in looks])
    rows, means = [rows[node] for node in order], means.reordered(order)
    with ExitStack() as locks:
        for row in sorted(rows, key=lambda each: each.name):
            what = f"starts {plan.run_id} on {row.name}"
            locks.enter_context(hold(means.state.start_lock(row.name), what, means.clock))
        return _start_on_nodes(plan, rows, [looks[node] for node in order], means), means.several


def _made_ready(plan: LaunchPlan, node: int, means: NodesMeans) -> Uploaded:
    with means.of(node) as own:
        done = upload(own.transport, plan.project, plan.code, own.clock)
        own.say(f"uploaded {done.files:,} files ({size_text(done.bytes)}, {done.seconds:.1f} s)")
        if not plan.skip_setup:
            run_setup(own.transport, plan.setup, gpus=plan.job.resources.gpus, say=own.say)
        return done


def _ssh_host(row: InstanceRow) -> str:
    """The machine's name or address for SSH: `10.0.0.1` of `root@10.0.0.1:22`."""
    return row.address.rpartition("@")[2].rpartition(":")[0].strip("[]")


def _start_on_nodes(plan: LaunchPlan, rows: Sequence[InstanceRow], looks: Sequence[Look], means: NodesMeans) -> RunRow:
    names = means.several.names
    places, port = [look.place for look in looks], looks[0].port
    for node, row in enumerate(rows):
        require_open(row, means.ledger)
        with means.of(node) as own:
            clear_up(row, replace(own, ledger=means.ledger))
    run = _intended(plan, rows, means)
    crashpoint("train:intended")
    try:
        meet(means.several.nodes, places, port)
        meeting = Meeting(tuple(places), port)
        price = sum(row.price_per_hour for row in rows)
        prepared = lambda node: _prepared(_for_node(plan, meeting, node), rows[node], node, means, price)  # noqa: E731
        _require_same_code(plan, names, together(names, prepared))
        crashpoint("train:prepared")
        status = _all_started(plan, means)
    except GptopsError:
        _undo(run, plan, means)
        raise
    crashpoint("train:started")
    audit(means.state.audit_log, means.clock, "started", run=plan.run_id, host=", ".join(names))
    means.say(f"{len(rows)} nodes met at {meeting.endpoint}, over {', '.join({place.interface for place in places})}")
    return mark(means.ledger, run, status)


def _for_node(plan: LaunchPlan, meeting: Meeting, node: int) -> LaunchPlan:
    environment = {**plan.start.environment, **meeting.environment(node)}
    return replace(plan, start=replace(plan.start, environment=environment))


def _intended(plan: LaunchPlan, rows: Sequence[InstanceRow], means: NodesMeans) -> RunRow:
    run = run_row(plan, rows[0], means.clock)
    nodes = [NodeRow(run.run_id, number, row.name, row.label) for number, row in enumerate(rows)]
    means.ledger.add_run(run, nodes)
    audit(means.state.audit_log, means.clock, "start", run=run.run_id, host=", ".join(row.name for row in rows))
    make_home(plan)
    return run


def _prepared(plan: LaunchPlan, row: InstanceRow, node: int, means: NodesMeans, price_per_hour: float) -> str:
    """One hash over the code that will run there."""
    with means.of(node) as own:
        prepare(plan, own)
        give_beginning(plan, row, own)
        limit(plan, price_per_hour, own)
        return str(ask(own.transport, node_commands.code(plan.remote.preparing / "code")).get("sha256"))


def _require_same_code(plan: LaunchPlan, names: Sequence[str], hashes: Sequence[str]) -> None:
    """rsync goes by size and time: what somebody changed by hand on one host would stay there unseen."""
    odd = [name for name, found in zip(names, hashes, strict=True) if found != hashes[0]]
    if odd:
        raise HostUnfit(
            f"the code on {', '.join(f'`{name}`' for name in odd)} is not the code on `{names[0]}`",
            why=f"files in {plan.upload_target} were changed on one of them after the upload",
            hint=" ; ".join(f"gptops ssh {name} -- rm -r {plan.upload_target}" for name in (names[0], *odd)),
        )


def _all_started(plan: LaunchPlan, means: NodesMeans) -> RunStatus:
    """Raises the error of the node that did not start; the caller stops the others."""

    def start(node: int) -> RunStatus:
        with means.of(node) as own:
            status = start_there(plan.remote, own)
        crashpoint("train:node_started")
        return status

    return status_of_nodes(means.several.names, together(means.several.names, start))


def _undo(run: RunRow, plan: LaunchPlan, means: NodesMeans) -> None:
    """What started ends, what was prepared goes."""
    end_start(means.several, plan.remote)
    resolve(run, RunStatus(Phase.ABSENT), means.several, means.ledger)
