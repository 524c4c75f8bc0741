"""Take the README's pictures from a real study: screenshots of its report and dashboard, and two of the report's figures.

    make pictures STUDY=studies/quickstart

The report and the notes are written anew into a copy of the study's folder, so that they name no folder of this machine.
Chromium takes the screenshots (apt-get install chromium).
"""

import os
import shutil
import sys
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread

from optuna.trial import Trial
from optuna_dashboard import save_note
from playwright.sync_api import Browser

from mathsft.commands.dashboard_pages import refresh_study
from mathsft.layout import StudyLayout
from mathsft.reporting.study_report import write_report
from mathsft.reporting.trial_note import trial_note
from mathsft.store.database import Database
from mathsft.store.study_store import StudyStore
from mathsft.study.dashboard_server import Shown, dashboard_server
from mathsft.study.trial_page import recorded_study
from tests.browser.chromium import NARROW, PROGRAM, WIDE, chromium, visit

DOCS = Path(__file__).parents[1] / "docs"
PICTURES = DOCS / "pictures"


def main(folder: Path) -> None:
    if PROGRAM is None:
        raise SystemExit("there is no Chromium: apt-get install chromium")
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # the advised commands begin with "python"
    PICTURES.mkdir(exist_ok=True)
    with TemporaryDirectory() as scratch:
        copied = shutil.copytree(folder, Path(scratch) / folder.name, ignore=shutil.ignore_patterns("runs", "wandb"))
        layout = StudyLayout(copied)
        with closing(StudyStore.open(layout.database_url, folder.name)) as store:
            write_report(store, layout)
            write_notes(store)
            promotion, finals = store.promotion(), store.runs("final")
        if promotion is None or not finals:
            raise SystemExit(f"{folder}: the study needs a promotion and a final run")
        shutil.copy(layout.figure("study"), DOCS / "study.svg")
        shutil.copy(layout.figure(f"accuracy-{finals[-1].name}"), DOCS / "accuracy.svg")
        number = promotion.run.removeprefix("trial-")
        with chromium() as browser:
            take_report(browser, layout)
            with dashboard_server([Shown(layout, Database.of(layout, None))], 0) as server:
                Thread(target=server.serve_forever, daemon=True).start()
                pages = f"{server.address}studies/{folder.name}"
                take(
                    browser,
                    "dashboard-note",
                    f"{server.address}dashboard/studies/1/note",
                    "Most accurate trials",
                    height=840,
                )
                take(browser, "dashboard-study", pages, "Accuracy on", height=900)
                take(browser, "dashboard-trial", f"{pages}/trials/{number}", "Gold answer:", height=900)
                server.shutdown()


def write_notes(store: StudyStore) -> None:
    """Write the notes of all trials and of the study."""
    study = recorded_study(store)
    assert study is not None
    for run in store.runs("trial"):
        assert run.number is not None
        save_note(Trial(study, study.trials[run.number]._trial_id), trial_note(store, run))
    refresh_study(store)


def take_report(browser: Browser, layout: StudyLayout) -> None:
    with visit(browser, layout.report_page.as_uri(), WIDE, height=900) as opened:
        opened.page.screenshot(path=PICTURES / "report.png")
    with visit(browser, layout.report_page.as_uri(), NARROW, "dark", height=860) as opened:
        opened.page.screenshot(path=PICTURES / "report-narrow.png")


def take(browser: Browser, name: str, address: str, text: str, height: int) -> None:
    """Take a picture of a page of the dashboard, once it shows a text and has been at rest for a moment."""
    with visit(browser, address, WIDE, height=height) as opened:
        assert opened.shows(text)
        opened.page.wait_for_load_state("networkidle")
        opened.page.get_by_text(text).first.scroll_into_view_if_needed()
        opened.page.screenshot(path=PICTURES / f"{name}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
