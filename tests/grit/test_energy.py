"""Energy of a run: a stated estimate on a CPU, carried through checkpoints, absent where it means nothing."""

import time

import pytest

from grit.presets.run_presets import configuration
from grit.runtime.energy import ESTIMATED, JOULES_PER_KWH, WATTS_PER_CORE, EnergyMeter
from grit.training.hooks import Hooks
from grit.training.side_by_side import train
from grit.training.workbench import Workbench


def test_a_busy_core_counts_and_waiting_does_not():
    meter, began = EnergyMeter("cpu"), time.process_time()
    time.sleep(0.2)
    assert meter.joules() < 0.1 * WATTS_PER_CORE
    while time.process_time() - began < 0.3:
        pass
    assert meter.joules() == pytest.approx(WATTS_PER_CORE * (time.process_time() - began), rel=0.05)
    assert meter.source == ESTIMATED


def test_a_run_has_its_energy_and_a_resumed_one_all_of_it(tmp_path):
    bench = Workbench()
    config = configuration("embedded", "grit", task=None, steps=12)
    config = config.changed(eval_examples=8, retention_documents=4, checkpoint_steps=4)
    taken = []

    def cut_off(step, share, loss, rank):
        if step == 9:
            raise KeyboardInterrupt

    began = time.process_time()
    with pytest.raises(KeyboardInterrupt):
        train(config, bench, checkpoints=tmp_path, hooks=Hooks(progress=cut_off))
    lost = time.process_time() - began
    measured = train(
        config, bench, checkpoints=tmp_path, hooks=Hooks(progress=lambda *a: taken.append(a))
    ).measured
    assert len(taken) == 4  # from the checkpoint at step 8
    assert measured.energy_source == ESTIMATED
    joules = measured.kwh * JOULES_PER_KWH
    assert joules > WATTS_PER_CORE * measured.cpu_seconds
    assert joules <= WATTS_PER_CORE * (time.process_time() - began)
    assert lost > 0


def test_runs_that_take_turns_have_none():
    config = configuration("embedded", "grit", task=None, steps=4)
    config = config.changed(eval_examples=4, retention_documents=2, beside=("lora",))
    measured = train(config, Workbench()).measured
    assert measured.kwh is None and measured.energy_source is None
