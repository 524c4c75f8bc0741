"""Pools are disjoint, sized exactly, and depend on the problems' texts alone."""

import json
import logging
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mathsft.config.schema import DataSettings, PoolSizes
from mathsft.data.folding import pool_key
from mathsft.data.pools import MIN_POOL, load_data, load_pools, select_pool
from mathsft.errors import UserError
from mathsft.records import Quality
from mathsft.tasks.quickstart.generator import is_held_out

HELD_OUT = ("search", "confirm", "validation", "test")
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


@pytest.mark.slow
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
            with pytest.raises(UserError, match=r"distinct problems.* leave only"):
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
    small = load_pools(DataSettings(source=source, pools=PoolSizes(search=50, confirm=100, validation=100, test=100)))
    large = load_pools(
        DataSettings(source=source, pools=PoolSizes(search=60, confirm=100, validation=100, test=100, train=30))
    )
    assert large["search"][:50] == small["search"]
    assert len(large["train"]) == 30


def test_the_number_of_problems_that_the_error_asks_for_is_the_least_that_works(tmp_path):
    def load(num_problems, sizes):
        return load_pools(DataSettings(source=write(tmp_path / "source.jsonl", rows(num_problems)), pools=sizes))

    for sizes, num_needed in (
        (PoolSizes(), 616),  # 20 of 200 takes 307.5 of 3,075, and at most half is held out
        (
            PoolSizes(search=5, confirm=30, validation=30, test=30),
            190,
        ),  # a small pool that was asked for, but may not shrink
    ):
        with pytest.raises(UserError, match=f"at least {num_needed} problems"):
            load(num_needed - 1, sizes)
        load(num_needed, sizes)


def test_an_overlap_with_the_test_split_is_removed_and_counted(tmp_path, caplog):
    data = DataSettings(
        source=write(tmp_path / "source.jsonl", rows(300)),
        test_source=write(tmp_path / "test.jsonl", rows(40)),
        pools=PoolSizes(search=25, confirm=25, validation=25, test=10),
    )
    with caplog.at_level(logging.INFO):
        loaded = load_data(data)
    assert loaded.quality.count("in_test") == 40
    assert "train 185 (185 solutions), search 25, confirm 25, validation 25, test 10" in caplog.text
    assert not texts(loaded.pools["train"]) & {f"problem {i}" for i in range(40)}


def test_one_data_set_for_both_splits_is_named_as_what_it_is(tmp_path):
    source = write(tmp_path / "source.jsonl", rows(2000))
    (tmp_path / "link.jsonl").symlink_to(source)
    for test_source in (source, str(tmp_path / "link.jsonl")):
        with pytest.raises(UserError, match=r"data\.source and data\.test_source are both .*none would be left to train on"):
            load_pools(DataSettings(source=source, test_source=test_source))
    with pytest.raises(UserError, match="are both org/name:train"):
        load_pools(DataSettings(source="org/name", test_source="org/name:train"))
    copy = write(tmp_path / "copy.jsonl", rows(2000))
    with pytest.raises(UserError, match=r": 0 distinct problems \(2000 more are in data.test_source, too\) leave only 0"):
        load_pools(DataSettings(source=source, test_source=copy))


def respelled(text, i):
    """Return the text in another spelling, one of four kinds."""
    return (text.upper(), text.replace(" ", "  "), text.replace(r"\frac", r"\dfrac"), text.replace("-", "−"))[i % 4]


