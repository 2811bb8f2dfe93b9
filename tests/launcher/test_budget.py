"""Limits: what is refused before it costs, and how far away a limit is."""

from __future__ import annotations

import pytest

from launcher.books.budget import Limits, Live, hours_left, reached, require_room
from launcher.errors import ExitCode, OverBudget


@pytest.mark.parametrize(
    ("limits", "spent_usd", "hours", "price", "left"),
    [
        (Limits(), 1e9, 1e9, 10.0, None),
        (Limits(max_usd=20), 0.0, 0.0, 2.0, 10.0),
        (Limits(max_usd=20), 15.0, 0.0, 2.0, 2.5),
        (Limits(max_usd=20), 25.0, 0.0, 2.0, 0.0),
        (Limits(max_usd=20), 5.0, 0.0, 0.0, None),  # what costs nothing spends nothing
        (Limits(max_usd=20), 20.0, 0.0, 0.0, 0.0),
        (Limits(max_hours=3), 0.0, 1.0, 2.0, 2.0),
        (Limits(max_usd=20, max_hours=3), 0.0, 0.0, 10.0, 2.0),
        (Limits(max_usd=20, max_hours=3), 0.0, 0.0, 1.0, 3.0),
        (Limits(max_usd=20, max_hours=3), 0.0, 4.0, 1.0, 0.0),
    ],
)
def test_the_nearest_limit_counts(
    limits: Limits, spent_usd: float, hours: float, price: float, left: float | None
) -> None:
    assert hours_left(limits, spent_usd, hours, price) == left


def test_a_budget_that_pays_for_no_start_is_refused_before_anything_is_rented() -> None:
    require_room(Limits(max_usd=20, max_hours=3), 10.0, 20.0, hours=1.0)
    with pytest.raises(OverBudget, match="does not pay for 6 minutes") as raised:
        require_room(Limits(max_usd=20, max_hours=3), 19.0, 20.0, hours=1.0)
    assert raised.value.exit_code == ExitCode.BUDGET
    assert raised.value.why == "$19.00 of $20.00 are spent; 1.0 of 3 hours are used"
    assert "gptops cost" in raised.value.hint


def test_what_the_provider_bills_already_counts_even_where_nobody_here_knows_it() -> None:
    limits = Limits(max_usd_per_hour=10)
    leak = Live("gptops:p:leak", 6.0)
    require_room(limits, 0.0, 4.0, live=[leak])
    with pytest.raises(OverBudget, match=r"\$10.50/h of at most \$10.00/h") as raised:
        require_room(limits, 0.0, 4.5, live=[leak])
    assert "gptops:p:leak $6.00/h" in raised.value.why
    assert "gptops gc" in raised.value.hint


def test_without_limits_anything_goes() -> None:
    require_room(Limits(), 1e6, 1e6, hours=1e6, live=[Live("a", 1e6)])


def test_a_limit_is_reached_at_its_value() -> None:
    assert reached(Limits(), 1e9, 1e9) == ""
    assert reached(Limits(max_hours=2, max_usd=5), 4.99, 1.99) == ""
    assert reached(Limits(max_hours=2), 0.0, 2.0) == "it has used its 2 hours"
    assert reached(Limits(max_usd=5), 5.0, 0.0) == "it has used its $5.00"
