"""Workers are lent to whoever has waited longest, whatever happens meanwhile."""

import asyncio
from types import SimpleNamespace
from typing import Any

from mathsft.runs.worker_pool import WorkerPool

WORKER: Any = SimpleNamespace(name="evaluator")


def test_who_asks_when_a_worker_is_given_back_does_not_overtake_those_who_wait() -> None:
    order = []

    async def work(name: str, lending: WorkerPool) -> None:
        async with lending.lease():
            order.append(name)

    async def run() -> None:
        lending = WorkerPool([WORKER])
        worker = await lending.take()
        async with asyncio.TaskGroup() as tasks:
            for name in ("first", "second"):
                tasks.create_task(work(name, lending))
            await asyncio.sleep(0)
            lending.give(worker)
            await work("late", lending)

    asyncio.run(run())
    assert order == ["first", "second", "late"]


def test_who_is_cancelled_while_waiting_keeps_no_worker() -> None:
    async def run() -> None:
        lending = WorkerPool([WORKER])
        worker = await lending.take()
        waiting, promised = (asyncio.create_task(lending.take()) for _ in range(2))
        await asyncio.sleep(0)
        waiting.cancel()
        lending.give(worker)
        promised.cancel()  # with the worker in its hands already, or never to get it
        await asyncio.gather(waiting, promised, return_exceptions=True)
        assert await asyncio.wait_for(lending.take(), timeout=5) is worker

    asyncio.run(run())


def test_who_avoids_a_worker_waits_for_another_and_holds_up_nobody() -> None:
    def named(name: str) -> Any:
        return SimpleNamespace(name=name)

    async def run() -> None:
        dead, busy = named("dead"), named("busy")
        lending = WorkerPool([dead, busy])
        assert [await lending.take(), await lending.take()] == [dead, busy]
        avoiding = asyncio.create_task(lending.take(avoided=dead))
        await asyncio.sleep(0)
        lending.give(dead)
        assert await asyncio.wait_for(lending.take(), timeout=5) is dead, "who came later takes what the first avoids"
        lending.give(busy)
        assert await asyncio.wait_for(avoiding, timeout=5) is busy
        alone = WorkerPool([dead])
        assert await asyncio.wait_for(alone.take(avoided=dead), timeout=5) is dead, "there is no other one"

    asyncio.run(run())
