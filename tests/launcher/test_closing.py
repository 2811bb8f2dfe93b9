"""An end is believed only with a proof, and until then the row stays and says what bills."""

from __future__ import annotations

import pytest

from launcher.books.ledger import InstanceRow, InstanceState
from launcher.books.spending import spent
from launcher.errors import KeyRefused, StillOpen
from launcher.hosts.closing import end_instance
from tests.doubles.cloud import DROPPED, Reply
from tests.launcher.till import Till, till  # noqa: F401 (a fixture)

# ruff: noqa: F811 (the fixture's name is a test's argument)

DELETE = r"/instances/\d+"


def end(till: Till, row: InstanceRow) -> InstanceRow:
    return end_instance(row, till.provider, till.ledger, till.state, till.clock)


def test_a_machine_that_is_ended_is_closed_and_charges_no_more(till: Till) -> None:
    row = till.rent()
    till.clock.advance(3600)
    closed = end(till, row)
    assert closed.state is InstanceState.CLOSED
    assert till.vast.alive() == []
    charged = till.vast.dollars()
    till.clock.advance(100 * 3600)
    assert till.vast.dollars() == charged
    assert till.vast.meter.per_hour == 0
    assert spent(till.ledger, row.label, till.clock.now()).total >= charged, "never too little"


@pytest.mark.parametrize(
    ("scenario", "options"),
    [("destroy_limited", {"times": 2}), ("destroy_lingers", {"looks": 8}), ("destroy_gone", {})],
)
def test_what_a_provider_does_meanwhile_is_waited_for(till: Till, scenario: str, options: dict[str, int]) -> None:
    till.vast.script(scenario, **options)
    row = till.rent()
    assert end(till, row).state is InstanceState.CLOSED
    assert till.vast.alive() == []


@pytest.mark.parametrize("reply", [Reply(503, "<html>502 Bad Gateway</html>"), Reply(200, '{"succ'), DROPPED])
def test_a_destroy_without_an_answer_is_asked_again(till: Till, reply: object) -> None:
    row = till.rent()
    till.vast.fail("DELETE", DELETE, reply, times=3)  # type: ignore[arg-type]
    assert end(till, row).state is InstanceState.CLOSED
    assert till.vast.alive() == []


def test_a_machine_that_stays_is_said_with_id_price_and_page_and_the_row_stays(till: Till) -> None:
    till.vast.script("destroy_lingers", looks=10_000)
    row = till.rent()
    with pytest.raises(StillOpen) as raised:
        end(till, row)
    assert raised.value.what == f"`box` may still exist and bill ${row.price_per_hour:.2f} an hour"
    assert f"still lists {row.instance_id} after 180 s" in raised.value.why
    assert f"its id at `vast` is {row.instance_id}" in raised.value.why
    assert "gptops down box --discard; or by hand: https://cloud.vast.ai/instances/" in raised.value.hint
    assert till.states() == {"box": InstanceState.CLOSING}


def test_a_delete_that_said_yes_and_did_nothing_is_asked_again(till: Till) -> None:
    row = till.rent()
    till.vast.fail("DELETE", DELETE, Reply(200, {"success": True}), times=2)
    assert end(till, row).state is InstanceState.CLOSED
    assert till.vast.count("DELETE", DELETE) == 3
    assert till.vast.alive() == []


def test_a_provider_that_is_down_for_long_leaves_the_row_and_the_next_call_ends_it(till: Till) -> None:
    row = till.rent()
    till.vast.fail("GET", r"/instances", Reply(502, "<html>"), times=500)
    with pytest.raises(StillOpen, match="may still exist and bill"):
        end(till, row)
    assert till.states() == {"box": InstanceState.CLOSING}
    till.vast._faults.clear()
    assert end(till, till.ledger.instance(row.label)).state is InstanceState.CLOSED


def test_a_wrong_key_says_what_bills_on(till: Till, monkeypatch: pytest.MonkeyPatch) -> None:
    row = till.rent()
    monkeypatch.setenv("VAST_API_KEY", "wrong")
    with pytest.raises(KeyRefused, match="may still exist and bill") as raised:
        end(till, row)
    assert str(row.instance_id) in raised.value.why
    assert till.states() == {"box": InstanceState.CLOSING}


def test_an_intent_that_never_came_to_be_is_closed_and_costs_nothing(till: Till) -> None:
    row = till.intend()
    closed = end(till, row)
    assert (closed.state, closed.instance_id) == (InstanceState.CLOSED, None)
    assert spent(till.ledger, row.label, till.clock.now() + 3600).total == 0.0


def test_a_machine_that_arrives_while_its_intent_is_being_closed_is_found(till: Till) -> None:
    """The request to create it was still on its way when gptops was killed."""
    row = till.intend()

    class Late(type(till.clock)):  # type: ignore[misc]
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            if not till.vast.boxes:
                till.create(row.label)

    late = Late(till.clock.seconds)
    till.vast.time.follow(late)
    closed = end_instance(row, till.provider, till.ledger, till.state, late)
    assert closed.instance_id is not None, "what came to be has cost something"
    assert till.vast.alive() == []


def test_one_that_was_found_gone_after_its_deadline_is_counted_until_then(till: Till) -> None:
    row = till.rent()
    till.ledger.set_deadline(row.label, till.clock.now() + 3600)
    till.provider.destroy(str(row.instance_id))
    till.clock.advance(100 * 3600)
    assert end(till, till.ledger.instance(row.label)).closed_at == row.created_at + 3600
