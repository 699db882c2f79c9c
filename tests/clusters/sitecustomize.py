"""Makes one worker hang, once: for the scenario `step_hangs`, whose nodes have this folder on their path.

`GRIT_TEST_HANG` is `STEP:FILE`: the step in which it hangs, and the file that says that one has.
"""

import builtins
import os
import sys
import time

_import = builtins.__import__


def _hanging(step, note):
    def take_step(run):
        if run.state.step + 1 == step:
            try:
                os.close(os.open(note, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                pass
            else:
                time.sleep(3600)
        return take_step.real(run)

    return take_step


def _patched(name, *arguments, **options):
    module = _import(name, *arguments, **options)
    run = getattr(sys.modules.get("grit.training.run"), "Run", None)
    if run is not None and not hasattr(run, "hangs"):
        step, _, note = os.environ["GRIT_TEST_HANG"].partition(":")
        hanging = _hanging(int(step), note)
        hanging.real, run.take_step, run.hangs = run.take_step, hanging, True
    watchdog = getattr(sys.modules.get("ray_jobs.execution.per_trial.watchdog"), "Watchdog", None)
    if watchdog is not None:
        watchdog.deadline = lambda self: 5.0 if self._phase == "training" else 600.0
    return module


if "GRIT_TEST_HANG" in os.environ:
    builtins.__import__ = _patched
