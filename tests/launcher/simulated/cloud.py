"""A market in memory, keeping the Provider contract: offers, machines, and all the ways in which its API may answer."""

from __future__ import annotations

from launcher.errors import MayHaveCreated, OfferGone, ProviderDown, ProviderError, RateLimited
from launcher.providers.base import CreateRequest, Instance, Offer, OffSwitch, Status, Wanted
from tests.launcher.simulated.world import BOOT_SECONDS, DISK_PRICE, PRICE, Machine, World

HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHNpbXVsYXRlZC1ob3N0LWtleS0wMTIzNDU2Nzg5MDEyMzQ="


class Cloud:
    """Sells machines of the world."""

    name = "vast"
    off_switch = OffSwitch.NONE

    def __init__(self, world: World) -> None:
        self._world = world

    def console_url(self, instance_id: str) -> str:
        return ""

    def offers(self, wanted: Wanted) -> list[Offer]:
        self._ask()
        count = len(self._world.machines)
        return [
            Offer(
                "vast", f"o{count + i}", f"machine {count + i}", 0, "", PRICE + DISK_PRICE + i / 10,
                disk_per_hour=DISK_PRICE, machine_id=f"m{count + i}", ready_within_seconds=600.0,
            )
            for i in range(3)
        ]  # fmt: skip

    def create(self, offer: Offer, request: CreateRequest) -> Instance:
        world = self._world
        self._ask()
        if world.strikes("offer-gone"):
            raise OfferGone("the offer is gone")
        if world.strikes("create-refused"):
            raise ProviderError("refused", why="no credit left")
        machine = Machine(
            f"i{len(world.machines) + 1}", request.label, offer.price_per_hour, world.seconds, offer.machine_id,
            is_dead=world.strikes("dead"),
        )  # fmt: skip
        world.machines[machine.instance_id] = machine
        if world.strikes("create-lost"):
            raise MayHaveCreated("no answer to create", why="connection reset")
        if world.strikes("create-half"):
            raise MayHaveCreated("an error with a contract", why="no_ssh", instance_id=machine.instance_id)
        world.after()
        return self._instance(machine)

    def authorize(self, instance_id: str, public_key: str) -> None:
        self._ask()

    def get(self, instance_id: str) -> Instance | None:
        self._ask()
        machine = self._world.machines.get(instance_id)
        return self._instance(machine) if machine is not None and self._is_listed(machine) else None

    def labelled(self, prefix: str) -> list[Instance]:
        self._ask()
        listed = [machine for machine in self._world.machines.values() if self._is_listed(machine)]
        return [self._instance(machine) for machine in listed if machine.label.startswith(prefix)]

    def destroy(self, instance_id: str) -> None:
        self._ask()
        machine = self._world.machines.get(instance_id)
        if machine is None or machine.listed != -1:
            return
        self._world.destroy(machine)
        if self._world.strikes("destroy-slow"):
            machine.listed = 4
        if self._world.strikes("destroy-lost"):
            raise ProviderDown("no answer to destroy", why="timeout")
        self._world.after()

    def _ask(self) -> None:
        self._world.call()
        self._world.pass_time(0.5)
        if self._world.on("api-down") or self._world.on("all-down"):
            raise ProviderDown("the API does not answer", why="502")
        if self._world.on("api-limits"):
            raise RateLimited("asked too often", retry_after_seconds=20.0)

    def _is_listed(self, machine: Machine) -> bool:
        if machine.listed > 0:
            machine.listed -= 1
            return True
        return machine.listed == -1

    def _instance(self, machine: Machine) -> Instance:
        booting = self._world.seconds < machine.created_at + BOOT_SECONDS
        status = Status(machine.status) if machine.status != "running" or not booting else Status.STARTING
        return Instance(
            machine.instance_id, machine.label, status, () if booting else (machine.address(),), machine.price,
            host_key=HOST_KEY, machine_id=machine.machine_id, disk_per_hour=DISK_PRICE,
        )  # fmt: skip
