"""The presets against the paper's Tables 5, 6 and 7 and its long-run controls, as read from it."""

import pytest

from analysis.studies.peft_comparison.placed import other_settings
from analysis.studies.peft_comparison.published import read_results
from grit.config.sections import Budget
from grit.errors import ConfigError
from grit.presets.run_presets import DEPARTURES, configuration, departures

#: steps, warm-up steps, sequence length, batch, accumulation, damping (Tables 6, 5, 7).
PAPER = {
    "alpaca": (4000, 200, 2048, 8, 4, 0.003),
    "dolly": (2000, 100, 2048, 8, 4, 0.003),
    "boolq": (1200, 60, 512, 8, 4, 0.005),
    "qnli": (1200, 60, 512, 32, 4, 0.005),
    "gsm8k": (3000, 150, 1024, 8, 4, 0.005),
}
MODELS = {"llama-3.2-3b": ("meta-llama/Llama-3.2-3B", 16), "llama-3.1-8b": ("meta-llama/Llama-3.1-8B", 32)}


@pytest.mark.parametrize("task", PAPER)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("method", ["lora", "qlora", "grit", "qgrit"])
def test_llama_presets_are_the_papers(model, task, method):
    config = configuration(model, method, task=task)
    steps, warmup, length, batch, accumulation, damping = PAPER[task]
    assert config.budget == Budget(regime="step", amount=steps)
    assert config.optimization.warmup_fraction * steps == pytest.approx(warmup)
    assert (
        config.optimization.max_length,
        config.optimization.micro_batch,
        config.optimization.accumulation,
    ) == (length, batch, accumulation)
    assert (config.backbone.model, config.adapter.rank) == MODELS[model]
    assert config.adapter.alpha == 16
    assert config.adapter.dropout == 0
    assert config.optimization.max_grad_norm == 1.0
    assert config.backbone.dtype == "bfloat16"
    assert config.quantized == method.startswith("q")
    assert config.seed == 42
    grit = config.grit
    assert (grit.kfac_min_samples, grit.kfac_update_freq, grit.kfac_damping) == (256, 150, damping)
    expected = min(500, steps // 6)
    assert grit.reprojection_warmup_steps == grit.rank_adaptation_start_step == expected
    assert expected >= 200
    assert grit.rank_adaptation_threshold == 0.99
    assert grit.min_lora_rank == 4
    assert grit.ng_warmup_steps == (300 if task == "dolly" else 0)
    assert config.evaluation.temperature == 0.0
    assert set(config.adapter.targets) == {
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    }


def test_departures_are_listed_with_reasons_and_only_where_a_source_is_followed():
    assert departures("llama-3.2-3b")
    assert departures("peft-metamath")
    assert not departures("embedded")
    assert all(len(row) == 4 and row[3] for rows in DEPARTURES.values() for row in rows)


@pytest.mark.parametrize("method", ["lora", "grit"])
def test_peft_metamath_is_the_published_cell(method):
    """`default_training_params.json` and `lora/llama-3.2-3B-rank32` of PEFT's method comparison."""
    config = configuration("peft-metamath", method)
    optimization, adapter = config.optimization, config.adapter
    assert config.budget == Budget(regime="step", amount=5000)
    assert (config.backbone.model, config.backbone.dtype) == ("meta-llama/Llama-3.2-3B", "bfloat16")
    assert (optimization.learning_rate, optimization.weight_decay) == (1e-4, 0.1)
    assert (optimization.max_length, config.step_sequences, optimization.max_grad_norm) == (768, 4, 1.0)
    assert (optimization.warmup_fraction, optimization.loss_on) == (0.1, "text")
    assert (adapter.rank, adapter.alpha, adapter.dropout, set(adapter.targets)) == (
        32,
        64,
        0,
        {"q_proj", "v_proj"},
    )
    assert (config.evaluation.eval_examples, config.evaluation.max_new_tokens) == (1319, 300)
    assert (config.task.name, config.evaluation.retention_documents, config.seed) == ("metamathqa", 100, 0)
    assert config.evaluation.quality == "primary"
    with pytest.raises(ConfigError, match="task = 'gsm8k': must be metamathqa"):
        configuration("peft-metamath", method, task="gsm8k")


def test_peft_metamath_is_what_their_own_result_file_says(shared_data):
    results = read_results(shared_data / "data/peft_metamathqa")
    config = configuration("peft-metamath", "lora")
    differing = other_settings(config, results.reference)
    assert differing == []
    changed = config.changed(learning_rate=2e-4, rank=32)
    assert other_settings(changed, results.reference) == [("learning_rate", 1e-4, 2e-4)]


def test_parameter_counts_are_the_papers():
    """24.31 M trained parameters on 3B at rank 16 (Table 1).

    The seven projections of 28 layers, at Llama 3.2-3B's widths.
    """
    width, kv, inner, layers = 3072, 1024, 8192, 28
    per_direction = {
        "q_proj": 2 * width,
        "k_proj": width + kv,
        "v_proj": width + kv,
        "o_proj": 2 * width,
        "gate_proj": width + inner,
        "up_proj": width + inner,
        "down_proj": width + inner,
    }
    config = configuration("llama-3.2-3b", "lora", task="gsm8k")
    assert (
        round(
            layers * config.adapter.rank * sum(per_direction[name] for name in config.adapter.targets) / 1e6,
            2,
        )
        == 24.31
    )
