"""Finds a task by the name that the experiment gives."""

from collections.abc import Callable, Mapping

from mathsft.config.schema import TaskName
from mathsft.tasks.exact_match import ExactMatch
from mathsft.tasks.math.math_task import Math
from mathsft.tasks.task import Task

_TASKS: Mapping[TaskName, Callable[[], Task]] = {"math": Math, "exact_match": ExactMatch}


def task_named(name: TaskName) -> Task:
    """Return the task of this name."""
    return _TASKS[name]()
