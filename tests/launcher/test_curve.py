"""The loss curve in the terminal."""

from __future__ import annotations

import math

from launcher.curve import curve


def test_a_falling_loss_falls_on_the_screen() -> None:
    lines = curve([(step, 5.0 - step / 100) for step in range(300)], width=60, height=10)
    plot = [line.split("┤")[1] for line in lines if "┤" in line]
    first_columns = [len(row) - len(row.lstrip()) for row in plot]
    assert len(plot) == 10
    assert first_columns == sorted(first_columns)
    assert first_columns[0] == 0


def test_every_line_fits_the_width() -> None:
    lines = curve([(step, math.sin(step)) for step in range(100)], width=40, height=6, title="loss")
    assert max(map(len, lines)) <= 40


def test_the_axes_carry_the_extremes() -> None:
    text = "\n".join(curve([(10, 1.25), (250, 7.5)]))
    assert "7.50 ┤" in text
    assert "1.25 ┤" in text
    assert text.splitlines()[-1].split() == ["10", "250"]


def test_a_flat_line_is_drawn_and_a_single_point_is_not() -> None:
    assert any("⠤" in line or "⠒" in line or "⠉" in line for line in curve([(0, 2.0), (10, 2.0)]))
    assert curve([(3, 1.0)]) == []
    assert curve([]) == []


def test_a_loss_that_is_not_a_number_is_left_out() -> None:
    assert curve([(0, 1.0), (5, math.nan), (10, 2.0)]) == curve([(0, 1.0), (10, 2.0)])
