"""How devices and cores are split between training and scoring, on machines that this one is not."""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Literal

import pytest

from mathsft.config.schema import Experiment
from mathsft.config.study_schema import Choices, SearchRange
from mathsft.errors import UserError
from mathsft.footprint import ModelSize
from mathsft.layout import StudyLayout
from mathsft.workers.capacity import cpu_bytes
from mathsft.workers.placement import Placement, place
from mathsft.workers.split import WorkEstimate, scoring_devices
from tests.build import make_experiment, make_machine

LAYOUT = StudyLayout(Path("studies/demo"))
SMALL, LARGE = ModelSize(10**6, 4 * 10**6, None), ModelSize(10**9, 2 * 10**9, None)


def work(train: float, score: float) -> WorkEstimate:
    return WorkEstimate(train, score, "a trial", "estimated")


@pytest.mark.parametrize("num_devices", [2, 3, 4, 8, 16])
@pytest.mark.parametrize("ratio", [0.05, 0.3, 0.5, 1.0, 2.0, 20.0])
def test_no_other_split_is_faster(num_devices: int, ratio: float) -> None:
    def seconds(num_scoring: int) -> float:
        """Return the time of a trial when all devices are at work on many of them."""
        return max(100 / (num_devices - num_scoring), 100 * ratio / num_scoring)

    found = scoring_devices(work(100, 100 * ratio), num_devices)
    assert seconds(found) == min(map(seconds, range(1, num_devices)))
    assert all(seconds(fewer) > seconds(found) for fewer in range(1, found)), "no engine is started for nothing"


def test_with_seven_trainers_one_evaluator_would_be_the_bottleneck() -> None:
    """A score that takes half as long as training: one evaluator serves two trainers, so seven would run like two."""
    assert scoring_devices(work(100, 50), 8) == 3
    assert [scoring_devices(work(100, 50), 8, num_training=ranks) for ranks in (1, 2, 7)] == [1, 1, 1]
    assert scoring_devices(work(100, 500), 8, num_training=4) == 4
    assert scoring_devices(None, 8) == 1
    assert [scoring_devices(work(1, 1e9), devices) for devices in (1, 2)] == [1, 1]


def devices_of(placement: Placement) -> tuple[list[str], list[str]]:
    workers = placement.trainers, placement.evaluators
    training, scoring = ([spec.env["CUDA_VISIBLE_DEVICES"] for spec in specs] for specs in workers)
    return training, scoring


def test_many_devices_are_split_by_the_estimate_or_by_the_setting(experiment: Experiment) -> None:
    machine = make_machine(range(16), [str(index) for index in range(8)])
    study = place(machine, experiment, LAYOUT, "study", work=work(100, 50))
    assert devices_of(study) == (list("01234"), list("567"))
    assert study.description.endswith(
        "5, 6, 7 for scoring; on one device a trial takes about 2 min to train and 50 s to score (estimated)"
    )
    assert len({spec.device for spec in (*study.trainers, *study.evaluators)}) == 8, "all at work at the same time"
    assert study.trainers[0].settings.worker_device.num_threads == 2
    final = place(machine, experiment, LAYOUT, "final", work=work(100, 50))
    assert devices_of(final) == (["0,1,2,3,4"], list("567"))
    two_ranks = place(machine, experiment, LAYOUT, "final", 2, work=work(100, 200))
    assert devices_of(two_ranks) == (["0,1"], list("4567"))
    assert "; not used: 2, 3" in two_ranks.description
    given = place(machine, experiment, LAYOUT, "study", evaluators=6, work=work(100, 50))
    assert devices_of(given) == (list("01"), list("234567"))
    assert "estimated" not in given.description
    with pytest.raises(UserError, match=r"^final.ranks: 3, but 8 CUDA devices have room for 2 beside 6 evaluators; lower"):
        place(machine, experiment, LAYOUT, "final", 3, evaluators=6)
    with pytest.raises(UserError, match=r"^evaluators: 2, but 1 CUDA devices have room for 1 beside a trainer; lower it"):
        place(make_machine((0, 1), ("0",)), experiment, LAYOUT, "study", evaluators=2)


