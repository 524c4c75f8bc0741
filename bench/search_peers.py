"""Other ways to search, on the same simulated worlds: each trains and scores until a given device time is spent.

All but one promote the trial with the best score on the search problems, as `study.best_trial` does. BoTorch models the
noise of the scores and promotes the trial with the highest posterior mean.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import optuna

from bench.simulated_study import EVAL_POINTS, NUM_TRIALS, SCORE_TIME
from bench.worlds import MAX_SEARCH, NUM_SEARCH, Trained, World
from mathsft.config.study_schema import Component
from mathsft.statistics.surface import candidates, embed
from mathsft.study.components import distribution, make_component

OPTUNA_PRUNER = Component(name="PercentilePruner", arguments={"percentile": 75.0, "n_startup_trials": 5})
RANDOM_TRIALS = 6
"""Trials at random before BoTorch's model proposes."""
NUM_CANDIDATES = 512
"""Settings among which BoTorch chooses."""


@dataclass(frozen=True)
class Found:
    """The promoted trial's checkpoint, and the accuracy that the method announces for it."""

    winner: Trained
    announced: float


Peer: TypeAlias = Callable[[World, int, float], Found]


def random_search(world: World, seed: int, budget: float) -> Found:
    return _argmax(world, optuna.samplers.RandomSampler(seed=seed), budget)


def tpe(world: World, seed: int, budget: float) -> Found:
    return _argmax(world, optuna.samplers.TPESampler(seed=seed), budget)


def tpe_more_problems(world: World, seed: int, budget: float) -> Found:
    """As many trials as a study of ours, each scored on as many problems as the budget allows."""
    num_problems = int(NUM_SEARCH * (budget / NUM_TRIALS - 1) / SCORE_TIME)
    sampler = optuna.samplers.TPESampler(seed=seed)
    return _argmax(world, sampler, budget, max(NUM_SEARCH, min(MAX_SEARCH, num_problems)))


def gp(world: World, seed: int, budget: float) -> Found:
    return _argmax(world, optuna.samplers.GPSampler(seed=seed), budget)


def tpe_with_pruner(world: World, seed: int, budget: float) -> Found:
    """Optuna's sampler and pruner as its tutorial has them; the verdict comes before training goes on."""
    study = _study(optuna.samplers.TPESampler(seed=seed), world, make_component(optuna.pruners, "pruner", OPTUNA_PRUNER))
    space, trained, spent = _space(world), {}, 0.0
    while True:
        trial, before, accuracy = study.ask(space), 0.0, 0.0
        for index, fraction in enumerate(EVAL_POINTS):
            spent += fraction - before + SCORE_TIME
            if spent > budget:
                break
            before = fraction
            checkpoint = world.train(trial.number, trial.params, fraction)
            accuracy = float(checkpoint.search[:NUM_SEARCH].mean())
            trial.report(accuracy, index)
            if trial.should_prune():
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            trained[trial.number] = checkpoint
            study.tell(trial, accuracy)
        if spent > budget:
            return Found(trained[study.best_trial.number], study.best_value)


def botorch(world: World, seed: int, budget: float) -> Found:
    """Noisy expected improvement with the binomial noise of each score (arXiv:1706.07094, arXiv:2310.20708)."""
    import torch
    from botorch.acquisition import qLogNoisyExpectedImprovement
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import SingleTaskGP
    from gpytorch.mlls import ExactMarginalLogLikelihood

    torch.manual_seed(seed)
    rng, possible = np.random.default_rng(seed), candidates(world.space)[:NUM_CANDIDATES]
    points = torch.tensor(embed(world.space, possible))
    settings = [world.own_settings, *(possible[at] for at in rng.choice(len(possible), RANDOM_TRIALS - 1, replace=False))]
    trained: list[Trained] = []
    while (len(trained) + 1) * (1 + SCORE_TIME) <= budget:
        number = len(trained)
        if number < len(settings):
            chosen = settings[number]
        else:
            model = _botorch_model(world, settings, trained, SingleTaskGP, ExactMarginalLogLikelihood, fit_gpytorch_mll)
            baseline = torch.tensor(embed(world.space, settings[:number]))
            acquisition = qLogNoisyExpectedImprovement(model, baseline, prune_baseline=True)
            with torch.no_grad():
                chosen = possible[int(acquisition(points[:, None]).argmax())]
            settings.append(chosen)
        trained.append(world.train(number, chosen))
    model = _botorch_model(world, settings, trained, SingleTaskGP, ExactMarginalLogLikelihood, fit_gpytorch_mll)
    with torch.no_grad():
        means = model.posterior(torch.tensor(embed(world.space, settings[: len(trained)]))).mean.flatten()
    best = int(means.argmax())
    return Found(trained[best], float(means[best]))


PEERS: dict[str, Peer] = {
    "random": random_search,
    "TPE": tpe,
    "TPE, more problems": tpe_more_problems,
    "TPE + pruner": tpe_with_pruner,
    "GPSampler": gp,
    "BoTorch": botorch,
}
SLOW = ("GPSampler", "BoTorch")
"""Peers that take ten times as long as a study of ours."""
NAIVE = ("TPE", "TPE, more problems")
"""What most people do: take the best score. The better of the two in each family is what ours is compared with."""


def _botorch_model(world, settings, trained, model_class, likelihood_class, fit):  # type: ignore[no-untyped-def]
    import torch

    shares = torch.tensor([[float(one.search[:NUM_SEARCH].mean())] for one in trained])
    variances = (shares * (1 - shares) / NUM_SEARCH).clamp_min(1e-5)
    inputs = torch.tensor(embed(world.space, settings[: len(trained)]))
    outputs, noise = shares.double(), variances.double()
    model = model_class(inputs, outputs, noise)
    fit(likelihood_class(model.likelihood, model))
    return model


def _argmax(world: World, sampler: optuna.samplers.BaseSampler, budget: float, num_problems: int = NUM_SEARCH) -> Found:
    study, space, trained = _study(sampler, world), _space(world), []
    cost = 1 + SCORE_TIME * num_problems / NUM_SEARCH
    while (len(trained) + 1) * cost <= budget + 1e-9:
        trial = study.ask(space)
        trained.append(world.train(trial.number, trial.params))
        study.tell(trial, float(trained[-1].search[:num_problems].mean()))
    return Found(trained[study.best_trial.number], study.best_value)


def _study(
    sampler: optuna.samplers.BaseSampler, world: World, pruner: optuna.pruners.BasePruner | None = None
) -> optuna.Study:
    study = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)
    study.enqueue_trial(world.own_settings)
    return study


def _space(world: World) -> dict[str, optuna.distributions.BaseDistribution]:
    return {name: distribution(given) for name, given in world.space.items()}
