"""Rates from samples of byte counters."""

from __future__ import annotations

import pytest

from quaymirror.progress.rates import Rates


def test_the_time_before_the_first_byte_does_not_count() -> None:
    rates = Rates()
    for second in range(60):
        rates.sample(second, max(0, second - 40) * 100)

    assert rates.speeds.steady == pytest.approx(100)


def test_the_time_without_a_byte_is_known() -> None:
    rates = Rates()
    for second in range(30):
        rates.sample(second, min(second, 12) * 100)

    assert rates.speeds.idle == 17


def test_each_image_has_its_own_rate_until_it_is_done() -> None:
    rates = Rates()
    for second in range(10):
        rates.sample_images(second, {"slow": second * 10, "fast": second * 1_000})

    assert rates.speeds.images == {"slow": 10.0, "fast": 1_000.0}
    rates.sample_images(10, {"slow": 100})
    assert rates.speeds.images == {"slow": 10.0}
