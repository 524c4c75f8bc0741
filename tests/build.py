"""Makes records for tests, with a value for everything that the test does not care about; and what stands in for others.

Tests construct no record by themselves: a change to a record's constructor ends here.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, get_args

from mathsft.config.schema import Experiment, PromptSettings
from mathsft.costs import ScoringCosts, Speeds, TrainingCosts
from mathsft.prompts import tags
from mathsft.prompts.renderer import PlainText, Renderer, make_renderer
from mathsft.publication import FileStamp
from mathsft.records import (
    Category,
    Checkpoint,
    LogprobCheck,
    Overrides,
    Plan,
    Promotion,
    Response,
    Run,
    RunKind,
    Score,
    Session,
    StepMetrics,
    Verdict,
    WorkerCall,
)
from mathsft.runs.new_run import new_run
from mathsft.workers.machine import CudaDevice, Machine

GIB = 2**30
NOTHING: Overrides = MappingProxyType({})
QUICKSTART_POOLS = {"train": 100, "search": 20, "confirm": 20, "validation": 20, "test": 20}
LEAST_POOLS = dict.fromkeys(("search", "confirm", "validation", "test"), 1)


# ---- settings and machines


def make_experiment(
    model: str = "quickstart", source: str = "quickstart", pools: Mapping[str, int] = QUICKSTART_POOLS, **training: Any
) -> Experiment:
    """Return an experiment with these training settings."""
    return Experiment.model_validate(
        {
            "model": {"path": model},
            "data": {"source": source, "pools": pools},
            "prompt": {"template": "short"},
            "training": {"learning_rate": 1e-3, "batch_size": 16, "precision": "fp32", **training},
        }
    )


EXPERIMENT = make_experiment()


def renderer_of(tokenizer: Any, template: str = "short", **prompt: Any) -> Renderer:
    """Return the renderer of these settings of the prompt."""
    return make_renderer(PromptSettings(template=template, **prompt), tokenizer)


def plain_renderer(tokenizer: Any, template_text: str) -> Renderer:
    """Return the renderer of a template's text, with answers in tags."""
    return Renderer(PlainText(template_text, tokenizer), tags.FORMAT, tokenizer)


def make_machine(
    cpus: Sequence[int] = (0, 1),
    cuda: Sequence[str] = (),
    *,
    capability: tuple[int, int] | None = (9, 0),
    device_gb: float | None = None,
    free_gb: float | None = None,
    bf16_flags: tuple[str, ...] = ("avx512_bf16",),
    free_memory_bytes: int = 24 * GIB,
    cpu_vendor: str = "",
    refused_devices: tuple[str, ...] = (),
    name: str = "",
) -> Machine:
    """Return a machine with these cores and CUDA devices, all alike; without free_gb, all of their memory is free."""
    total = None if device_gb is None else int(device_gb * 1e9)
    free = total if free_gb is None else int(free_gb * 1e9)
    return Machine(
        cpus=tuple(cpus),
        bf16_flags=bf16_flags,
        cuda=tuple(CudaDevice(name, capability, total, free) for name in cuda),
        free_memory_bytes=free_memory_bytes,
        cpu_vendor=cpu_vendor,
        refused_devices=refused_devices,
        name=name,
    )


SPEEDS = Speeds(
    ready_seconds=6.0,
    step_seconds=0.024,
    example_seconds=0.005,
    decoded_token_seconds=1e-4,
    read_token_seconds=5e-5,
    prompt_tokens=20.0,
    response_tokens=40.0,
)
"""Of a computer, as if measured with the quickstart."""


# ---- runs


def make_plan(num_examples: int = 64, eval_points: tuple[float, ...] = (1.0,), pool: str = "search", **fields: Any) -> Plan:
    given = {"max_unscored": 2, "keep": "last", **fields}
    return Plan(num_examples=num_examples, eval_points=eval_points, pool=pool, **given)


def make_run(name: str, overrides: Overrides = NOTHING, plan: Plan | None = None, **fields: Any) -> Run:
    """Return a run that goes on, or, with a value and no state, a finished one, of the kind that its name begins with."""
    kind, _, number = name.partition("-")
    run = new_run(
        kind if kind in get_args(RunKind) else "trial",
        name,
        experiment=fields.pop("experiment", EXPERIMENT),
        overrides=overrides,
        plan=plan or make_plan(),
        seed=fields.pop("seed", 0),
        number=int(number) if kind == "trial" else None,
    )
    return replace(run, **{"state": "running" if fields.get("value") is None else "finished", **fields})


def make_trial(number: int = 0, overrides: Overrides = NOTHING, plan: Plan | None = None, **fields: Any) -> Run:
    return make_run(f"trial-{number}", overrides, plan, **fields)


def make_final(overrides: Overrides = NOTHING, plan: Plan | None = None, *, name: str = "final-x", **fields: Any) -> Run:
    plan = plan or make_plan(64, (0.0, 0.5, 1.0), "validation", keep="best_and_last")
    return make_run(name, overrides, plan, **fields)


