"""An errand's runs: begun anew, gone on with elsewhere from what is at home, or started again where they crashed."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace

from launcher.books.ledger import InstanceRow, RunRow, RunState
from launcher.checkpoints.restore import VERIFY_SECONDS, adopt, newest_at_home
from launcher.commands import runs as commands
from launcher.commands.checkpoints import verify_checkpoint
from launcher.errors import HostUnfit, JobsError, NotFound
from launcher.managed.errand import Errand
from launcher.managed.outside import Outside
from launcher.nodes.choosing import most_nodes, open_group
from launcher.nodes.launching import NodesMeans, launch_on_nodes
from launcher.paths import RemoteRun
from launcher.remote.several import Several
from launcher.remote.transport import Transport
from launcher.running.connection import connection_to
from launcher.running.launch import launch
from launcher.running.launch_plan import LaunchPlan, new_run_id
from launcher.running.launch_request import LaunchRequest, plan_of
from launcher.running.means import Means
from launcher.running.recorded import mark
from launcher.running.status import Phase, RunStatus, read_status, status_of
from launcher.running.stop import settled
from launcher.spec.jobs_file import Jobs, resolve_train


def begun(errand: Errand, row: InstanceRow, outside: Outside, transport: Transport) -> RunStatus | None:
    """How the run at work is on this machine, or on those of its group, where a killed gptops may have started it.

    None where it is not there. What has begun on some of its nodes alone is ended.
    """
    try:
        run = outside.ledger.run(errand.run_id)
    except NotFound:
        return None
    here = {row.label, *(other.label for other in outside.ledger.group(row.group_name))}
    if here.isdisjoint(outside.ledger.machines(run)):
        return None
    with machines_of(run, row, outside, transport) as there:
        status = settled(run, read_status(there, RemoteRun(run.run_id)), there)
    if status.phase is Phase.ABSENT:
        return None
    if run.state is RunState.PREPARING:
        mark(outside.ledger, run, status)
    return status


def can_go_on(errand: Errand, outside: Outside, transport: Transport) -> bool:
    """Whether the run's own folder has the newest checkpoint whole. A restart from an older one would train steps
    again that are at home, and tear the curve between them."""
    newest = newest_at_home(outside.runs_at_home(errand))
    if newest is None:
        return True
    there = RemoteRun(errand.run_id).checkpoints / newest.name
    return transport.run(verify_checkpoint(there), timeout_seconds=VERIFY_SECONDS).exit_code == 0


def new_run(errand: Errand, outside: Outside) -> str:
    """Its name."""
    return new_run_id(errand.job, outside.clock.now(), secrets.token_hex(2))


def start(errand: Errand, row: InstanceRow, outside: Outside, transport: Transport) -> None:
    """Start the run at work, from the newest checkpoint at home where there is one."""
    rows = _nodes(errand, row, outside)
    # An open login node may stand in jobs.yaml several times: the job's own entry names its partition.
    host = (outside.job(errand).host if outside.is_login_node(row) else None) or row.name
    request = LaunchRequest(errand.job, host=host, skip_setup=outside.skip_setup, nodes=len(rows) or None)
    plan, _ = plan_of(
        request,
        start=outside.project.root,
        environment=outside.environment,
        ledger=outside.ledger,
        run_id=errand.run_id,
        choose=lambda _name, _count: rows,
    )
    plan = going_on(plan, errand, outside)
    talk = outside.talk
    with ExitStack() as stack:
        if len(rows) > 1:
            there = stack.enter_context(closing(Several([outside.reached(each) for each in rows])))
            launch_on_nodes(plan, rows, NodesMeans(there, outside.ledger, outside.state, outside.clock, talk.notice))
        else:
            if rows:
                [row], transport = rows, stack.enter_context(closing(outside.reached(rows[0])))
            means = Means(transport, outside.ledger, outside.state, outside.clock, talk.notice, talk.progress)
            launch(plan, row, means)
    if plan.resume_from is not None:
        adopt(plan.resume_from, plan.local)


def _nodes(errand: Errand, row: InstanceRow, outside: Outside) -> Sequence[InstanceRow]:
    """The machines of a job on several that answer now; none for a job on one."""
    count = outside.job(errand).resources.nodes
    if count == 1 or outside.is_login_node(row):
        return ()
    there = most_nodes(open_group(outside.ledger, row.group_name), count, outside.state, outside.clock)
    rows = there[: nodes_that_divide(errand.job, outside.jobs, len(there))]
    if len(rows) < count:
        odd = f", and the batch does not divide over {len(there)}" if len(rows) < len(there) else ""
        outside.talk.notice(
            f"going on with the rest, {', '.join(each.name for each in rows)}: {count} were wanted{odd}"
        )
    return rows


def nodes_that_divide(job_name: str, jobs: Jobs, most: int) -> int:
    """The largest number of nodes, `most` of them or fewer, over which the job's batch divides evenly."""
    job = jobs.job(job_name)
    for count in range(most, 1, -1):
        resources = job.resources.model_copy(update={"nodes": count})
        try:
            resolve_train(job.model_copy(update={"resources": resources}), job_name, jobs)
            return count
        except JobsError:
            continue  # with fewer it may
    return 1


@contextmanager
def machines_of(run: RunRow, row: InstanceRow, outside: Outside, transport: Transport) -> Iterator[Transport]:
    """A connection to every machine of the run: the one at hand, where it is on `row` alone."""
    if outside.ledger.machines(run) == [row.label]:
        yield transport
        return
    with closing(connection_to(run, outside.ledger, outside.state, outside.clock)) as there:
        yield there


def going_on(plan: LaunchPlan, errand: Errand, outside: Outside) -> LaunchPlan:
    """The plan, from the newest checkpoint of the job that is whole at home."""
    newest = newest_at_home(outside.runs_at_home(errand))
    if newest is None:
        return plan
    outside.talk.notice(f"going on from `{newest.name}` of {newest.parent.parent.name}")
    return replace(plan, resume_from=newest, config=plan.config.model_copy(update={"resume": "must"}))


def start_again(errand: Errand, transport: Transport) -> None:
    """Start the meant attempt in its folder, which has its newest checkpoints. Started already is success."""
    result = transport.run(commands.restart_run(RemoteRun(errand.run_id), errand.attempt))
    if result.exit_code != 0:
        name = transport.host.name
        why = result.stderr.strip() or f"run.sh ended with code {result.exit_code}"
        raise HostUnfit(f"`{name}` could not start the run again", why=why, hint=f"gptops ssh {name}")
    status_of(result, transport.host.name)


def newest_step(errand: Errand, outside: Outside) -> int:
    """Of the job at work at home, by the books; -1 where there is none."""
    steps = [row.step for run_id in errand.runs for row in outside.ledger.checkpoints(run_id)]
    return max(steps, default=-1)
