from mathsft.accounting.work_estimate import estimated_work
from mathsft.config.load import load_settings
from mathsft.store.study_store import StudyStore
from mathsft.workers.split import WorkEstimate
from tests.build import make_checkpoint, make_plan, make_score, make_trial


def estimate(*assignments: str, study: str = "qwen2.5-math-1.5b", size: float = 1.5e9, on_cuda: bool = True) -> WorkEstimate:
    loaded = load_settings(study, None, list(assignments))
    work = estimated_work(loaded.study, loaded.experiment, int(size), "study", None, on_cuda=on_cuda)
    assert work is not None
    return work


def test_the_estimate_follows_the_settings() -> None:
    plain = estimate()
    assert 1 < plain.train_seconds / plain.score_seconds < 10
    more_training = estimate("trial.num_examples=16384")
    assert 1.9 < more_training.train_seconds / plain.train_seconds < 2.1
    assert more_training.score_seconds == plain.score_seconds
    longer_responses = estimate("evaluation.max_tokens=4096")
    assert longer_responses.score_seconds > 1.5 * plain.score_seconds
    assert longer_responses.train_seconds == plain.train_seconds
    assert estimate("trial.eval_points=[1.0]").score_seconds < plain.score_seconds / 2
    assert estimate(size=7e9).train_seconds > 4 * plain.train_seconds
    assert estimate(on_cuda=False).train_seconds > 1000 * plain.train_seconds


def test_the_studys_own_trials_replace_the_estimate(store: StudyStore) -> None:
    loaded = load_settings("quickstart", None, [])
    for number in range(3):
        store.write(make_trial(number, plan=make_plan(1536), value=0.5))
        store.write(make_checkpoint(f"trial-{number}", 96, train_seconds=12.0))
        store.write(make_score(f"trial-{number}", 96, num_problems=200, generate_seconds=8.0))
    of_trial = estimated_work(loaded.study, loaded.experiment, None, "study", store, on_cuda=False)
    assert of_trial == WorkEstimate(12.0, 8.0, "a trial", "by this study's trials")
    of_final = estimated_work(loaded.study, loaded.experiment, None, "final", store, on_cuda=False)
    assert of_final is not None
    assert round(of_final.train_seconds, 6) == 12288 / 1536 * 12.0
    assert round(of_final.score_seconds, 6) == 9 * 1000 / 200 * 8.0
    assert estimated_work(loaded.study, loaded.experiment, None, "study", None, on_cuda=False) is None
