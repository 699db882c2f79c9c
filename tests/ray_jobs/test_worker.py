"""A warm worker: what it has run before leaves no trace in what it runs now."""

import pytest

from grit.runtime.memory import resident_bytes
from grit.training.trainer import train
from ray_jobs.execution.job_run import Placement, explain, run_job
from ray_jobs.execution.warm.worker import held_bytes
from ray_jobs.schedule.job import Job


def _run(config, bench, folder):
    place = Placement(checkpoints=folder / "checkpoints", tables=folder)
    return run_job(Job(job_id="t", config=config), bench, None, place)


@pytest.mark.slow
def test_the_fiftieth_trial_is_the_first_bit_for_bit_and_memory_is_flat(bench, short_run, tmp_path):
    """Fifty trials of all methods on one worker, learning rates that blow up included."""
    from grit.config.sections import Budget

    base = short_run(
        budget=Budget(regime="step", amount=2), eval_examples=2, retention_documents=1, accumulation=1
    )
    others = [
        base.changed(method="lora"),
        base.changed(method="qgrit", dtype="bfloat16"),
        base.changed(learning_rate=10.0),
        base.changed(suppression="gate"),
        base.changed(placement="attention", seed=42),
    ]
    first = train(base, bench)
    sizes = []
    for number in range(1, 49):
        _run(others[number % len(others)], bench, tmp_path)
        sizes.append(resident_bytes())
    last = train(base, bench)
    assert last.predictions == first.predictions
    assert last.measured.final_ranks == first.measured.final_ranks
    assert [row["loss"] for row in last.telemetry] == [row["loss"] for row in first.telemetry]
    early, late = sum(sizes[10:20]) / 10, sum(sizes[-10:]) / 10  # the first trials load backbones and kernels
    assert late - early < 32 << 20


@pytest.mark.parametrize(
    "error, words",
    [
        (MemoryError("cannot allocate"), "out of memory .*lower micro_batch"),
        (
            RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"
            ),
            "out of memory .*lower micro_batch",
        ),
        (
            RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB\nmore"),
            "out of memory .*lower micro_batch",
        ),
        (ValueError("rank\nmore"), "^ValueError: rank$"),
    ],
)
def test_what_went_wrong_is_one_line(error, words):
    import re

    said = explain(error)
    assert re.search(words, said)
    assert "\n" not in said


def test_setup_is_measured_apart_from_training(bench, short_run, tmp_path):
    outcome = _run(short_run(), bench, tmp_path)
    assert outcome.status == "completed"
    assert outcome.setup_seconds >= 0
    assert held_bytes() > 0
