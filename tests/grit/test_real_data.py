"""Real text and a pretrained backbone, where they lie beside the checkout.

Each task trains, evaluates and repeats, in bf16 and on NF4.
"""

import pytest

from grit.config.method import GritConfig
from grit.config.run_config import RunConfig
from grit.config.sections import Budget, TaskSource
from grit.tasks.loading import load_task
from grit.training.trainer import train

pytestmark = pytest.mark.shared
FILES = {
    "gsm8k": ("gsm8k_train.jsonl", "gsm8k_test.jsonl"),
    "alpaca": ("alpaca_en_1k.jsonl", None),
    "boolq": ("boolq_nopassage_train.jsonl", "boolq_nopassage_test.jsonl"),
}


def _config(shared_data, task, method, dtype):
    train_file, eval_file = (
        None if name is None else str(shared_data / "data" / name) for name in FILES[task]
    )
    source = TaskSource(
        name=task,
        train_file=train_file,
        eval_file=eval_file,
        retention_file=str(shared_data / "data/general_text_heldout.jsonl"),
    )
    grit = GritConfig(cov_update_freq=1, kfac_update_freq=2, reprojection_freq=2, kfac_min_samples=64)
    return RunConfig.of(
        model=str(shared_data / "backbone"),
        method=method,
        task=source,
        budget=Budget(regime="step", amount=4),
        rank=8,
        alpha=16.0,
        dropout=0.1,
        dtype=dtype,
        learning_rate=2e-3,
        micro_batch=2,
        accumulation=2,
        max_length=96,
        eval_examples=4,
        eval_batch=4,
        retention_documents=3,
        max_new_tokens=12,
        grit=grit,
    )


@pytest.mark.parametrize("task", FILES)
@pytest.mark.parametrize("method, dtype", [("grit", "bfloat16"), ("qgrit", "bfloat16"), ("grit", "float32")])
def test_every_task_trains_and_is_measured(bench, shared_data, task, method, dtype):
    config = _config(shared_data, task, method, dtype)
    result = train(config, bench)
    assert result.status == "completed"
    assert result.measured.answer_loss < result.measured.base_answer_loss
    assert result.measured.reprojections >= 1
    assert 0 < result.measured.retention < 1.2
    assert result.measured.skipped_steps == 0
    wanted = set(load_task(config.task).also)
    assert set(result.measured.metrics) == wanted
    for name, found in result.measured.metrics.items():
        assert (found["value"] is None) == (found["problem"] is not None), name
    assert ("bertscore" not in wanted) or "encoder" in result.measured.metrics["bertscore"]["problem"]
    assert (result.measured.truncated_examples > 0) == (
        task != "boolq"
    )  # at 96 tokens; boolq's questions are short


def test_the_same_seed_makes_the_same_predictions(bench, shared_data):
    config = _config(shared_data, "gsm8k", "qgrit", "bfloat16")
    assert train(config, bench).predictions == train(config, bench).predictions


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "method", ["lora_pro", "lora_xs", "lora_sb", "svfit", "loldu", "s2ft", "lift", "loca", "matryoshka"]
)
def test_a_neighbour_trains_on_a_pretrained_model(bench, shared_data, method, dtype):
    config = _config(shared_data, "gsm8k", method, dtype)
    config = config.changed(learning_rate=1e-4 * config.spec.rate_multiple)
    result = train(config, bench)
    assert result.status == "completed"
    assert result.measured.answer_loss < result.measured.base_answer_loss
    assert result.measured.skipped_steps == 0


def test_files_of_the_field_are_read_whole(shared_data):
    tasks = {name: load_task(_config(shared_data, name, "grit", "float32").task) for name in FILES}
    assert {name: (len(task.train), len(task.evaluation)) for name, task in tasks.items()} == {
        "gsm8k": (7473, 1319),
        "alpaca": (900, 99),
        "boolq": (9427, 3270),
    }
    for task in tasks.values():
        assert all(task.score(e.answer, e) == 1 for e in task.evaluation[:20])
