"""Makes the workers of a node unfit, as its environment says: for nodes that have this folder on their path.

- `GRIT_TEST_HANG` is `STEP:FILE`: one worker hangs in that step, once; the file says that one has.
- `GRIT_TEST_DIES` is a step in which every worker dies.
- `GRIT_TEST_STORAGE` is where the node finds the study's storage: not where the driver does.
- `GRIT_TEST_PROCESSOR` is the model of its processor.
"""

import builtins
import os
import sys
import time

_import = builtins.__import__


def _hang_once(note):
    try:
        os.close(os.open(note, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    time.sleep(3600)


def _with_trouble(run, step, trouble):
    """A run in whose step something happens first."""
    real = run.take_step

    def take_step(self):
        if self.state.step + 1 == step:
            trouble()
        return real(self)

    run.take_step = take_step


def _hangs(module):
    step, _, note = os.environ["GRIT_TEST_HANG"].partition(":")
    _with_trouble(module.Run, int(step), lambda: _hang_once(note))


def _is_impatient(module):
    module.Watchdog.deadline = lambda self: 5.0 if self._phase == "training" else 600.0


def _dies(module):
    _with_trouble(module.Run, int(os.environ["GRIT_TEST_DIES"]), lambda: os._exit(9))


def _looks_elsewhere(module):
    real = module.StudyStorage.__init__
    module.StudyStorage.__init__ = lambda self, root: real(self, os.environ["GRIT_TEST_STORAGE"])


def _is_another_processor(module):
    module.processor_name = lambda: os.environ["GRIT_TEST_PROCESSOR"]


#: By the variable that asks for it: the module, what it must have by then, and what is changed in it.
TROUBLES = (
    ("GRIT_TEST_HANG", "grit.training.run", "Run", _hangs),
    ("GRIT_TEST_HANG", "ray_jobs.execution.per_trial.watchdog", "Watchdog", _is_impatient),
    ("GRIT_TEST_DIES", "grit.training.run", "Run", _dies),
    ("GRIT_TEST_STORAGE", "ray_jobs.execution.nodes.storage", "StudyStorage", _looks_elsewhere),
    ("GRIT_TEST_PROCESSOR", "ray_jobs.execution.nodes.admission", "processor_name", _is_another_processor),
)
WANTED = [trouble for trouble in TROUBLES if trouble[0] in os.environ]


def _patched(name, *arguments, **options):
    module = _import(name, *arguments, **options)
    for trouble in list(WANTED):
        _, where, holds, change = trouble
        if hasattr(sys.modules.get(where), holds):
            WANTED.remove(trouble)
            change(sys.modules[where])
    return module


if WANTED:
    builtins.__import__ = _patched
