from __future__ import annotations

import pytest

from quaymirror.progress.rates import Rates, Speeds


class TestRates:
    def test_say_nothing_in_the_first_second(self) -> None:
        rates = Rates()
        rates.sample(0, 0)

        assert rates.speeds == Speeds()

    def test_follow_the_last_seconds_and_the_last_minute(self) -> None:
        rates, fetched = Rates(), 0
        for second in range(101):
            rates.sample(second, fetched)
            fetched += 100 if second < 90 else 300

        assert rates.speeds.current == 300
        assert rates.speeds.steady == pytest.approx((50 * 100 + 10 * 300) / 60)
        assert rates.speeds.history == pytest.approx((100.0,) * 18 + (300.0,) * 2)

    def test_keep_a_bounded_number_of_samples_however_often_they_look(self) -> None:
        rates = Rates()
        for step in range(20_000):
            rates.sample(step / 50, 0)

        assert len(rates._samples) <= 602
        assert len(rates.speeds.history) <= 240

    def test_fill_a_gap_with_its_mean(self) -> None:
        rates = Rates()
        rates.sample(0, 0)
        rates.sample(30, 3_000)

        assert rates.speeds.history == (100.0,) * 6
