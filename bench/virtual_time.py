"""An asyncio event loop with a virtual clock: when all tasks wait, the clock jumps to the next timer."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


def run_in_virtual_time(work: Coroutine[Any, Any, Result]) -> Result:
    """Run to the end, as asyncio.run does; raises RuntimeError where all tasks wait and no timer is set."""
    with asyncio.Runner(loop_factory=_VirtualLoop) as runner:
        return runner.run(work)


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        return self._now

    def jump(self, seconds: float) -> None:
        self._now += seconds


class _JumpingSelector(selectors.SelectSelector):
    """Returns at once from every wait, after it moved the clock of its loop; the loop has no files to wait for."""

    def __init__(self, loop: _VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("all tasks wait, and none of them for a timer")
        self._loop.jump(timeout)
        return super().select(0)
