"""The frozen records that the packages exchange and the store keeps; properties derive only from a record's own fields."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, TypeAlias

from mathsft.config.schema import Experiment, Scalar
from mathsft.costs import ScoringCosts, TrainingCosts
from mathsft.publication import FileStamp

Overrides: TypeAlias = Mapping[str, Scalar]
"""Dotted setting name -> value: the parameters of a trial, settings given with --set, and promoted settings."""

RunKind: TypeAlias = Literal["baseline", "trial", "final", "horizon"]
RunState: TypeAlias = Literal["running", "finished", "pruned", "diverged", "failed"]
Category: TypeAlias = Literal["correct", "wrong_answer", "format_failure", "ungraded"]
FindingKind: TypeAlias = Literal[
    "unreadable", "contradictory", "in_test", "near_copy", "wrong", "variant", "repeated", "system", "frequent", "too_long"
]
"""Kinds of defects in data; reporting/quality_section.py says what each is, and what happens to it."""

STATES_WITH_RESULT: tuple[RunState, ...] = ("finished", "pruned", "diverged")
"""States of a run that ended with a result. A failed run has no result."""


@dataclass(frozen=True)
class Problem:
    """One problem with its exact gold answer; id is a hash of the problem's text."""

    id: str
    problem: str
    solution: str
    """Empty only for a problem of a test split without solutions."""
    answer: str
    level: int | None = None
    subject: str | None = None


@dataclass(frozen=True)
class Finding:
    """The rows or problems of a study's data that have one kind of defect."""

    kind: FindingKind
    count: int
    """Rows, problems or texts, as the kind says."""
    num_rows: int
    """Rows that have the defect."""
    examples: tuple[str, ...]
    """The first few, in words."""


@dataclass(frozen=True)
class Quality:
    """What was found in a study's data, its own test split included."""

    num_rows: int
    """Rows that were read; each solution of a row with several counts as one."""
    findings: tuple[Finding, ...]
    """The kinds of defects that occur."""

    def count(self, kind: FindingKind) -> int:
        """Return the count of the finding of a kind; 0 without one."""
        return sum(finding.count for finding in self.findings if finding.kind == kind)


