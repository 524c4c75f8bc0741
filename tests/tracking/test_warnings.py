"""What the driver logs as a warning reaches the terminal, in one line; what it logs otherwise does not."""

import io
import logging

from rich.console import Console

from mathsft.tracking.heartbeat import Heartbeat, warnings_shown


def test_warnings_of_this_project_are_told_while_the_body_runs() -> None:
    output = io.StringIO()
    heartbeat = Heartbeat(Console(file=output, width=40), clock=lambda: 0.0)
    own = logging.getLogger("mathsft.runs.execute")
    with warnings_shown(heartbeat):
        own.warning("%s, step %d: lost; its weights are trained again\nTraceback", "trial-0", 7)
        own.info("nothing")
        logging.getLogger("optuna").warning("another's")
    own.warning("too late")
    assert output.getvalue() == "[    0.0s]  warning  trial-0, step 7: lost; its weights are trained again\n"
