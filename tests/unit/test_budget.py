"""A limit on the bytes that concurrent transfers hold."""

from __future__ import annotations

import anyio.lowlevel

from quaymirror.budget import Budget


async def test_the_budget_is_shared_in_the_order_of_asking() -> None:
    budget, order = Budget(10), []

    async def take(name: str, size: int) -> None:
        reserved = await budget.reserve(size)
        order.append(name)
        await anyio.lowlevel.checkpoint()
        budget.release(reserved)

    async with anyio.create_task_group() as tasks:
        held = await budget.reserve(8)
        for name, size in (("large", 9), ("small", 1), ("huge", 99)):
            tasks.start_soon(take, name, size)
            await anyio.wait_all_tasks_blocked()

        assert (order, budget.try_more(1)) == ([], 0)
        budget.release(held)

    assert order == ["large", "small", "huge"]
    assert budget.try_more(10) == 10


async def test_more_is_taken_only_if_enough_is_left() -> None:
    budget = Budget(10)
    assert budget.try_more(4, leaving=3) == 4
    assert budget.try_more(4, leaving=3) == 0
    assert budget.try_more(4) == 4
