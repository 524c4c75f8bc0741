"""The frozen records that travel between rooms and into the store; they have what follows from their own fields, no more."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, TypeAlias

from mathsft.config.schema import Experiment, Scalar
from mathsft.costs import ScoringCosts, TrainingCosts

Overrides: TypeAlias = Mapping[str, Scalar]
"""Dotted setting name -> value: a trial's parameters, --set and promoted settings alike."""

RunKind: TypeAlias = Literal["baseline", "trial", "final", "horizon"]
RunState: TypeAlias = Literal["running", "finished", "pruned", "diverged", "failed"]
Category: TypeAlias = Literal["correct", "wrong_answer", "format_failure", "ungraded"]

FINISHED: tuple[RunState, ...] = ("finished", "pruned", "diverged")
"""States of a run whose result counts; a failed run has none."""


@dataclass(frozen=True)
class Problem:
    """One problem with its exact gold answer; id is a hash of the problem's text."""

    id: str
    problem: str
    solution: str
    """Empty only for a problem of a test split that has none."""
    answer: str
    level: int | None = None
    subject: str | None = None


@dataclass(frozen=True)
class FrequentGold:
    """A gold answer that is no number and stands in many of a data set's rows."""

    text: str
    num_rows: int
    num_all_rows: int
    first: str
    """The first row that it stands in, as "train.jsonl:12"."""


@dataclass(frozen=True)
class Quality:
    """What was found in a study's data, its own test split included, when they were read."""

    num_rows: int
    """Rows that were read."""
    num_unreadable: int
    """Rows left out because they could not be read."""
    first_unreadable: str
    """Where the first of them is, and why."""
    num_contradictory: int
    """Problems left out because their rows have different gold answers."""
    num_contradictory_rows: int
    num_variants: int
    """Problem texts that are another one in other spelling: white space, case, notation."""
    num_overlapping: int
    """Problems that were removed from all other pools because the test split has them."""
    num_repeated: int
    """Rows of the pool train that repeat another one exactly."""
    frequent_golds: tuple[FrequentGold, ...]


