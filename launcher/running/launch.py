"""Carry out a LaunchPlan: code and environment to the host, then the run, which is there whole or not at all.

    upload ─▶ setup.sh ─▶ ledger: preparing ─▶ prepare beside ─▶ rename and start ─▶ ledger: running

A `gptops` that is killed between two of these leaves either a run that goes on
and that `gptops logs` finds, or files that nobody sees; the next `train` on that
host clears them up.
"""

from __future__ import annotations

from launcher.books.audit import audit
from launcher.books.budget import Limits, hours_left
from launcher.books.ledger import InstanceRow, RunRow
from launcher.checkpoints.restore import bring, restore
from launcher.commands import runs as commands
from launcher.crash import crashpoint
from launcher.errors import HostUnfit, NotVerified, Unreachable
from launcher.hosts.deadman import limit_run
from launcher.hosts.setup import run_setup
from launcher.lock import hold
from launcher.paths import RemoteRun
from launcher.remote.backoff import Backoff
from launcher.remote.transport import Command
from launcher.running.beginning import FOLDER
from launcher.running.launch_plan import LaunchPlan
from launcher.running.means import Means
from launcher.running.recorded import clear_up, make_home, mark, require_open, resolve, run_row
from launcher.running.status import Phase, RunStatus, status_of
from launcher.running.upload import upload
from launcher.sizes import size_text

_START_TRIES = 4
_PREPARE_SECONDS = 300.0


class JobRefused(HostUnfit):
    """Its scheduler did not take the job: nothing was started."""


def launch(plan: LaunchPlan, host: InstanceRow, means: Means) -> RunRow:
    """Bring everything to the host and start the run. When this returns, the run goes on whatever happens here."""
    means.ledger.record_transfer(host.label, "up", _upload(plan, means))
    crashpoint("train:uploaded")
    if plan.skip_setup:
        _say_what_is_there(plan, means)
    else:
        gpus = 0 if plan.slurm else plan.job.resources.gpus  # a login node has none, and no driver
        run_setup(means.transport, plan.setup, gpus=gpus, say=means.say)
    crashpoint("train:set_up")
    return start_run(plan, host, means)


def _upload(plan: LaunchPlan, means: Means) -> int:
    name = means.transport.host.name
    with means.progress(f"uploading to {name}", plan.code.total_bytes) as update:
        done = upload(means.transport, plan.project, plan.code, means.clock, update)
    means.say(f"uploaded {done.files:,} files ({size_text(done.bytes)}, {done.seconds:.1f} s) to `{name}`")
    return done.bytes


def _say_what_is_there(plan: LaunchPlan, means: Means) -> None:
    venv = plan.setup.venv
    if means.transport.run(Command(("test", "-x", str(venv / "bin" / "python")))).exit_code == 0:
        means.say(f"setup skipped; using what an earlier one made in {venv}")
    else:
        means.say("setup skipped and never done for this job; using the host's own python")


def start_run(plan: LaunchPlan, host: InstanceRow, means: Means) -> RunRow:
    """Record the intent, make the run beside its place, let it be found and start it, record the result."""
    with hold(means.state.start_lock(host.name), f"starts {plan.run_id} on {host.name}", means.clock):
        require_open(host, means.ledger)
        clear_up(host, means)
        row = _intended(plan, host, means)
        crashpoint("train:intended")
        try:
            prepare(plan, means)
            give_beginning(plan, host, means)
            limit(plan, host.price_per_hour, means)
        except (HostUnfit, NotVerified):
            resolve(row, RunStatus(Phase.ABSENT), means.transport, means.ledger)
            raise
        crashpoint("train:prepared")
        try:
            status = start_there(plan.remote, means)
        except JobRefused:
            resolve(row, RunStatus(Phase.ABSENT), means.transport, means.ledger)
            raise
        crashpoint("train:started")
        audit(means.state.audit_log, means.clock, "started", run=plan.run_id, host=host.name)
        if status.job is not None:
            means.say(f"submitted: {status.job.words()}")
        return mark(means.ledger, row, status)


def _intended(plan: LaunchPlan, host: InstanceRow, means: Means) -> RunRow:
    row = run_row(plan, host, means.clock)
    means.ledger.add_run(row)
    audit(means.state.audit_log, means.clock, "start", run=plan.run_id, host=host.name)
    make_home(plan)
    return row


def prepare(plan: LaunchPlan, means: Means) -> None:
    command = commands.prepare_run(plan.remote, plan.upload_target, plan.files())
    result = means.transport.run(command, timeout_seconds=_PREPARE_SECONDS)
    if result.exit_code != 0:
        name = means.transport.host.name
        raise HostUnfit(
            f"could not make the run's folder on `{name}`",
            why=result.stderr.strip() or f"the command ended with code {result.exit_code}",
            hint=f"gptops ssh {name} -- df -h .",
        )


def give_beginning(plan: LaunchPlan, host: InstanceRow, means: Means) -> None:
    """Give the run what it begins with and what it goes on from, while nobody can find it yet."""
    if plan.begin_from is not None:
        folder = plan.remote.preparing / FOLDER
        begun = bring(means.transport, plan.begin_from, folder, means.progress, means.clock)
        means.ledger.record_transfer(host.label, "up", begun.bytes)
        means.say(f"it begins from `{plan.begin_from.name}` of {plan.begin_from.parents[1].name}")
    if plan.resume_from is not None:
        done = restore(means.transport, plan.resume_from, plan.remote.preparing, means.progress, means.clock)
        means.ledger.record_transfer(host.label, "up", done.bytes)


def limit(plan: LaunchPlan, price_per_hour: float, means: Means) -> None:
    """The job's limits, kept by the host itself: this computer may be asleep when they are reached.

    `price_per_hour`: of all machines of the run together.
    """
    budget = plan.job.budget
    hours = hours_left(Limits(budget.max_usd, budget.max_hours), 0.0, 0.0, price_per_hour)
    if hours is not None:
        limit_run(means.transport, plan.remote, hours)
        means.say(f"`{means.transport.host.name}` stops the run itself after {hours:.1f} h, with time to save")


def start_there(run: RemoteRun, means: Means) -> RunStatus:
    """Start the run. An answer that got lost is asked for again: to start twice what is started does nothing."""
    backoff = Backoff(first_seconds=1.0)
    for tries_left in reversed(range(_START_TRIES)):
        try:
            result = means.transport.run(commands.start_run(run))
            break
        except Unreachable as error:
            if not tries_left:
                raise _unsure(run, error) from error
            means.clock.sleep(backoff.after_failure())
        except KeyboardInterrupt:
            means.say(f"`{run.run_id}` may have begun already: `gptops logs {run.run_id}` says")
            raise
    if result.exit_code != 0:
        name = means.transport.host.name
        why = result.stderr.strip() or f"run.sh ended with code {result.exit_code}"
        if result.exit_code == commands.REFUSED:
            hint = f"correct `slurm` of the host that was named, in jobs.yaml; gptops ssh {name} -- sinfo"
            raise JobRefused(f"Slurm on `{name}` refused the job", why=why, hint=hint)
        raise HostUnfit(f"`{name}` could not start the run", why=why, hint=f"gptops ssh {name}")
    return status_of(result, means.transport.host.name)


def _unsure(run: RemoteRun, error: Unreachable) -> Unreachable:
    return Unreachable(
        f"lost the host while it was told to start `{run.run_id}`",
        why=f"{error.what}; the run may or may not have begun",
        hint=f"gptops logs {run.run_id} -f   # says which, as soon as the host answers",
    )