@pytest.mark.parametrize("purpose", ["study", "final"])
@pytest.mark.parametrize("num_cores", [1, 2, 3, 8, 11])
def test_a_small_cpu_has_one_trainer_whatever_the_estimate(
    experiment: Experiment, num_cores: int, purpose: Literal["study", "final"]
) -> None:
    machine = make_machine(range(num_cores))
    assert place(machine, experiment, LAYOUT, purpose, work=work(1, 9), model=SMALL) == place(
        machine, experiment, LAYOUT, purpose
    )


def test_a_large_cpu_is_split_in_groups_of_cores(experiment: Experiment) -> None:
    machine = make_machine(range(1, 23), free_memory_bytes=10**12)
    study = place(machine, experiment, LAYOUT, "study", work=work(100, 60), model=SMALL)
    groups = [spec.cpus for spec in (*study.trainers, *study.evaluators)]
    assert (len(study.trainers), len(study.evaluators)) == (3, 2)
    assert [core for group in groups for core in group] == list(machine.cpus), "every core is used once"
    assert {len(group) for group in groups} == {4, 5}
    assert len({spec.device for spec in (*study.trainers, *study.evaluators)}) == 5
    assert all(spec.env["OMP_NUM_THREADS"] == str(len(spec.cpus)) for spec in (*study.trainers, *study.evaluators))
    assert study.description.startswith("no CUDA device: 3 groups of cores (1, 2, 3, 4, 5; 6, 7, 8, 9, 10; 11, 12, 13, 14)")
    final = place(machine, experiment, LAYOUT, "final", work=work(100, 60), model=SMALL)
    assert ([len(spec.cpus) for spec in final.trainers], len(final.evaluators)) == ([14], 2), "one run with many threads"


def test_a_large_cpu_has_no_more_workers_than_its_memory_holds(experiment: Experiment) -> None:
    numbers = []
    for free_gb in (1000, 160, 120, 90, 30):
        machine = make_machine(range(32), free_memory_bytes=free_gb * 10**9)
        placement = place(machine, experiment, LAYOUT, "study", work=work(100, 60), model=LARGE)
        trainers, evaluators = len(placement.trainers), len(placement.evaluators)
        numbers.append(trainers + evaluators)
        assert trainers == 1 or cpu_bytes(experiment, LARGE, trainers, evaluators) <= machine.free_memory_bytes
    assert numbers[0] == 8 and numbers[-1] == 2
    assert all(fewer <= more for more, fewer in pairwise(numbers))


def test_memory_of_a_large_cpu_is_planned_for_the_method_that_needs_the_most() -> None:
    machine = make_machine(range(32), free_memory_bytes=100 * 10**9)
    both = {"training.method": Choices(type="categorical", choices=("full", "lora"))}
    adapters, full = make_experiment(method="lora"), make_experiment()

    def num_workers(experiment: Experiment, search: Mapping[str, SearchRange]) -> tuple[int, int]:
        placement = place(machine, experiment, LAYOUT, "study", work=work(100, 60), model=LARGE, search=search)
        return len(placement.trainers), len(placement.evaluators)

    assert num_workers(adapters, both) == num_workers(full, {})
    assert sum(num_workers(adapters, both)) < sum(num_workers(adapters, {}))


def test_evaluators_share_cores_where_there_are_too_few(experiment: Experiment) -> None:
    placement = place(make_machine((0, 1)), experiment, LAYOUT, "study", evaluators=2)
    assert [spec.cpus for spec in (*placement.trainers, *placement.evaluators)] == [(0,), (1,), (1,)]
    assert len({spec.device for spec in (*placement.trainers, *placement.evaluators)}) == 3
    with pytest.raises(UserError, match=r"^evaluators: 2, but memory has room for one, in turns; set it to 1 or null$"):
        place(make_machine((0, 1)), experiment, LAYOUT, "study", evaluators=2, memory_is_short=True)
