"""What goes wrong when one rents at Vast, by name: `vast.script("create_reply_lost")`.

Numbers are those of the list of start-up failures that the double was built from:

     1 offer_taken            404, then 410                9 direct_filtered, proxy_dead
     2 show_blind             429, then null             10 wrong_gpus, broken_nvidia_smi, old_driver
     3 create_reply_lost      done, connection reset       11 moves        offline; `vast.resume(id)` brings it back
     4 error_with_contract    refused, and created         12 outbid       every running instance; `vast.resume(id)`
     5 loading_forever                                     13 destroy_limited, destroy_lingers, destroy_gone
     6 oci_error                                           14 price_changed
     7 ports_missing                                       15 strangers    more instances than a page holds
     8 sshd_late, key_missing                              16 credit_gone
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from tests.doubles.cloud import DROPPED
from tests.doubles.vast_api import CREATE, ONE, refusal, too_frequent

if TYPE_CHECKING:
    from tests.doubles.vast_cloud import VastCloud


def offer_taken(vast: VastCloud, *, times: int = 1, status: int | None = None) -> None:
    """The next creates find their offer gone; by turns in both of the vendor's ways, unless one is named."""
    for turn in range(times):
        code = status or (404, 410)[turn % 2]
        error = "invalid_args" if code == 404 else "no_such_ask"
        vast.fail("PUT", CREATE, refusal(code, error, f"error {code}/3603: no_such_ask is not available."))


def show_blind(vast: VastCloud, *, nulls: int = 2) -> None:
    """The next instance exists, but the first looks at it see a 429 and then nothing."""
    vast.next(shows=(too_frequent(2.0)[0], *[None] * nulls))


def create_reply_lost(vast: VastCloud, *, times: int = 1) -> None:
    """Created, and the connection is reset before the answer."""
    vast.fail("PUT", CREATE, DROPPED, times=times, when="after")


def create_request_lost(vast: VastCloud, *, times: int = 1) -> None:
    """Not created, and the connection is reset: the same to see."""
    vast.fail("PUT", CREATE, DROPPED, times=times)


def error_with_contract(vast: VastCloud) -> None:
    """The next create answers an error that names the instance it has made, stopped."""
    vast.errs_with_contract += 1


def loading_forever(vast: VastCloud) -> None:
    vast.next(stays="loading")


def oci_error(vast: VastCloud) -> None:
    vast.next(oci_error=True)


def ports_missing(vast: VastCloud, *, seconds: float = 20.0) -> None:
    """Running, and for a while nobody can say at which port."""
    vast.next(ports_after=seconds, sshd_after=seconds)


def sshd_late(vast: VastCloud, *, seconds: float = 45.0) -> None:
    """Running, and its sshd refuses."""
    vast.next(sshd_after=seconds)


def key_missing(vast: VastCloud) -> None:
    """No key of the account reaches the next instances: only those attached to them. The double's normal case."""
    vast.account_keys.clear()


def direct_filtered(vast: VastCloud) -> None:
    """Only Vast's proxy gets through."""
    vast.next(direct=False)


def proxy_dead(vast: VastCloud) -> None:
    """Only the direct way gets through."""
    vast.next(proxy=False)


def wrong_gpus(vast: VastCloud, *, gpus: tuple[str, ...] = ()) -> None:
    """nvidia-smi shows other GPUs than were rented; none at all where not said."""
    vast.next(gpus=gpus)


def broken_nvidia_smi(vast: VastCloud) -> None:
    vast.next(gpus="NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.")


def old_driver(vast: VastCloud, *, driver: str = "470.82.01") -> None:
    """Older than what the market's row promised."""
    vast.next(driver=driver)


def moves(vast: VastCloud) -> None:
    """Everything that runs goes offline now; `vast.resume(id)` brings one back at another port."""
    for name in vast.alive():
        vast.lose(name)


def outbid(vast: VastCloud) -> None:
    """Every bid is outbid now; `vast.resume(id)` gives one its machine back."""
    for name in vast.alive():
        if vast.box(name).bid is not None:
            vast.stop(name)


def destroy_limited(vast: VastCloud, *, times: int = 2) -> None:
    """The next destroys answer 429."""
    for turn in range(times):
        vast.fail("DELETE", ONE, too_frequent(3.0)[turn % 3])


def destroy_lingers(vast: VastCloud, *, looks: int = 3) -> None:
    """The next instance stays in the lists for a while after its end."""
    vast.next(lingers=looks)


def destroy_gone(vast: VastCloud) -> None:
    """The next destroy takes effect, and says that there was nothing."""
    vast.fail("DELETE", ONE, refusal(404, "no_such_instance", "error 404: no_such_instance"), when="after")


def price_changed(vast: VastCloud, *, factor: float = 1.5) -> None:
    """The next instance costs more than its offer said."""
    vast.next(price_factor=factor)


def strangers(vast: VastCloud, *, count: int = 30, label: str = "somebody-else") -> None:
    """Other instances of the account, without hosts."""
    for number in range(count):
        vast.new_box(vast.market[0], {"label": f"{label}-{number}", "disk": 8}, stays="loading")


def credit_gone(vast: VastCloud) -> None:
    """The credit is used up: everything stops now."""
    vast.credit = 0.0
    vast.settle()


SCENARIOS: Mapping[str, Callable[..., Any]] = {
    scenario.__name__: scenario
    for scenario in (
        offer_taken,
        show_blind,
        create_reply_lost,
        create_request_lost,
        error_with_contract,
        loading_forever,
        oci_error,
        ports_missing,
        sshd_late,
        key_missing,
        direct_filtered,
        proxy_dead,
        wrong_gpus,
        broken_nvidia_smi,
        old_driver,
        moves,
        outbid,
        destroy_limited,
        destroy_lingers,
        destroy_gone,
        price_changed,
        strangers,
        credit_gone,
    )
}
