"""Cuts problems into the five disjoint pools train, search, confirm, watch and test; tokenises and grades nothing.

Every problem's place follows from the hash of its text alone, so the order of rows and the machine do not matter, and all
solutions of one problem stay in one pool.
"""

import logging
import re
from collections.abc import Iterable, Mapping
from itertools import chain, islice
from typing import TypeAlias

from mathsft.config.schema import DataSettings
from mathsft.data.problems import load_problems
from mathsft.data.quickstart import generate
from mathsft.data.ranks import text_rank
from mathsft.errors import UserError
from mathsft.records import Problem

MIN_POOL = 20
"""Problems below which a pool that had to shrink is an error: its score would say next to nothing."""

NUM_QUICKSTART_TRAIN = 8192
"""Problems that the quickstart generates to train on, unless pools.train says otherwise."""

Pools: TypeAlias = dict[str, tuple[Problem, ...]]

Solutions: TypeAlias = tuple[Problem, ...]
"""All rows with the same problem text, in an order that does not depend on the order of rows."""

logger = logging.getLogger(__name__)


def load_pools(data: DataSettings) -> Pools:
    """Return the pools train, search, confirm, watch and test; the last four hold one row per problem.

    The pools held out of `source` take at most half of its problems and shrink in proportion for that; UserError where one
    would fall below MIN_POOL. A test split of its own becomes the test pool, and its problems are taken out of all others.
    """
    sizes = {"search": data.pools.search, "confirm": data.pools.confirm, "watch": data.pools.watch}
    own_test: list[Solutions] = []
    if data.test_source is None:
        sizes["test"] = data.pools.test
    else:
        own_test = _in_rank_order(load_problems(data.test_source))

    if data.source == "quickstart":
        # Generated to measure: the held-out problems have the lowest ranks, so the cut below finds them first.
        num_train = data.pools.train or NUM_QUICKSTART_TRAIN
        problems = _without(own_test, _in_rank_order(generate(num_train, sum(sizes.values()))))
    else:
        problems = _without(own_test, _in_rank_order(load_problems(data.source)))
        sizes = _fitting(sizes, len(problems), data.source)

    rest = iter(problems)
    pools: Pools = {name: _one_each(islice(rest, size)) for name, size in sizes.items()}
    if own_test:
        pools["test"] = _one_each(own_test[: data.pools.test])
    train = list(islice(rest, data.pools.train))
    pools["train"] = tuple(chain.from_iterable(train))
    held_out = ", ".join(f"{name} {len(pool)}" for name, pool in pools.items() if name != "train")
    logger.info("pools of %s: train %d (%d solutions), %s", data.source, len(train), len(pools["train"]), held_out)
    return pools


def select(pools: Mapping[str, tuple[Problem, ...]], name: str) -> tuple[Problem, ...]:
    """Return a pool, or for "confirm:0-125" its problems 0 to 124; ValueError for a pool or a slice that does not exist."""
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


def _in_rank_order(problems: Iterable[Problem]) -> list[Solutions]:
    """Return the distinct problems by text_rank, each with all its solutions."""
    by_text: dict[str, list[Problem]] = {}
    for problem in problems:
        by_text.setdefault(problem.problem, []).append(problem)
    texts = sorted(by_text, key=lambda text: (text_rank(text), text))
    return [tuple(sorted(by_text[text], key=_solution_order)) for text in texts]


def _solution_order(problem: Problem) -> tuple[str, str, int, str]:
    return problem.solution, problem.answer, problem.level or 0, problem.subject or ""


def _one_each(problems: Iterable[Solutions]) -> tuple[Problem, ...]:
    return tuple(solutions[0] for solutions in problems)


def _without(own_test: list[Solutions], problems: list[Solutions]) -> list[Solutions]:
    """Return the problems whose text is nowhere in the test split, whether or not the test pool takes it."""
    tested = {solutions[0].problem for solutions in own_test}
    kept = [solutions for solutions in problems if solutions[0].problem not in tested]
    if len(kept) < len(problems):
        logger.warning(
            "%d problems are in the test split too and were taken out of all other pools", len(problems) - len(kept)
        )
    return kept


def _fitting(sizes: dict[str, int], num_problems: int, source: str) -> dict[str, int]:
    """Return the pool sizes, shrunk in proportion where they would take more than half of the problems."""
    wanted, available = sum(sizes.values()), num_problems // 2
    if wanted <= available:
        return sizes
    shrunk = {name: size * available // wanted for name, size in sizes.items()}
    smallest = min(shrunk, key=lambda name: shrunk[name])
    if shrunk[smallest] < MIN_POOL:
        # Either the pools need not shrink at all, or the smallest one shrinks to MIN_POOL.
        num_needed = 2 * min(wanted, -(-MIN_POOL * wanted // sizes[smallest]))
        raise UserError(
            f"{source}: {num_problems} distinct problems leave only {shrunk[smallest]} for the {smallest} pool; it needs "
            f"{MIN_POOL}; give at least {num_needed} problems, or make data.pools smaller"
        )
    logger.info(
        "%s has %d distinct problems: the held-out pools shrink from %d to %d in all",
        source,
        num_problems,
        wanted,
        available,
    )
    return shrunk
