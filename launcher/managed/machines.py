"""An errand's machines: taken, looked over, given back. Each is recorded before it is asked for."""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path

from launcher.books.budget import hours_left
from launcher.books.ledger import InstanceRow, InstanceState
from launcher.checkpoints.home import is_verified
from launcher.checkpoints.parts import is_part_at_home
from launcher.checkpoints.remote_checkpoints import list_remote
from launcher.commands.checkpoints import verify_checkpoint
from launcher.crash import crashpoint
from launcher.errors import GptopsError, NotFound, NotVerified, PreflightFailed, ProviderError, StillOpen, Unreachable
from launcher.gpu_models import is_one_of
from launcher.hosts.closing import end_instance
from launcher.hosts.preflight_checks import Verdict
from launcher.lock import hold
from launcher.managed.errand import Errand
from launcher.managed.outside import Outside, Wish
from launcher.managed.patience import patiently
from launcher.paths import LocalRun, RemoteRun
from launcher.providers.base import Status
from launcher.providers.by_name import ends_together
from launcher.remote.transport import Transport
from launcher.spec.jobs import JobSpec
from trainer.manifest import step_name

RENT_SECONDS = 3600.0
"""How long the next machine is waited for where a provider has nothing now, or does not answer."""
END_SECONDS = 1800.0
"""How long a provider is asked to end a machine."""
ASK_SECONDS = 600.0
"""How long a machine is asked what it has alone, before it ends."""


def take(errand: Errand, outside: Outside) -> InstanceRow:
    """A machine for the job at work: the one at hand, the one a killed gptops had opened already, or a new one."""
    if errand.label:
        return outside.machine(errand)
    # The first machine is wanted now; later ones are waited for, because a training hangs on them.
    seconds = RENT_SECONDS if errand.moves else 0.0
    return patiently(lambda: _rented(errand, outside), outside.clock, seconds, outside.talk.notice)


def _rented(errand: Errand, outside: Outside) -> InstanceRow:
    found = _ended_or_open(errand, outside)
    if found is not None:
        return found
    try:
        return outside.rent(_wish(errand, outside))
    except StillOpen as error:
        _ended_or_open(errand, outside)
        cause = error.__cause__ if isinstance(error.__cause__, GptopsError) else error
        raise cause from None  # it is the cause of `error` already


def _ended_or_open(errand: Errand, outside: Outside) -> InstanceRow | None:
    """What stands in the books under the errand's name: open it is taken, all else is ended, and proven so."""
    try:
        return patiently(lambda: _left_open(errand, outside), outside.clock, END_SECONDS, outside.talk.notice)
    except ProviderError as error:
        raise StillOpen(error.what, why=error.why, hint=error.hint) from error


def _wish(errand: Errand, outside: Outside) -> Wish:
    return Wish(
        errand.host_name,
        errand.job,
        outside.job(errand),
        outside.limits(errand),
        outside.spent(errand),
        outside.hours(errand),
    )


def fits(row: InstanceRow, job: JobSpec, count: int = 1) -> bool:
    """Whether the machine of one job, or the `count` of its group, does for the next. None that bills stands idle."""
    wanted = job.resources
    model = is_one_of(row.gpu_name, wanted.gpu_names)
    if wanted.nodes > count or (wanted.nodes < count and row.price_per_hour > 0):
        return False
    return row.provider == job.provider and row.gpus >= wanted.gpus and (model or not wanted.gpus) and job.host is None


def are_all_there_is(errand: Errand, outside: Outside) -> bool:
    """Whether no market has others: a group of jobs.yaml is these machines, and ending them would only forget them."""
    row = outside.ledger.instance(errand.label) if errand.label else None
    return row is not None and row.provider == "ssh" and bool(row.group_name)


def look_over(row: InstanceRow, outside: Outside) -> None:
    """`test-remote`. Raises PreflightFailed where the machine would waste money."""
    with closing(outside.reached(row)) as transport:
        failed = [check for check in outside.examine(row, transport) if check.verdict is Verdict.FAIL]
        if failed:
            why = "; ".join(f"{check.name}: {check.found}" for check in failed)
            raise PreflightFailed(f"`{row.name}` fails {len(failed)} checks", why=why, hint=failed[0].todo)


def reached(row: InstanceRow, outside: Outside) -> Transport:
    """To the machine; where it is lost, to the next of its group, which can do without it. Raises NotFound."""
    others = [each for each in outside.ledger.group(row.group_name) if each.label != row.label]
    for other in others:
        try:
            return outside.reached(row)
        except NotFound:
            row = other
    return outside.reached(row)


def guard(row: InstanceRow, errand: Errand, outside: Outside, transport: Transport) -> None:
    """Set the moment at which the machine, and each of its group, ends itself by what the budget still pays for."""
    rows = outside.machines(errand)
    price = sum(each.price_per_hour for each in rows)
    left = hours_left(outside.limits(errand), outside.spent(errand), outside.hours(errand), price)
    if len(rows) == 1:
        outside.guard(outside.job(errand), row, transport, left)
        return
    for each in rows:
        if each.price_per_hour > 0:
            _guard_node(each, errand, outside, left)


