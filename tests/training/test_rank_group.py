"""RankGroup train as one device does: real processes, asked through the Worker, two of them, over gloo.

The reference is the trainer on one device, whose gradients test_step.py holds against stock transformers.
"""

import asyncio
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain, combinations, count
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import torch

from mathsft.config.study_schema import LimitSettings
from mathsft.layout import StudyLayout
from mathsft.records import Checkpoint, Example, Run
from mathsft.training.full_state import SavePace
from mathsft.training.rank_group import ALONE, RankGroup, join_ranks
from mathsft.worker_settings import WorkerSettings, WorkerSpec
from mathsft.workers.worker import Device, Worker
from tests.build import make_plan, make_run
from tests.native import MULTIPLIES_BF16
from tests.training.published import weights
from tests.training.settled import Trainer

Hire: TypeAlias = Callable[[WorkerSettings], Worker]

NUM_STEPS, HALFWAY = 12, 6
TOLERANCE = 1e-5
SEVERAL_ROWS = {"training.token_budget_tokens": 250}
"""Some four rows in a batch of eight."""
HALF = "bf16" if MULTIPLIES_BF16 else "fp32"
BF16_LOSS, BF16_NORM = 5e-3, 5e-2
"""How far bf16 may be from itself where rows are others: each rounds its gradient, and training goes on from there."""


@pytest.fixture
def hire(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hire]:
    """Start a trainer of two ranks."""
    monkeypatch.syspath_prepend(Path(__file__).parent)  # where its processes find rank_trainer
    workers: list[Worker] = []

    def start(settings: WorkerSettings) -> Worker:
        env = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        spec = WorkerSpec("rank_trainer:EagerTrainer", settings, "cpu:0", env, (), ranks=2)
        workers.append(Worker(spec, "trainer", Device(), LimitSettings()))
        return workers[-1]

    yield start
    for worker in workers:
        worker.close()


def run_of(name: str, batch_size: int = 8, **overrides: Any) -> Run:
    settings = {name.replace("__", "."): value for name, value in overrides.items()}
    plan = make_plan(NUM_STEPS * batch_size, (0.5, 1.0))
    return make_run(name, {"training.batch_size": batch_size, **SEVERAL_ROWS, **settings}, plan, seed=3)


def lines(settings: WorkerSettings, run: Run) -> list[str]:
    return settings.layout.metrics(run.name).read_text().splitlines()


def curve(settings: WorkerSettings, run: Run, name: str) -> torch.Tensor:
    found = [json.loads(line) for line in lines(settings, run)]
    assert [line["step"] for line in found] == list(range(1, len(found) + 1))
    return torch.tensor([line[name] for line in found], dtype=torch.float64)


def elsewhere(settings: WorkerSettings, name: str) -> WorkerSettings:
    return replace(settings, layout=StudyLayout(settings.layout.root.with_name(name)))


def relative(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().div(other.abs()).max())


def train_alone(settings: WorkerSettings, run: Run) -> Checkpoint:
    trainer = Trainer(settings)
    trainer.advance(run, HALFWAY)
    return trainer.advance(run, NUM_STEPS)


def assert_same(ours: WorkerSettings, alone: WorkerSettings, run: Run, tolerance: float, norm_tolerance: float) -> None:
    assert relative(curve(ours, run, "loss"), curve(alone, run, "loss")) < tolerance
    assert relative(curve(ours, run, "gradient_norm"), curve(alone, run, "gradient_norm")) < norm_tolerance
    assert curve(ours, run, "num_tokens").equal(curve(alone, run, "num_tokens"))


def test_a_batch_is_split_whole_and_solutions_of_a_question_stay_together() -> None:
    rng = random.Random(0)
    prompts = [tuple(rng.choices(range(50), k=rng.randint(2, 30))) for _ in range(9)]
    batch = [Example("", rng.choice(prompts), tuple(rng.choices(range(50), k=rng.randint(1, 20)))) for _ in range(24)]
    shares = RankGroup(1, 3).split_batch(batch)
    assert sorted(chain(*shares), key=repr) == sorted(batch, key=repr)
    assert all(not {e.prompt_ids for e in one} & {e.prompt_ids for e in other} for one, other in combinations(shares, 2))
    sizes = [sum(len(example.prompt_ids) + len(example.response_ids) for example in share) for share in shares]
    assert max(sizes) < 1.5 * min(sizes)
    assert ALONE.split_batch(batch) == [batch]
    assert RankGroup(0, 2).split_batch(batch[:1]) == [batch[:1], []]


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True])
def test_two_ranks_give_the_curve_and_the_weights_of_one(
    make_model: Callable[..., Path], make_settings: Callable[..., WorkerSettings], hire: Hire, tied: bool
) -> None:
    alone = make_settings(make_model(tied=tied))
    ours = elsewhere(alone, "ranks")
    hot = run_of("hot", training__learning_rate=1e30)
    several, few = run_of("several"), run_of("few", batch_size=1)  # a batch of one leaves a rank without an example
    # Checkpointed, and in bf16 where that is not emulated.
    half = run_of("half", training__precision=HALF, training__gradient_checkpointing=True)
    worker = hire(ours)

    async def train() -> list[Checkpoint]:
        diverged = await worker.call("advance", hot, NUM_STEPS)
        assert "learning rate 1e+30" in diverged.reason  # seen by both, which train on
        found = []
        for run in (several, few, half):
            await worker.call("advance", run, HALFWAY)
            found.append(await worker.call("advance", run, NUM_STEPS))
        return found

    checkpoints = asyncio.run(train())
    for run, checkpoint in zip((several, few), checkpoints, strict=False):
        expected = train_alone(alone, run)
        assert_same(ours, alone, run, TOLERANCE, TOLERANCE)
        for name, weight in weights(ours.layout.root, checkpoint).items():
            other = weights(alone.layout.root, expected)[name]
            assert float((weight - other).norm() / other.norm()) < TOLERANCE, name
        assert checkpoint.logprob_check is not None and expected.logprob_check is not None
        assert checkpoint.logprob_check.logprobs == pytest.approx(expected.logprob_check.logprobs, rel=1e-4)
    train_alone(alone, half)
    assert_same(ours, alone, half, BF16_LOSS, BF16_NORM)


