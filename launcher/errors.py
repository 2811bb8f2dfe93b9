"""Everything a user, a network or a machine can do wrong, as one family of errors.

    GptopsError
    ├── UsageError           an argument that names nothing, or several things          2
    ├── JobsError            jobs.yaml or a training configuration is wrong             3
    ├── NotFound             no such host, run, job or checkpoint                        4
    ├── Unreachable          no SSH connection: network, port, timeout                   5
    ├── HostRefused          SSH answered and refused: wrong key, changed host key       6
    │   └── LoginRefused     it does not take our key (yet)
    ├── HostUnfit            a tool, a GPU, disk or permission is missing on the host    7
    ├── SetupFailed          setup.sh ended with an error                                8
    ├── RunFailed            the training ended with an error on the host                9
    ├── NotVerified          a checkpoint is not (yet) safe at home                     10
    ├── Busy                 another gptops holds the lock                              11
    ├── LocalFault           disk, permission or a missing program on this machine      12
    ├── ProviderError        a provider refused, or an end could not be proven          13
    │   ├── OfferGone        somebody else took it; the next one may do
    │   ├── MayHaveCreated   an answer to `create` after which a machine may bill
    │   ├── NeverReady       a rented machine that will not become what was asked for; it is ended
    │   ├── StillOpen        a machine could not be ended: it may bill
    │   ├── RateLimited      asked too often
    │   └── ProviderDown     no answer, or a gateway's
    ├── PreflightFailed      `test-remote` found something that would waste money       14
    ├── OverBudget           it would cost more than was allowed                        15
    ├── NoOffer              nothing on offer fits                                      16
    └── KeyRefused           no API key, a wrong one, or one that may not do this       17

Each says what happened, why, and the command to type next, as fields, so that
the console can lay them out and a test can read each. Anything else that
escapes is a bug of ours.
"""

from __future__ import annotations

import enum


class ExitCode(enum.IntEnum):
    """What `gptops` answers to the shell. The table for users is docs/exit-codes.md."""

    OK = 0
    BUG = 1
    USAGE = 2
    JOBS = 3
    NOT_FOUND = 4
    UNREACHABLE = 5
    HOST_REFUSED = 6
    HOST_UNFIT = 7
    SETUP_FAILED = 8
    RUN_FAILED = 9
    NOT_VERIFIED = 10
    BUSY = 11
    LOCAL_FAULT = 12
    PROVIDER = 13
    PREFLIGHT = 14
    BUDGET = 15
    NO_OFFER = 16
    KEY = 17
    STOPPED = 75
    """No error: an attached run was asked to stop, and did. The trainer's own code for it."""
    INTERRUPTED = 130


class GptopsError(Exception):
    """What happened, why, and the command to type next. One line each, lower case, no full stop."""

    exit_code = ExitCode.BUG

    def __init__(self, what: str, *, why: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.hint = hint


class UsageError(GptopsError):
    """An argument that names nothing, or several things."""

    exit_code = ExitCode.USAGE


class JobsError(GptopsError):
    """jobs.yaml, or the training configuration of a job, is wrong."""

    exit_code = ExitCode.JOBS


class NotFound(GptopsError):
    """There is no such host, run, job or checkpoint."""

    exit_code = ExitCode.NOT_FOUND


class Unreachable(GptopsError):
    """No SSH connection could be made or kept. Trying again later may help."""

    exit_code = ExitCode.UNREACHABLE


class HostRefused(GptopsError):
    """SSH answered and refused: wrong key, or a host key that is not the pinned one. Trying again will not help."""

    exit_code = ExitCode.HOST_REFUSED


class LoginRefused(HostRefused):
    """The host does not take our key. On a rented machine the provider may still be about to put it there."""


class HostUnfit(GptopsError):
    """The host lacks what the run needs: a tool, a GPU, disk space, a permission."""

    exit_code = ExitCode.HOST_UNFIT


class SetupFailed(GptopsError):
    """setup.sh ended with an error."""

    exit_code = ExitCode.SETUP_FAILED


class RunFailed(GptopsError):
    """The training ended with an error on the host."""

    exit_code = ExitCode.RUN_FAILED


class NotVerified(GptopsError):
    """A checkpoint is not, or not yet, verified at home."""

    exit_code = ExitCode.NOT_VERIFIED


class Busy(GptopsError):
    """Another gptops process holds the lock; the text says who, since when and for what."""

    exit_code = ExitCode.BUSY


class LocalFault(GptopsError):
    """This machine lacks disk space, a permission or a program."""

    exit_code = ExitCode.LOCAL_FAULT


class ProviderError(GptopsError):
    """A provider refused, answered nonsense, or an end could not be proven."""

    exit_code = ExitCode.PROVIDER


class PreflightFailed(GptopsError):
    """`test-remote` found something that would waste money."""

    exit_code = ExitCode.PREFLIGHT


class OfferGone(ProviderError):
    """The offer is no longer to be had. Nothing was created; the next one may do."""


class MayHaveCreated(ProviderError):
    """`create` ended in a way after which a machine may exist and bill: a lost answer, or an error that names one."""

    def __init__(
        self,
        what: str,
        *,
        why: str = "",
        hint: str = "",
        instance_id: str | None = None,
        within_seconds: float | None = None,
    ) -> None:
        super().__init__(what, why=why, hint=hint)
        self.instance_id = instance_id
        """The provider's id where the answer told one; else only the label can find it."""
        self.within_seconds = within_seconds
        """How long it may take to turn up, where that is known."""


class NeverReady(ProviderError):
    """A rented machine that is not, or will not become, what was asked for. The next one may do."""

    def __init__(self, what: str, *, why: str = "", hint: str = "", is_the_markets: bool = False) -> None:
        super().__init__(what, why=why, hint=hint)
        self.is_the_markets = is_the_markets
        """Price or bid, not the machine: it may do another time."""


class StillOpen(ProviderError):
    """A machine could not be ended, or not proven gone: it may bill. Nothing more is rented before it is."""


class RateLimited(ProviderError):
    """Asked too often. Nothing was done."""

    def __init__(self, what: str, *, why: str = "", hint: str = "", retry_after_seconds: float | None = None) -> None:
        super().__init__(what, why=why, hint=hint)
        self.retry_after_seconds = retry_after_seconds
        """What the provider said; `math.inf` where trying again today is useless; None where it said nothing."""


class ProviderDown(ProviderError):
    """No answer, or a gateway's: the request may or may not have arrived. Reads and `destroy` may be tried again."""


class OverBudget(GptopsError):
    """It would cost more than was allowed."""

    exit_code = ExitCode.BUDGET


class NoOffer(GptopsError):
    """Nothing on offer fits; the text says which condition left out how many."""

    exit_code = ExitCode.NO_OFFER


class KeyRefused(GptopsError):
    """There is no API key, or the provider does not take it, or it may not do this."""

    exit_code = ExitCode.KEY
