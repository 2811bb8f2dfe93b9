"""Bytes as people read them."""

from __future__ import annotations

import pytest

from launcher.sizes import size_text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 KiB"),
        (2.3 * 2**20, "2.3 MiB"),
        (9.97 * 2**20, "10 MiB"),
        (118 * 2**20, "118 MiB"),
        (1023 * 2**20, "1.0 GiB"),
        (1.4 * 2**30, "1.4 GiB"),
        (5000 * 2**40, "5000 TiB"),
    ],
)
def test_a_size_has_two_or_three_digits_and_a_unit(count: float, text: str) -> None:
    assert size_text(count) == text