@dataclass(frozen=True)
class Example:
    """One tokenised training example; the loss is on response_ids only, which end with EOS."""

    problem_id: str
    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """How long a run is, at which shares of its examples it is scored, and on what."""

    num_examples: int
    eval_points: tuple[float, ...]
    pool: str
    max_unscored: int
    """Checkpoints that may wait for their score while training goes on."""
    keep: Literal["last", "best_and_last"]
    """Whose weights stay on disk when the run is over."""
    keep_every: int | None = None
    """Beside those, the weights of every so many eval points stay; the baseline is none of them."""

    def num_steps(self, batch_size: int) -> int:
        """Return the optimizer steps of the whole run (0 only for a run without examples)."""
        return max(1, self.num_examples // batch_size) if self.num_examples else 0

    def eval_steps(self, batch_size: int) -> tuple[int, ...]:
        """Return the optimizer steps to score at, ascending; points that round to the same step are merged."""
        num_steps = self.num_steps(batch_size)
        return tuple(sorted({round(point * num_steps) for point in self.eval_points}))


@dataclass(frozen=True)
class Run:
    """One training: what it is for, its settings, its plan, and how it ended."""

    name: str
    kind: RunKind
    overrides: dict[str, Scalar]
    """Of the study's experiment."""
    experiment: Experiment
    """With these overrides; resolved once, when the run is made. model.path is what the user named, not where it lies."""
    plan: Plan
    seed: int
    number: int | None = None
    """A trial's number in Optuna, None for any other run."""
    state: RunState = "running"
    value: float | None = None
    """Accuracy at the last eval point of a finished run, 0 for a diverged one; None for any other."""
    reason: str = ""

    @property
    def num_steps(self) -> int:
        """Return the optimizer steps of the whole run."""
        return self.plan.num_steps(self.experiment.training.batch_size)

    @property
    def eval_steps(self) -> tuple[int, ...]:
        """Return the optimizer steps that the run is scored at, ascending."""
        return self.plan.eval_steps(self.experiment.training.batch_size)


@dataclass(frozen=True)
class Provenance:
    """All that a run's result follows from, as it was when the run began; hashes are hex digits of BLAKE2b."""

    run: str
    settings: dict[str, Any]
    """The experiment's resolved settings by dotted name, the run's overrides among them."""
    seed: int
    commit: str
    """Git commit of mathsft's checkout; empty where it is none."""
    diff: str
    """What the checkout's code and settings differ in from that commit."""
    versions: dict[str, str]
    """Of Python and of the packages that train, generate and grade."""
    device: str
    data_hash: str
    """Of the problems of all pools."""
    prompt_hash: str
    tokenizer_hash: str
    base_fingerprint: str
    """Of the base model's weights."""


@dataclass(frozen=True)
class StepMetrics:
    """One optimizer step as the trainer saw it; loss is nats per response token."""

    run: str
    step: int
    loss: float
    learning_rate: float
    gradient_norm: float
    num_tokens: int
    """Of the examples, prompt and response, without padding."""
    num_computed_tokens: int
    """That went through the model: padding counts, and what examples share counts once per row."""
    seconds: float
    flop_utilization: float | None
    """Share of the best rate of matrix products, as measured in the trainer's process, at which the operations that the
    computed tokens need were done; None for a model whose operations are not known."""


@dataclass(frozen=True)
class LogprobCheck:
    """A fixed text and what weights make of it in the trainer's own arithmetic: whoever loads them right agrees."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """Of each token but the first, given those before it, in nats."""


@dataclass(frozen=True)
class Checkpoint:
    """Published weights of a run at a step."""

    run: str
    step: int
    path: str
    """Of their folder inside the study's."""
    fingerprint: str
    """Hash of the published weights."""
    logprob_check: LogprobCheck
    costs: TrainingCosts = field(default_factory=TrainingCosts)


@dataclass(frozen=True)
class Diverged:
    """Training broke off at a step: loss, gradients or what the weights predict are not finite."""

    run: str
    step: int
    reason: str


ENGINE_CHECK = "engine-check"
"""Stands for a run's name in the two checkpoints that the engine is checked by, and names their folder."""


@dataclass(frozen=True)
class EngineCheck:
    """An engine computed what the trainer does, before and after its weights were replaced; seen, not recorded."""

    nats: float
    """Per token: the largest difference of log probabilities that was seen."""
    model_kind: str
    """The architecture, as config.json has it."""
    load: Literal["swap", "new_engine"]
    seconds: float


@dataclass(frozen=True)
class Verdict:
    """What became of one response."""

    category: Category
    reason: str = ""
    body: str | None = None
    """The text between the answer tags, where there is one."""


@dataclass(frozen=True)
class Response:
    """One generated answer to one problem, with its verdict."""

    problem_id: str
    sample: int
    text: str
    finish_reason: str
    num_tokens: int
    """As generated, the end-of-sequence token included."""
    verdict: Verdict
    """By the lenient format rule; `mathsft.objective` applies that of the settings."""
    tag_flags: tuple[str, ...] = ()
    """Tags that are missing or misplaced; unlike verdict.reason these overlap."""
    is_strict: bool = False
    """The response also meets the strict format rule: "</think> <answer>" with exactly one space."""
    entropy: float | None = None
    """Mean over its tokens of the entropy, in nats, of the distribution each was drawn from: at the sampling temperature
    (1 for greedy), before top_p; None where that is not finite."""
    gold_nll: float | None = None
    """Mean negative log likelihood, in nats per token, of the problem's training target; only sample 0 has it, only where
    prompt and target fit into the engine, and only in scores that are asked for it."""


@dataclass(frozen=True)
class Score:
    """One checkpoint on one pool."""

    run: str
    step: int
    pool: str
    num_problems: int
    counts: dict[str, int]
    """Responses by Category, under the format rule of the settings."""
    fingerprint: str
    """Hash of the weights that were scored."""
    responses_path: str
    costs: ScoringCosts = field(default_factory=ScoringCosts)
    solved: tuple[int, ...] = ()
    """How many problems have 0, 1, … of their responses correct; may be empty where each has a single one."""
    entropy: float | None = None
    """Mean of the responses' entropy."""
    gold_nll: float | None = None
    """Mean of the problems' gold_nll; asked for at a run's last eval point and on test, where it is read."""

    @property
    def accuracy(self) -> float:
        """Share of responses that are correct."""
        return self.counts["correct"] / sum(self.counts.values())

    @property
    def format_accuracy(self) -> float:
        """Share of responses in the right format, whatever their answer."""
        return 1 - self.counts["format_failure"] / sum(self.counts.values())


@dataclass(frozen=True)
class Scoring:
    """How far the scoring of a checkpoint on a pool is; seen, not recorded."""

    run: str
    step: int
    pool: str
    num_finished: int
    num_responses: int


@dataclass(frozen=True)
class OngoingCall:
    """A worker was asked to work for a run, or has ended that; seen, not recorded."""

    worker: str
    """As its log is called: trainer-0, evaluator."""
    run: str
    step: int
    pool: str
    """Empty for training."""
    is_starting: bool
    """Its processes have yet to load what they need."""
    is_over: bool = False


@dataclass(frozen=True)
class WorkerCall:
    """One call that a worker answered: where and when it worked for a run, and what it used; times are UTC seconds."""

    worker: str
    """As its log is called: trainer-0, evaluator."""
    run: str
    step: int
    pool: str
    """Empty for training."""
    began: float
    """When the worker was asked; it may have had to start first, or to wait for its turn on a shared device."""
    ended: float
    cpus: tuple[int, ...]
    """Processor cores that its processes may use; empty for all."""
    cuda_visible_devices: str | None
    """What CUDA_VISIBLE_DEVICES was set to before its processes started; None where it was left as it is."""
    cpu_seconds: float
    """Of its processes and of those that they started."""
    resident_bytes: int
    """Most memory that these were seen to hold together; what they share counts once for each."""
    device_utilization: float | None = None
    """Mean share of the time that its CUDA devices computed; None without one, or where NVML does not tell."""
    energy_joules: float | None = None
    """Of its CUDA devices."""
    device_bytes: int | None = None
    """Most memory that was seen in use on one of its CUDA devices."""


@dataclass(frozen=True)
class Session:
    """How long one driver held its workers."""

    began: str
    """UTC, ISO 8601."""
    num_trainers: int
    seconds: float

    def holds(self, moment: float) -> bool:
        """Return whether the moment, in UTC seconds, lies within."""
        return 0 <= moment - datetime.fromisoformat(self.began).timestamp() <= self.seconds


@dataclass(frozen=True)
class Finalist:
    """A trial on the shortlist of a promotion, and what it reached in its rounds of the confirm stage."""

    run: str
    search_accuracy: float
    smoothed_accuracy: float
    """On the search pool, by the surface through all trials: how it came onto the shortlist."""
    num_correct: int
    """Responses, as is the next."""
    num_responses: int
    low: float | None = None
    """Of the 95 % interval; None without responses."""
    high: float | None = None


@dataclass(frozen=True)
class Promotion:
    """The settings chosen for the final run, and why."""

    run: str
    overrides: dict[str, Scalar]
    reason: str
    evidence: dict[str, float]
    """accuracy with low and high (95 %): the winner's on num_problems that nothing was searched on, where there are any;
    raw_best_accuracy and corrected_best_accuracy: the search pool's best, as measured and without its luck."""
    finalists: tuple[Finalist, ...] = ()
    """Best first by smoothed_accuracy."""