def _guard_node(row: InstanceRow, errand: Errand, outside: Outside, hours: float | None) -> None:
    """One that does not answer is left out of the run that begins; what it has of a switch goes on."""
    try:
        with closing(outside.reached(row)) as transport:
            outside.guard(outside.job(errand), row, transport, hours)
    except (NotFound, Unreachable) as error:
        outside.talk.notice(f"{error.what}: {error.why}")


def give_up(row: InstanceRow, why: str, outside: Outside) -> None:
    """Remember a machine that failed, where the market tells one from another."""
    if row.machine_id:
        outside.ledger.ban_machine(row.provider, row.machine_id, why)


def end(errand: Errand, outside: Outside) -> None:
    """End the machine at work, proven. Raises NotVerified where it can be asked and has what is nowhere else."""
    if not errand.label:
        # Opening one failed, and perhaps even ending it again.
        _ended_or_open(errand, outside)
        return
    together: list[InstanceRow] = []
    for row in outside.machines(errand):
        if outside.is_login_node(row):
            outside.talk.notice(
                f"`{row.name}` stays open: nobody bills it, and `gptops down {row.name}` only forgets it"
            )
        elif ends_together(row.provider, row.group_name):
            together.append(row)
        else:
            _end_all([row], errand, outside)
    _end_all(together, errand, outside)


def _end_all(rows: list[InstanceRow], errand: Errand, outside: Outside) -> None:
    """Machines of which the first to end may end the others: all are held, and all looked at, before one ends."""
    left = [row for row in rows if row.state is not InstanceState.CLOSED]
    what = f"gptops run {errand.errand_id}"
    with ExitStack() as locks:
        for row in left:
            locks.enter_context(hold(outside.state.host_lock(row.name), what, outside.clock))
            locks.enter_context(hold(outside.state.start_lock(row.name), what, outside.clock))
        for row in left:
            if not errand.lost:
                _require_nothing_lost(row, errand, outside)
        for row in left:
            crashpoint("run:leaving")
            _end_one(row, outside)


def _end_one(row: InstanceRow, outside: Outside) -> None:
    provider = outside.provider(row.provider)
    patiently(
        lambda: end_instance(row, provider, outside.ledger, outside.state, outside.clock),
        outside.clock,
        END_SECONDS,
        outside.talk.notice,
    )


def _left_open(errand: Errand, outside: Outside) -> InstanceRow | None:
    """What a killed gptops had opened under the errand's name. Half opened or half ended, it is ended."""
    for row in outside.ledger.instances():
        if row.name != errand.host_name:
            continue
        if row.state is InstanceState.OPEN:
            return row
        with hold(outside.state.host_lock(row.name), "ending what an interrupted gptops left", outside.clock):
            provider = outside.provider(row.provider)
            end_instance(row, provider, outside.ledger, outside.state, outside.clock)
            outside.talk.notice(f"ended `{row.name}`, which an interrupted gptops had left {row.state.value}")
    return None


def _require_nothing_lost(row: InstanceRow, errand: Errand, outside: Outside) -> None:
    """Asked once more before the end. Everything was seen at home; a machine that went silent since then may go."""
    runs = outside.ledger.runs(instance_label=row.label)
    if not runs:
        return
    # A node that the newest run did without was lost before: nobody waits for it while the others bill.
    seconds = ASK_SECONDS if errand.run_id in {"", *(run.run_id for run in runs)} else 0.0
    try:
        alone = patiently(lambda: _asked(row, outside), outside.clock, seconds, outside.talk.notice)
    except Unreachable as error:
        outside.talk.notice(f"{error.what}; everything seen on `{row.name}` was at home, so it is ended")
        return
    if alone:
        raise NotVerified(
            f"`{row.name}` stays open: it has what is nowhere else",
            why=f"not verified at home: {', '.join(alone)}",
            hint=f"gptops down {row.name} --sync-first, or lose it: gptops down {row.name} --discard",
        )


def _asked(row: InstanceRow, outside: Outside) -> list[str]:
    instance = outside.instance(row)
    if instance is None or instance.status in (Status.STOPPED, Status.PREEMPTED, Status.FAILED):
        return []  # nobody can ask it any more
    with closing(outside.transport(row, instance)) as transport:
        return only_there(row, outside, transport)


def only_there(row: InstanceRow, outside: Outside, transport: Transport) -> list[str]:
    """Checkpoints that the machine has whole, by every byte, and home has not."""
    found = []
    for run in outside.ledger.runs(instance_label=row.label):
        folder = RemoteRun(run.run_id).checkpoints
        listing, local = list_remote(transport, folder), LocalRun(Path(run.local_root))
        parts = [part for part in listing.parts if not is_part_at_home(local, part)]
        for checkpoint in (*(each for each in listing.whole if not is_verified(local, each)), *parts):
            there = transport.run(verify_checkpoint(folder / checkpoint.name), timeout_seconds=600)
            if there.exit_code == 0:
                found.append(f"{step_name(checkpoint.step)} of `{run.run_id}`")
    return found