def test_near_duplicates_never_cross_from_train_into_a_scored_pool(tmp_path):
    plain = [rf"What is $\frac{{{i}}}{{7}} - 1$?" for i in range(1200)]
    both = [text for i, text in enumerate(plain) for text in (text, respelled(text, i))]
    given = [{"problem": text, "solution": f"s {i}", "answer": str(i // 2)} for i, text in enumerate(both)]
    sizes = PoolSizes(search=50, confirm=50, validation=50, test=400)
    loaded = load_data(DataSettings(source=write(tmp_path / "source.jsonl", given), pools=sizes))
    keys = {name: {pool_key(problem.problem) for problem in pool} for name, pool in loaded.pools.items()}
    assert {name: len(keys[name]) for name in HELD_OUT} == sizes.model_dump(exclude={"train"})
    assert sum(map(len, keys.values())) == len(set().union(*keys.values())) == len(plain)
    assert len(loaded.pools["train"]) == 2 * len(keys["train"]), "both spellings are trained on"
    assert loaded.quality.count("variant") == len(plain)


def test_near_duplicates_of_test_problems_are_taken_out_of_the_source(tmp_path):
    plain = [rf"What is $\frac{{{i}}}{{7}} - 1$?" for i in range(1000)]
    given = [{"problem": text, "solution": "s", "answer": str(i)} for i, text in enumerate(plain)]
    respelled_rows = [{**row, "problem": respelled(row["problem"], i)} for i, row in enumerate(given[:225])]
    fresh = [{"problem": f"Fresh problem {i}", "answer": str(i)} for i in range(175)]
    data = DataSettings(
        source=write(tmp_path / "source.jsonl", given),
        test_source=write(tmp_path / "test.jsonl", respelled_rows + fresh),
        pools=PoolSizes(search=50, confirm=50, validation=50, test=400),
    )
    loaded = load_data(data)
    assert loaded.quality.count("in_test") == 225
    assert len(loaded.pools["test"]) == 400
    tested = {pool_key(problem.problem) for problem in loaded.pools["test"]}
    others = [problem for name, pool in loaded.pools.items() if name != "test" for problem in pool]
    assert len(others) == 775
    assert not tested & {pool_key(problem.problem) for problem in others}


def test_contradictory_problems_stop_the_start_or_are_left_out(tmp_path):
    given = rows(900)
    given += [{**row, "problem": row["problem"].upper(), "answer": f"{i}.5"} for i, row in enumerate(given[:266])]
    source = write(tmp_path / "source.jsonl", given)
    sizes = PoolSizes(search=50, confirm=50, validation=50, test=100)
    with pytest.raises(UserError) as caught:
        load_data(DataSettings(source=source, pools=sizes))
    assert str(caught.value) == (
        f"{source}: rows of one problem have different gold answers, in 266 of 900 problems (532 rows): 'problem 0' has '0' "
        "in row 1 and '0.5' in row 901; 'problem 1' has '1' in row 2 and '1.5' in row 902; 'problem 2' has '2' in row 3 and "
        "'2.5' in row 903; …; correct the rows, or leave all of them out with data.contradictions: drop"
    )
    loaded = load_data(DataSettings(source=source, pools=sizes, contradictions="drop"))
    (finding,) = loaded.quality.findings
    assert (finding.kind, finding.count, finding.num_rows) == ("contradictory", 266, 532)
    left = [problem for pool in loaded.pools.values() for problem in pool]
    assert sorted(problem.problem for problem in left) == sorted(f"problem {i}" for i in range(266, 900))


def test_a_contradiction_in_the_test_split_counts_too(tmp_path):
    source = write(tmp_path / "source.jsonl", rows(300))
    test_rows = [*rows(30, prefix="test"), {"problem": "test 3", "answer": "4"}]
    data = DataSettings(
        source=source,
        test_source=write(tmp_path / "test.jsonl", test_rows),
        pools=PoolSizes(search=25, confirm=25, validation=25, test=40),
    )
    with pytest.raises(
        UserError, match=r"test\.jsonl: .* in 1 of 30 problems \(2 rows\): 'test 3' has '3' in row 4 and '4' in row 31"
    ):
        load_data(data)
    loaded = load_data(data.model_copy(update={"contradictions": "drop"}))
    assert (len(loaded.pools["test"]), loaded.quality.count("contradictory")) == (29, 1)


def test_unreadable_rows_of_both_sources_are_left_out_where_that_is_wanted(tmp_path):
    none = {"problem": "p", "solution": "s", "answer": None, "level": 3}
    data = DataSettings(
        source=write(tmp_path / "source.jsonl", [*rows(300), {**none, "answer": "proof"}]),
        test_source=write(tmp_path / "test.jsonl", [*rows(30, prefix="test"), none, none]),
        pools=PoolSizes(search=25, confirm=25, validation=25, test=30),
        unreadable="drop",
    )
    quality = load_data(data).quality
    assert (quality.num_rows, quality.count("unreadable")) == (330, 3)
    reason = "no gold answer can be read ('proof' means that there is no answer)"
    (finding,) = quality.findings
    assert finding.examples[0].startswith(f"{data.source}:301: {reason}")


def test_exact_duplicates_in_train_are_counted(tmp_path):
    given = [*rows(300, num_solutions=2), *rows(300)]  # of three rows of each problem two are equal
    sizes = PoolSizes(search=25, confirm=25, validation=25, test=25)
    loaded = load_data(DataSettings(source=write(tmp_path / "source.jsonl", given), pools=sizes))
    assert (len(loaded.pools["train"]), loaded.quality.count("repeated")) == (600, 200)
    assert loaded.quality.count("variant") == 0


def test_a_file_without_fault_has_nothing_to_tell():
    quality = load_data(DataSettings(source="quickstart", pools=PoolSizes(train=300))).quality
    assert quality == Quality(quality.num_rows, ())


def test_quickstart_holds_out_what_its_base_model_never_saw():
    sizes = PoolSizes(train=300, search=20, confirm=30, validation=40, test=50)
    pools = load_pools(DataSettings(source="quickstart", pools=sizes))
    assert_disjoint(pools)
    assert {name: len(pool) for name, pool in pools.items()} == sizes.model_dump()
    assert all(is_held_out(problem) for name in HELD_OUT for problem in pools[name])
    assert not any(is_held_out(problem) for problem in pools["train"])


@pytest.mark.skipif(not GSM8K.is_dir(), reason="GSM8K is not in ../shared/data/gsm8k")
def test_gsm8k_with_its_own_test_split():
    pools = load_pools(DataSettings(source=str(GSM8K / "train.jsonl"), test_source=str(GSM8K / "test.jsonl")))
    assert_disjoint(pools)
    assert {name: len(pools[name]) for name in HELD_OUT} == {"search": 200, "confirm": 875, "validation": 1000, "test": 1000}


def test_select_slices_and_refuses_what_is_not_there():
    pools = {"confirm": tuple("abcde"), "search": tuple("xy")}
    assert select_pool(pools, "search") == ("x", "y")
    assert select_pool(pools, "confirm:0-2") + select_pool(pools, "confirm:2-5") == pools["confirm"]
    for name in ("validation", "confirm:", "confirm:3", "confirm:2-2", "confirm:4-6", "confirm:-1-2", "confirm:0-2x", ""):
        with pytest.raises(ValueError, match="there is no"):
            select_pool(pools, name)