def make_baseline(**fields: Any) -> Run:
    return make_run("baseline", plan=make_plan(0, (0.0,)), **fields)


def make_promotion(run: str = "trial-0", overrides: Overrides = NOTHING, reason: str = "", **fields: Any) -> Promotion:
    return Promotion(run=run, overrides=dict(overrides), reason=reason, **{"evidence": {}, **fields})


# ---- training

LOGPROB_CHECK = LogprobCheck(token_ids=(1, 2), logprobs=(-1.0,))


def make_metrics(run: str = "trial-0", step: int = 1, **fields: Any) -> StepMetrics:
    update = {"loss": 1.0, "learning_rate": 1e-3, "gradient_norm": 1.0}
    speed = {"num_tokens": 10, "num_computed_tokens": 10, "seconds": 0.1, "flop_utilization": None}
    return StepMetrics(run=run, step=step, **{**update, **speed, **fields})


def make_checkpoint(
    run: str,
    step: int,
    path: str = "p",
    fingerprint: str = "f",
    logprob_check: LogprobCheck = LOGPROB_CHECK,
    stamps: tuple[FileStamp, ...] = (),
    **costs: Any,
) -> Checkpoint:
    """Return a checkpoint that took these seconds, bytes and tokens."""
    return Checkpoint(run, step, path, fingerprint, logprob_check, TrainingCosts(**costs), stamps)


# ---- scoring


def make_response(
    problem_id: str = "p0", category: Category = "correct", *, reason: str = "", body: str | None = None, **fields: Any
) -> Response:
    given = {"sample": 0, "text": "", "finish_reason": "stop", "num_tokens": 1, **fields}
    return Response(problem_id=problem_id, verdict=Verdict(category=category, reason=reason, body=body), **given)


def make_categories(num_correct: int, num_problems: int, num_failed: int = 0) -> list[Category]:
    """Return a category for each problem: the correct ones first, those with a wrong answer next."""
    num_wrong = num_problems - num_correct - num_failed
    return ["correct"] * num_correct + ["wrong_answer"] * num_wrong + ["format_failure"] * num_failed


def make_responses(categories: Iterable[Category], **fields: Any) -> list[Response]:
    """Return a response to each of as many problems."""
    return [make_response(f"p{place:04}", category, **fields) for place, category in enumerate(categories)]


def make_score(
    run: str = "trial-0",
    step: int = 4,
    pool: str = "search",
    num_correct: int = 1,
    num_problems: int = 2,
    *,
    num_failed: int = 0,
    num_ungraded: int = 0,
    num_samples: int = 1,
    fingerprint: str = "f",
    responses_path: str = "r",
    solved: tuple[int, ...] = (),
    gold_nll: float | None = None,
    **costs: Any,
) -> Score:
    """Return a score that took these seconds and bytes; what is not counted is a wrong answer."""
    num_wrong = num_problems * num_samples - num_correct - num_failed - num_ungraded
    return Score(
        run=run,
        step=step,
        pool=pool,
        num_problems=num_problems,
        counts={"correct": num_correct, "wrong_answer": num_wrong, "format_failure": num_failed, "ungraded": num_ungraded},
        fingerprint=fingerprint,
        responses_path=responses_path,
        costs=ScoringCosts(**costs),
        solved=solved,
        gold_nll=gold_nll,
    )


def score_of(
    responses: Sequence[Response], run: str = "trial-0", step: int = 4, pool: str = "search", **fields: Any
) -> Score:
    """Return the score of these responses, each to a problem of its own."""
    counts = Counter(response.verdict.category for response in responses)
    failed, ungraded = counts["format_failure"], counts["ungraded"]
    return make_score(run, step, pool, counts["correct"], len(responses), num_failed=failed, num_ungraded=ungraded, **fields)


# ---- who worked when; times are UTC seconds


def make_worker_call(run: str, step: int, began: float, ended: float, pool: str = "", **fields: Any) -> WorkerCall:
    """Return a trainer's call, or with a pool the evaluator's."""
    worker, core = ("evaluator", 1) if pool else ("trainer-0", 0)
    where = {"worker": worker, "cpus": (core,), "cuda_visible_devices": None}
    given = {**where, "cpu_seconds": 1.0, "resident_bytes": 1, **fields}
    return WorkerCall(run=run, step=step, pool=pool, began=began, ended=ended, **given)


def make_session(began: float, seconds: float = 60.0, num_trainers: int = 1, num_evaluators: int = 1) -> Session:
    workers = {"num_trainers": num_trainers, "num_evaluators": num_evaluators}
    return Session(began=datetime.fromtimestamp(began, UTC).isoformat(), **workers, seconds=seconds)


# ---- stand-ins


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Listener:
    """A store's observer that remembers all that it hears."""

    def __init__(self) -> None:
        self.heard: list[object] = []

    def notify(self, news: object) -> None:
        self.heard.append(news)
