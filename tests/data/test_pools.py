"""Pools are disjoint, sized exactly, and depend on the problems' texts alone."""

import json
import logging
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mathsft.config.schema import DataSettings, PoolSizes
from mathsft.data.pools import MIN_POOL, load_pools, select
from mathsft.data.quickstart import is_held_out
from mathsft.errors import UserError

HELD_OUT = ("search", "confirm", "watch", "test")
GSM8K = Path(__file__).parents[2].parent / "shared" / "data" / "gsm8k"


def rows(num_problems, *, num_solutions=1, prefix="problem"):
    return [
        {"problem": f"{prefix} {i}", "solution": f"way {j} to {i}", "answer": str(i)}
        for i in range(num_problems)
        for j in range(num_solutions)
    ]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def texts(pool):
    return {problem.problem for problem in pool}


def assert_disjoint(pools):
    names = list(pools)
    assert sorted(names) == sorted(("train", *HELD_OUT))
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            assert not texts(pools[first]) & texts(pools[second]), (first, second)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pools")


@settings(max_examples=40, deadline=None)
@given(
    num_problems=st.integers(160, 400),
    num_solutions=st.integers(1, 3),
    sizes=st.tuples(*[st.integers(MIN_POOL, 60)] * 4),
    train=st.none() | st.integers(1, 400),
    own_test=st.none() | st.integers(1, 80),
    seed=st.integers(0, 2**32),
)
def test_disjoint_exact_and_independent_of_row_order(folder, num_problems, num_solutions, sizes, train, own_test, seed):
    all_rows = rows(num_problems, num_solutions=num_solutions)
    wanted = dict(zip(HELD_OUT, sizes, strict=True))
    # Every other problem of the test split is in the source as well.
    test_rows = rows(own_test or 0)[::2] + rows(own_test or 0, prefix="test")[1::2]

    def pools_of(rng):
        rng.shuffle(all_rows)
        rng.shuffle(test_rows)
        data = DataSettings(
            source=write(folder / "source.jsonl", all_rows),
            test_source=write(folder / "test.jsonl", test_rows) if own_test else None,
            pools=PoolSizes(train=train, **wanted),
        )
        return load_pools(data)

    num_left = num_problems - len(rows(own_test or 0)[::2])
    taken = dict(wanted)
    if own_test:
        del taken["test"]
    if sum(taken.values()) > num_left // 2:
        taken = {name: size * (num_left // 2) // sum(taken.values()) for name, size in taken.items()}
        if min(taken.values()) < MIN_POOL:
            with pytest.raises(UserError, match="distinct problems leave only"):
                pools_of(random.Random(seed))
            return
    pools = pools_of(random.Random(seed))
    assert_disjoint(pools)
    expected = {**taken, **({"test": min(wanted["test"], own_test)} if own_test else {})}
    assert {name: len(pools[name]) for name in HELD_OUT} == expected
    num_train = num_left - sum(taken.values())
    assert len(texts(pools["train"])) == min(num_train, train or num_train)
    assert len(pools["train"]) == num_solutions * len(texts(pools["train"]))
    assert not texts(pools["train"]) & {row["problem"] for row in test_rows}

    assert pools_of(random.Random(seed + 1)) == pools


def test_a_pool_keeps_its_problems_when_other_settings_change(tmp_path):
    source = write(tmp_path / "source.jsonl", rows(1000))
    small = load_pools(DataSettings(source=source, pools=PoolSizes(search=50, confirm=100, watch=100, test=100)))
    large = load_pools(DataSettings(source=source, pools=PoolSizes(search=60, confirm=100, watch=100, test=100, train=30)))
    assert large["search"][:50] == small["search"]
    assert len(large["train"]) == 30


def test_the_number_of_problems_that_the_error_asks_for_is_the_least_that_works(tmp_path):
    def load(num_problems, sizes):
        return load_pools(DataSettings(source=write(tmp_path / "source.jsonl", rows(num_problems)), pools=sizes))

    for sizes, num_needed in (
        (PoolSizes(), 616),  # 20 of 200 takes 307.5 of 3,075, and at most half is held out
        (PoolSizes(search=5, confirm=30, watch=30, test=30), 190),  # a small pool that was asked for, but may not shrink
    ):
        with pytest.raises(UserError, match=f"at least {num_needed} problems"):
            load(num_needed - 1, sizes)
        load(num_needed, sizes)


def test_an_overlap_with_the_test_split_is_logged(tmp_path, caplog):
    data = DataSettings(
        source=write(tmp_path / "source.jsonl", rows(300)),
        test_source=write(tmp_path / "test.jsonl", rows(40)),
        pools=PoolSizes(search=25, confirm=25, watch=25, test=10),
    )
    with caplog.at_level(logging.INFO):
        pools = load_pools(data)
    assert "40 problems are in the test split too" in caplog.text
    assert "train 185 (185 solutions), search 25, confirm 25, watch 25, test 10" in caplog.text
    assert not texts(pools["train"]) & {f"problem {i}" for i in range(40)}


def test_a_source_that_is_all_in_its_test_split_is_an_error(tmp_path):
    source = write(tmp_path / "source.jsonl", rows(2000))
    with pytest.raises(UserError, match="0 distinct problems"):
        load_pools(DataSettings(source=source, test_source=source))


def test_quickstart_holds_out_what_its_base_model_never_saw():
    sizes = PoolSizes(train=300, search=20, confirm=30, watch=40, test=50)
    pools = load_pools(DataSettings(source="quickstart", pools=sizes))
    assert_disjoint(pools)
    assert {name: len(pool) for name, pool in pools.items()} == sizes.model_dump()
    assert all(is_held_out(problem) for name in HELD_OUT for problem in pools[name])
    assert not any(is_held_out(problem) for problem in pools["train"])


@pytest.mark.skipif(not GSM8K.is_dir(), reason="GSM8K is not in ../shared/data/gsm8k")
def test_gsm8k_with_its_own_test_split():
    pools = load_pools(DataSettings(source=str(GSM8K / "train.jsonl"), test_source=str(GSM8K / "test.jsonl")))
    assert_disjoint(pools)
    assert {name: len(pools[name]) for name in HELD_OUT} == {"search": 200, "confirm": 875, "watch": 1000, "test": 1000}


def test_select_slices_and_refuses_what_is_not_there():
    pools = {"confirm": tuple("abcde"), "search": tuple("xy")}
    assert select(pools, "search") == ("x", "y")
    assert select(pools, "confirm:0-2") + select(pools, "confirm:2-5") == pools["confirm"]
    for name in ("validation", "confirm:", "confirm:3", "confirm:2-2", "confirm:4-6", "confirm:-1-2", "confirm:0-2x", ""):
        with pytest.raises(ValueError, match="there is no"):
            select(pools, name)
