"""What optuna-dashboard shows: notes whose untrusted texts stay text, and a plot with the intervals of the scores."""

import pytest
from markdown_it import MarkdownIt

from mathsft.objective import accuracy_interval
from mathsft.records import Problem
from mathsft.reporting.dashboard_plot import accuracy_plot
from mathsft.reporting.study_note import study_note
from mathsft.reporting.trial_note import NUM_SAMPLES, trial_note
from mathsft.store.study_store import StudyStore
from tests.build import make_baseline, make_categories, make_promotion, make_response, make_trial, score_of

HOSTILE = "What is <b>6</b> * 7?\n```\n\n# heading\n\n    ![x](http://evil) | [a](http://evil)\n\n- list"
NUM_PROBLEMS = 40


def write_trials(store: StudyStore) -> None:
    store.record_problems(Problem(f"p{place:04}", HOSTILE, "", "42 | `x`", None, None) for place in range(NUM_PROBLEMS))
    store.write(make_baseline(value=0.1))
    for run, num_correct in (("baseline", 4), ("trial-0", 30), ("trial-1", 28), ("trial-2", 5)):
        step = 0 if run == "baseline" else 4
        categories = make_categories(num_correct, NUM_PROBLEMS, 2)
        responses = [
            make_response(f"p{place:04}", category, text=f"{HOSTILE} {category}", num_tokens=7)
            for place, category in enumerate(categories)
        ]
        if run != "baseline":
            store.write(make_trial(int(run[-1]), {"training.learning_rate": 1e-3}, value=num_correct / NUM_PROBLEMS))
        store.write(score_of(responses, run, step, "search"), responses)
    store.write(make_trial(3, state="pruned"))
    store.write(make_trial(4, state="diverged", value=0.0))
    store.write(make_promotion("trial-1", {"training.learning_rate": 1e-3}, "trials 0 and 1 cannot be told apart"))


def test_a_trials_note_has_problems_gold_answers_and_the_base_model(store: StudyStore) -> None:
    write_trials(store)
    run = store.run("trial-0")
    assert run is not None
    note = trial_note(store, run)
    assert "**75.0% (59.8% – 85.8%)** of 40 search problems at step 4. Base model: 10.0%" in note
    assert "Gain on the same problems: +65.0 points (" in note
    assert "mathsft replay demo trial-0" in note
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(note)
    blocks = [token.content for token in tokens if token.type == "code_block"]
    assert sum(HOSTILE.splitlines()[0] in block for block in blocks) == 2 * NUM_SAMPLES, "problems and responses"
    assert sum(block.strip() == "42 | `x`" for block in blocks) == NUM_SAMPLES
    named = [token.content for token in tokens if token.type == "inline" and token.content.startswith("**")]
    assert [text.split(". ")[1].rstrip("*") for text in named[1:4]] == ["correct", "wrong answer", "format failure"]
    kinds = {token.type for token in tokens} | {child.type for token in tokens for child in token.children or ()}
    assert not kinds & {"html_block", "html_inline", "image", "link_open", "fence"}, "untrusted text is only in code blocks"
    assert "No checkpoint of this trial is scored." in trial_note(store, make_trial(3, state="pruned"))


def test_a_studys_note_names_the_best_and_what_is_tied_with_it(store: StudyStore) -> None:
    write_trials(store)
    note = study_note(store)
    rows = [line.strip("| ").split(" | ") for line in note.splitlines() if line.startswith("| [trial")]
    assert [row[0] for row in rows] == [f"[trial-{number}](/studies/demo/trials/{number})" for number in (0, 1, 2)]
    assert rows[1][3].startswith("-5.0 points (") and rows[1][4] == "promoted"
    assert "1 of the other 2 finished trials cannot be told apart from trial-0 on these problems: trial-1." in note
    assert "(/studies/demo/report)" in note and "- **Winner** learning_rate 0.001 (trial-1)" in note


def test_the_plot_has_every_scored_trial_with_its_interval(store: StudyStore) -> None:
    assert accuracy_plot(store) is None
    write_trials(store)
    plot = accuracy_plot(store)
    assert plot is not None
    assert {trace["name"]: trace["x"] for trace in plot["data"]} == {
        "promoted": [1],
        "finished": [0, 2],
        "diverged": [4],
    }
    assert plot["data"][-1]["y"] == [0.0]
    for trace in plot["data"][:-1]:
        for number, accuracy, up, down in zip(
            trace["x"], trace["y"], trace["error_y"]["array"], trace["error_y"]["arrayminus"], strict=True
        ):
            interval = accuracy_interval(store.scores(f"trial-{number}")[0])
            assert (accuracy - down, accuracy + up) == pytest.approx((interval.low, interval.high))
    [level] = plot["layout"]["shapes"]
    assert level["y0"] == level["y1"] == 0.1