@dataclass(frozen=True)
class Example:
    """One tokenised training example. The loss is computed on response_ids only, which end with EOS."""

    problem_id: str
    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """The length of a run, the shares of its examples after which it is scored, and the pool."""

    num_examples: int
    eval_points: tuple[float, ...]
    pool: str
    max_unscored: int
    """Largest number of eval points in training or without a score at one time; with 1, training waits for every score."""
    keep: Literal["last", "best_and_last"]
    """The checkpoints whose weights are kept on disk after the run."""
    keep_every: int | None = None
    """The weights of every n-th eval point are kept, too, not counting the baseline."""

    def num_steps(self, batch_size: int) -> int:
        """Return the number of optimizer steps of the whole run (0 only for a run without examples)."""
        return max(1, self.num_examples // batch_size) if self.num_examples else 0

    def eval_steps(self, batch_size: int) -> tuple[int, ...]:
        """Return the optimizer steps to score, ascending; eval points that round to the same step are merged."""
        num_steps = self.num_steps(batch_size)
        return tuple(sorted({round(point * num_steps) for point in self.eval_points}))


@dataclass(frozen=True)
class Run:
    """One training: its kind, settings, plan, state and result."""

    name: str
    kind: RunKind
    overrides: dict[str, Scalar]
    """Settings that replace those of the study's experiment."""
    experiment: Experiment
    """The study's experiment with the overrides, resolved once. model.path is what the user gave, not the local folder."""
    plan: Plan
    seed: int
    number: int | None = None
    """The trial's number in Optuna; None for other kinds of runs."""
    state: RunState = "running"
    value: float | None = None
    """Accuracy at the last eval point of a finished run; 0 for a diverged run; None in other states."""
    reason: str = ""

    @property
    def num_steps(self) -> int:
        """Return the number of optimizer steps of the whole run."""
        return self.plan.num_steps(self.experiment.training.batch_size)

    @property
    def eval_steps(self) -> tuple[int, ...]:
        """Return the optimizer steps at which the run is scored, ascending."""
        return self.plan.eval_steps(self.experiment.training.batch_size)


@dataclass(frozen=True)
class Provenance:
    """Everything that determines a run's result, recorded when the run begins; hashes are hex digits of BLAKE2b."""

    run: str
    settings: dict[str, Any]
    """The experiment's resolved settings by dotted name, with the run's overrides."""
    seed: int
    commit: str
    """Git commit of mathsft's checkout; empty outside a checkout."""
    diff: str
    """Changes of the checkout's code and settings since that commit."""
    versions: dict[str, str]
    """Versions of Python and of the packages that train, generate and grade."""
    device: str
    data_hash: str
    """Hash of the problems of all pools."""
    prompt_hash: str
    tokenizer_hash: str
    base_fingerprint: str
    """Hash of the base model's weights."""


@dataclass(frozen=True)
class StepMetrics:
    """The trainer's measurements of one optimizer step; loss is in nats per response token."""

    run: str
    step: int
    loss: float
    learning_rate: float
    gradient_norm: float
    num_tokens: int
    """Prompt and response tokens of the batch, without padding."""
    num_computed_tokens: int
    """Tokens that passed through the model: with padding, and with tokens that examples share counted once per row."""
    seconds: float
    flop_utilization: float | None
    """Rate of the operations that the computed tokens need, as a share of the best rate of matrix products measured in the
    trainer's process; None for a model whose number of operations is not known."""


@dataclass(frozen=True)
class LogprobCheck:
    """Log probabilities of a fixed text, computed by the trainer; an engine with the same weights must reproduce them."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """Log probability, in nats, of each token after the first, given the tokens before it."""


@dataclass(frozen=True)
class Checkpoint:
    """The published weights of a run after an optimizer step."""

    run: str
    step: int
    path: str
    """Path of their folder, relative to the study's folder."""
    fingerprint: str
    """Hash of the published weights; empty until they are on disk."""
    logprob_check: LogprobCheck
    costs: TrainingCosts = field(default_factory=TrainingCosts)
    stamps: tuple[FileStamp, ...] = ()
    """The files that have this fingerprint."""
    finite_dtype: str = ""
    """The engine's dtype, if the trainer found all values finite in it."""


@dataclass(frozen=True)
class Diverged:
    """Training ended at a step because the loss, the gradient or the model's log probabilities are not finite."""

    run: str
    step: int
    reason: str


@dataclass(frozen=True)
class EngineCheck:
    """The engine agreed with the trainer before and after its weights were replaced. It is announced, not stored."""

    nats: float
    """Largest difference of the log probabilities, in nats per token."""
    model_kind: str
    """The architecture, as config.json names it."""
    load: Literal["swap", "new_engine"]
    seconds: float


@dataclass(frozen=True)
class Verdict:
    """The result of grading one response."""

    category: Category
    reason: str = ""
    body: str | None = None
    """The text between the answer tags; None if the format failed."""


@dataclass(frozen=True)
class Response:
    """One generated answer to one problem, with its verdict."""

    problem_id: str
    sample: int
    text: str
    finish_reason: str
    num_tokens: int
    """Generated tokens, the end-of-sequence token included."""
    verdict: Verdict
    """The verdict by the lenient format rule; `mathsft.objective` applies the rule of the settings."""
    tag_flags: tuple[str, ...] = ()
    """Tags that are missing or misplaced. Several flags can hold, unlike verdict.reason."""
    is_strict: bool = False
    """The response also meets the strict format rule: "</think> <answer>" with exactly one space."""
    entropy: float | None = None
    """Mean entropy, in nats, of the distributions from which its tokens were drawn, at the sampling temperature (1 for
    greedy decoding) and before top_p; None if it is not finite."""
    gold_nll: float | None = None
    """Mean negative log likelihood, in nats per token, of the problem's training target. Only sample 0 of a score that asks
    for it has one, and only if prompt and target fit into the engine."""


@dataclass(frozen=True)
class Score:
    """The result of one checkpoint on one pool."""

    run: str
    step: int
    pool: str
    num_problems: int
    counts: dict[str, int]
    """Number of responses by Category, under the format rule of the settings."""
    fingerprint: str
    """Hash of the weights that were scored."""
    responses_path: str
    costs: ScoringCosts = field(default_factory=ScoringCosts)
    solved: tuple[int, ...] = ()
    """Number of problems with 0, 1, … correct responses; may be empty if each problem has a single response."""
    entropy: float | None = None
    """Mean entropy of the responses."""
    gold_nll: float | None = None
    """Mean gold_nll of the problems; computed at a run's last eval point and on the test pool only."""

    @property
    def accuracy(self) -> float:
        """Share of responses that are correct."""
        return self.counts["correct"] / sum(self.counts.values())

    @property
    def format_accuracy(self) -> float:
        """Share of responses in the required format, correct or not."""
        return 1 - self.counts["format_failure"] / sum(self.counts.values())


@dataclass(frozen=True)
class Scoring:
    """The progress of a score that is being computed. It is announced, not stored."""

    run: str
    step: int
    pool: str
    num_finished: int
    num_responses: int


@dataclass(frozen=True)
class OngoingCall:
    """A call to a worker has begun or ended. It is announced, not stored."""

    worker: str
    """The name of the worker and of its log: trainer-0, evaluator-0."""
    run: str
    step: int
    pool: str
    """Empty for training."""
    is_starting: bool
    """The worker's processes are still loading libraries and the model."""
    is_over: bool = False


@dataclass(frozen=True)
class WorkerCall:
    """One completed call to a worker: its times, in UTC seconds, and the resources it used."""

    worker: str
    """The name of the worker and of its log: trainer-0, evaluator-0."""
    run: str
    step: int
    pool: str
    """Empty for training."""
    began: float
    """Time of the request, before the worker's start or its wait for a shared device."""
    ended: float
    cpus: tuple[int, ...]
    """Processor cores that its processes may use; empty for all."""
    cuda_visible_devices: str | None
    """The CUDA_VISIBLE_DEVICES with which its processes were started; None if mathsft did not set it."""
    cpu_seconds: float
    """Processor time of its processes and their child processes."""
    resident_bytes: int
    """Highest memory measured for these processes together. Shared memory counts once for each process."""
    device_utilization: float | None = None
    """Mean share of the time in which its CUDA devices computed; None without a device or if NVML does not report it."""
    energy_joules: float | None = None
    device_bytes: int | None = None
    """Highest memory measured on one of its CUDA devices, other processes included."""


@dataclass(frozen=True)
class Session:
    """The time in which one driver process had workers, from `began` (UTC, ISO 8601) on."""

    began: str
    num_trainers: int
    num_evaluators: int
    seconds: float

    def holds(self, moment: float) -> bool:
        """Return whether a time, in UTC seconds, is within the session."""
        return 0 <= moment - datetime.fromisoformat(self.began).timestamp() <= self.seconds


@dataclass(frozen=True)
class Finalist:
    """A trial on the shortlist of a promotion, with its results in the rounds of the confirm stage."""

    run: str
    search_accuracy: float
    smoothed_accuracy: float
    """Accuracy on the search pool by the surface through all trials, from which the shortlist is made."""
    num_correct: int
    num_responses: int
    low: float | None = None
    """Lower end of the 95 % confidence interval of its accuracy in these rounds; None without responses."""
    high: float | None = None


@dataclass(frozen=True)
class Ask:
    """The sampler was asked for the settings of trial `number`; it knew the ends of the trials `told`."""

    number: int
    told: tuple[int, ...]


@dataclass(frozen=True)
class PruneVerdict:
    """The pruner's verdict on a run after its score at eval point `index`; it knew the ends of the trials `told`."""

    run: str
    index: int
    told: tuple[int, ...]
    is_pruned: bool


@dataclass(frozen=True)
class Promotion:
    """The settings chosen for the final run, with the reason and the evidence."""

    run: str
    overrides: dict[str, Scalar]
    reason: str
    evidence: dict[str, float]
    """accuracy, low, high: the winner's accuracy and 95 % interval on num_problems of the confirm pool; without a confirm
    stage, accuracy is corrected_best_accuracy alone. raw_best_accuracy, corrected_best_accuracy: the highest accuracy of
    num_finished_trials on the search pool, as measured and corrected for the optimism of the best of k."""
    finalists: tuple[Finalist, ...] = ()
    """The shortlist, ordered by smoothed_accuracy, highest first."""