@pytest.mark.slow
def test_two_ranks_train_the_adapter_of_one(
    make_model: Callable[..., Path], make_settings: Callable[..., WorkerSettings], hire: Hire
) -> None:
    alone = make_settings(make_model())
    ours, lora = elsewhere(alone, "ranks"), {"training__method": "lora", "training__lora__rank": 4}
    runs = [run_of("plain", **lora), run_of("dora", **lora, training__lora__dora=True)]
    dropping = run_of("dropping", **lora, training__lora__dropout=0.2)
    worker = hire(ours)

    async def train() -> list[Checkpoint]:
        found = [await worker.call("advance", run, NUM_STEPS) for run in (*runs, dropping)]
        await worker.call("advance", run_of("full"), 1)
        return [*found, await worker.call("advance", dropping, NUM_STEPS)]  # from its full state

    *checkpoints, first, again = asyncio.run(train())
    for run, checkpoint in zip(runs, checkpoints, strict=True):
        expected = train_alone(alone, run)
        assert_same(ours, alone, run, TOLERANCE, TOLERANCE)
        assert checkpoint.logprob_check.logprobs == pytest.approx(expected.logprob_check.logprobs, rel=1e-4)
    assert first.fingerprint == again.fingerprint


@pytest.mark.slow
def test_a_run_goes_on_after_a_death_and_with_another_number_of_ranks(
    make_model: Callable[..., Path],
    make_settings: Callable[..., WorkerSettings],
    hire: Hire,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alone = make_settings(make_model())
    ours = elsewhere(alone, "ranks")
    killed, shrunk, grown = run_of("killed"), run_of("shrunk"), run_of("grown")
    for run in (killed, shrunk, grown):
        train_alone(alone, run)
    steps = count(1)
    monkeypatch.setattr(SavePace, "is_due", lambda self, seconds: next(steps) % 3 == 0)

    # Rank 1 dies in a pass of a later step; all ranks start anew, from the state of every third step.
    ours.layout.root.mkdir()
    order = ours.layout.root / "kill"
    order.write_text("1 16")
    worker = hire(ours)
    metrics = ours.layout.metrics("killed")

    async def train_through_a_death() -> None:
        call = asyncio.create_task(worker.call("advance", killed, NUM_STEPS))
        while not call.done():
            await asyncio.sleep(0.05)
            if metrics.exists() and len(lines(ours, killed)) >= 3:
                order.unlink(missing_ok=True)  # it is for one life only
        await call
        await worker.call("advance", shrunk, HALFWAY)

    asyncio.run(train_through_a_death())
    assert_same(ours, alone, killed, TOLERANCE, TOLERANCE)

    # One device takes two ranks' state, and two ranks take one device's.
    Trainer(ours).advance(grown, HALFWAY)
    runs = (shrunk, grown)
    assert all(ours.layout.full_state(run.name).exists() for run in runs)
    before = [lines(ours, run)[:HALFWAY] for run in runs]
    Trainer(ours).advance(shrunk, NUM_STEPS)
    asyncio.run(worker.call("advance", grown, NUM_STEPS))
    for run, first_lines in zip(runs, before, strict=True):
        assert lines(ours, run)[:HALFWAY] == first_lines, "what the state held was not trained again"
        assert_same(ours, alone, run, TOLERANCE, TOLERANCE)


def test_each_rank_on_cuda_takes_its_own_of_the_devices_that_all_see(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr("mathsft.training.rank_group.distributed.init_process_group", lambda *_, **__: None)
    monkeypatch.setattr("mathsft.training.rank_group.distributed.get_rank", lambda: 2)
    for name, value in (("WORLD_SIZE", "3"), ("LOCAL_RANK", "2")):
        monkeypatch.setenv(name, value)
    assert join_ranks(torch.device("cuda")) == RankGroup(2, 3)
    assert taken == [2]
