import json

import pytest

from grit.backbone import resolve
from grit.config.sections import EVERY_LINEAR
from grit.errors import ConfigError
from ray_jobs.design.forecast import KNOWN, ModelShape, check_memory, machine_memory, memory_bytes, shape_of
from ray_jobs.design.study_presets import preset
from ray_jobs.execution.display import running_line
from ray_jobs.records.describe import duration


def test_shapes_come_from_the_hub_id_or_the_folder(tmp_path):
    assert shape_of("meta-llama/Llama-3.1-8B", "nowhere") == KNOWN["meta-llama/Llama-3.1-8B"]
    assert shape_of("x", str(tmp_path)) is None
    (tmp_path / "config.json").write_text(
        json.dumps({"num_hidden_layers": 2, "hidden_size": 8, "vocab_size": 11, "dtype": "bfloat16"})
    )
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 400)
    assert shape_of("x", str(tmp_path)) == ModelShape(parameters=200, layers=2, width=8, vocabulary=11)


def test_memory_by_hand():
    base = preset("embedded", "grit", None).base.changed(
        dtype="bfloat16", rank=4, micro_batch=2, max_length=10, targets=("q_proj", "v_proj")
    )
    shape = ModelShape(parameters=1000, layers=3, width=8, vocabulary=50)
    expected = 2 * 1000 + 16 * (2 * 4 * 8 * 2 * 3) + 34 * 20 * 8 * 3 + 10 * 20 * 50
    assert memory_bytes(base, shape, gpu=True) == expected
    assert memory_bytes(base.changed(method="qgrit"), shape, gpu=True) == expected - 2 * 1000 + 550
    recomputed = base.changed(gradient_checkpointing=True)
    kept = 34 * 20 * 8 * 3 - (2 * 20 * 8 * 3 + 34 * 20 * 8)  # inputs of all layers, and one layer whole
    assert memory_bytes(recomputed, shape, gpu=True) == expected - kept
    # Two moments of every weight that is adapted: all but the embeddings.
    every = base.changed(targets=EVERY_LINEAR, method="lora")
    plain = memory_bytes(every, shape, gpu=True)
    assert memory_bytes(every.changed(method="lora_pro"), shape, gpu=True) == plain + 8 * (1000 - 50 * 8)


@pytest.mark.parametrize(
    "name, method",
    [
        ("llama-3.2-3b", "grit"),
        ("llama-3.2-3b", "qgrit"),
        ("llama-3.1-8b", "grit"),
        ("llama-3.1-8b", "qgrit"),
    ],
)
def test_the_presets_fit_the_gpu_they_are_for(name, method):
    base = preset(name, method, None).base
    said = check_memory(
        base, shape_of(base.backbone.model, "nowhere"), gpu=True, concurrent=1, machine_bytes=None
    )
    assert "of 80 GB a trial" in said
    with pytest.raises(
        ConfigError, match=r"micro_batch = 64: would need about \d+ GB a trial and there are 80 GB"
    ):
        check_memory(
            base.changed(micro_batch=64),
            shape_of(base.backbone.model, "nowhere"),
            gpu=True,
            concurrent=1,
            machine_bytes=None,
        )


def test_too_many_at_once_is_not_blamed_on_the_batch():
    base = preset("embedded", "grit", None).base
    shape = shape_of(base.backbone.model, resolve(base.backbone.model))
    with pytest.raises(ConfigError, match=r"max-concurrent = 64: a trial would need .* at most \d+$"):
        check_memory(base, shape, gpu=False, concurrent=64, machine_bytes=4 << 30)


def test_what_is_not_known_is_said():
    assert "not predicted" in check_memory(
        preset("embedded", "grit", None).base, None, gpu=False, concurrent=1, machine_bytes=None
    )
    memory = machine_memory()
    assert memory is None or memory > 1 << 20


def test_sampled_tokens_of_earlier_tasks_are_held_in_memory():
    """Inputs and gradients of 256 tokens of each task, in every module, in float32."""
    shape = ModelShape(parameters=1_000_000, layers=4, width=128, vocabulary=512)
    base = preset("embedded", "grit").base
    alone = base.changed(method="lora", before=("reading", "context"))
    held = alone.changed(earlier_penalty=1.0)
    more = memory_bytes(held, shape, gpu=False) - memory_bytes(alone, shape, gpu=False)
    assert more == 2 * 256 * 4 * (128 + 128) * 7 * 4
    source = base.changed(source_penalty=1.0, source_tokens=64)
    apart = memory_bytes(source, shape, gpu=False) - memory_bytes(base, shape, gpu=False)
    assert apart == 64 * 4 * (128 + 128) * 7 * 4


def test_a_running_trial_is_one_line():
    line = running_line(
        "0123456789abcdef",
        {
            "method": "grit",
            "regime": "step",
            "seed": 41,
            "step": 50,
            "share": 0.5,
            "left": 600.0,
            "loss": 1.25,
            "mean_rank": 7.5,
        },
    )
    assert line == "  0123456789abcdef grit step seed 41: step 50 (50%, 10 min left), loss 1.250, rank 7.5"
    assert [duration(x) for x in (5, 89, 600, 7200)] == ["5 s", "89 s", "10 min", "2.0 h"]


@pytest.mark.parametrize("method", ["grit", "qgrit", "lora"])
@pytest.mark.parametrize("task", ["alpaca", "dolly", "boolq", "qnli", "gsm8k"])
@pytest.mark.parametrize("model", ["llama-3.2-3b", "llama-3.1-8b"])
def test_every_task_of_the_paper_fits_the_gpu_that_it_is_for(model, task, method):
    config = preset(model, method, None, task).base
    shape = shape_of(config.backbone.model, "")
    assert "of 80 GB" in check_memory(config, shape, gpu=True, concurrent=1, machine_bytes=None)
    heavy = config.optimization.micro_batch * config.optimization.max_length > 8192
    assert config.execution.gradient_checkpointing is (heavy and model == "llama-3.1-8b")
