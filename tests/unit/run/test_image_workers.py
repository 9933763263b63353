"""The number of workers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from quaymirror.run.stages import worker_count
from quaymirror.transfer.target import Capabilities


@pytest.mark.parametrize(
    ("concurrency", "staging", "workers"), [(1, False, 1), (2, False, 8), (16, False, 64), (16, True, 16)]
)
def test_four_times_as_many_are_under_way_but_one_at_a_time_is_one(
    concurrency: int, staging: bool, workers: int
) -> None:
    target: Any = SimpleNamespace(capabilities=Capabilities(staging=staging))
    assert worker_count(concurrency, target) == workers
