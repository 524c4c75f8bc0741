"""Makes runs: the only place where overrides are applied to the experiment."""

from collections.abc import Mapping

from mathsft.config.load import apply_overrides
from mathsft.config.schema import Experiment, Scalar
from mathsft.records import Plan, Run, RunKind


def new_run(
    kind: RunKind,
    name: str,
    *,
    experiment: Experiment,
    overrides: Mapping[str, Scalar],
    plan: Plan,
    seed: int,
    number: int | None = None,
) -> Run:
    """Return a new run; raises UserError for an override that is unknown or has an invalid value."""
    return Run(name, kind, dict(overrides), apply_overrides(experiment, overrides), plan, seed, number)
