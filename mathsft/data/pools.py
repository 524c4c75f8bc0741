"""Cuts problems into the five disjoint pools train, search, confirm, validation and test.

A problem's position follows from its text alone (from the spelling with the lowest hash, if there are several). So the pools
do not depend on the order of rows or on the machine, and all solutions of one problem are in one pool.
"""

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeAlias

from mathsft.config.schema import DataSettings, TaskName
from mathsft.data.problems import NUM_EXAMPLES, DataSetRows, load_problems
from mathsft.data.quality import DistinctProblems, Solutions, distinct_problems, found, read_findings
from mathsft.data.raw_rows import Place
from mathsft.data.train_pool import select_train
from mathsft.errors import UserError, excerpt
from mathsft.records import Finding, Problem, Quality
from mathsft.tasks.by_name import task_named
from mathsft.tasks.quickstart.generator import generate

MIN_POOL = 20
"""A held-out pool that had to shrink below this number of problems is an error: its score would be too imprecise."""

_QUICKSTART = "quickstart"
"""The data.source whose problems are generated."""

_NUM_QUICKSTART_TRAIN = 8192
"""Number of training problems that the quickstart generates if pools.train is not set."""

Pools: TypeAlias = dict[str, tuple[Problem, ...]]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedData:
    """The pools, and the quality of the data from which they were made."""

    pools: Pools
    quality: Quality


def load_pools(data: DataSettings, task: TaskName = "math") -> Pools:
    """Return the pools train, search, confirm, validation and test, as `load_data` makes them."""
    return load_data(data, task).pools


def load_data(data: DataSettings, task: TaskName = "math") -> LoadedData:
    """Return the pools train, search, confirm, validation and test; the last four hold one row per problem.

    The pools held out of `source` shrink in proportion until they take at most half of its problems. Raises UserError if one
    of them would fall below MIN_POOL. A separate test split becomes the test pool; its problems are removed from the others.
    """
    sizes = {"search": data.pools.search, "confirm": data.pools.confirm, "validation": data.pools.validation}
    if data.test_source is None:
        sizes["test"], test_rows = data.pools.test, DataSetRows("", {})
    else:
        _refuse_one_source(data.source, data.test_source)
        test_rows = load_problems(data.test_source, data.unreadable, task, data.columns, need_solutions=False)
    if data.source == _QUICKSTART:
        # The held-out problems have the lowest positions, so the held-out pools are cut from them.
        generated = generate(data.pools.train or _NUM_QUICKSTART_TRAIN, sum(sizes.values()))
        rows = DataSetRows(
            data.source, {Place(data.source, number): problem for number, problem in enumerate(generated, start=1)}
        )
    else:
        rows = load_problems(data.source, data.unreadable, task, data.columns)
    chosen = task_named(task)
    source, test_split = (distinct_problems(one, data.contradictions, chosen) for one in (rows, test_rows))

    problems = [solutions for key, solutions in source.problems.items() if key not in test_split.problems]
    in_test = _in_test(source, test_split)
    if data.source != _QUICKSTART:
        sizes = _fitting(sizes, len(problems), in_test.count, data)
    rest = iter(problems)
    pools: Pools = {name: _one_each(islice(rest, size)) for name, size in sizes.items()}
    if data.test_source is not None:
        pools["test"] = _one_each(islice(test_split.problems.values(), data.pools.test))
    # Generated problems may differ in a name only, which is no copy.
    others = {} if data.source == _QUICKSTART else dict(pools)
    train = select_train(rest, data.pools.train, others, chosen)
    pools["train"] = train.rows
    held_out = ", ".join(f"{name} {len(pool)}" for name, pool in pools.items() if name != "train")
    logger.info("pools of %s: train %d (%d solutions), %s", data.source, train.num_problems, len(train.rows), held_out)
    findings = [finding for one in (rows, test_rows) for finding in read_findings(one, chosen)]
    findings += [*source.findings, *test_split.findings, in_test, *train.findings]
    return LoadedData(pools, Quality(len(rows.rows) + len(test_rows.rows), found(*findings)))


def _in_test(source: DistinctProblems, test_split: DistinctProblems) -> Finding:
    """Return the problems of the source that the test split has, too."""
    both = [solutions for key, solutions in source.problems.items() if key in test_split.problems]
    examples = tuple(excerpt(solutions[0].problem) for solutions in both[:NUM_EXAMPLES])
    return Finding("in_test", len(both), sum(map(len, both)), examples)


def select_pool(pools: Mapping[str, tuple[Problem, ...]], name: str) -> tuple[Problem, ...]:
    """Return a pool, or for "confirm:0-125" its problems 0 to 124; raises ValueError if the pool or slice does not exist."""
    match = re.fullmatch(r"(\w+)(?::(\d+)-(\d+))?", name)
    if match is None or match[1] not in pools:
        raise ValueError(
            f"there is no pool {name!r}, only {', '.join(sorted(pools))} and their slices, such as confirm:0-125"
        )
    pool = pools[match[1]]
    if match[2] is None:
        return pool
    start, stop = int(match[2]), int(match[3])
    if not start < stop <= len(pool):
        raise ValueError(f"there is no slice {name!r}: the pool holds {len(pool)} problems, and a slice holds at least one")
    return pool[start:stop]


def _one_each(problems: Iterable[Solutions]) -> tuple[Problem, ...]:
    return tuple(solutions[0] for solutions in problems)


def _fitting(sizes: dict[str, int], num_problems: int, num_overlapping: int, data: DataSettings) -> dict[str, int]:
    """Return the pool sizes, shrunk in proportion if they would take more than half of the problems."""
    wanted, available = sum(sizes.values()), num_problems // 2
    if wanted <= available:
        return sizes
    shrunk = {name: size * available // wanted for name, size in sizes.items()}
    smallest = min(shrunk, key=lambda name: shrunk[name])
    if shrunk[smallest] < MIN_POOL:
        # Either the pools need not shrink at all, or the smallest one shrinks to MIN_POOL.
        num_needed = 2 * min(wanted, -(-MIN_POOL * wanted // sizes[smallest]))
        also_tested = f" ({num_overlapping} more are in data.test_source, too)" if num_overlapping else ""
        raise UserError(
            f"{data.source}: {num_problems} distinct problems{also_tested} leave only {shrunk[smallest]} for the {smallest} "
            f"pool; it needs {MIN_POOL}; give at least {num_needed} problems, or make data.pools smaller"
        )
    change = f"from {wanted} to {available} problems in total"
    logger.info("%s has %d distinct problems: the held-out pools shrink %s", data.source, num_problems, change)
    return shrunk


def _refuse_one_source(source: str, test_source: str) -> None:
    """Raise UserError if both are the same file or hub data set."""
    path, test_path = (Path(name).expanduser() for name in (source, test_source))
    is_same = source.removesuffix(":train") == test_source.removesuffix(":train")
    if path.is_file() and test_path.is_file():
        is_same = path.samefile(test_path)
    if is_same:
        raise UserError(
            f"data.source and data.test_source are both {test_source}: test problems are removed from all other pools, so "
            "none would be left to train on; give another test split, or leave out data.test_source to split data.source"
        )
