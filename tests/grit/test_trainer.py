from dataclasses import replace

import pytest
import torch
from killing import Killed, killed_at

from grit.adapters.peft_adapters import adapted_layers
from grit.config.method import GritConfig
from grit.config.sections import Budget, TaskSource
from grit.errors import ConfigError
from grit.geometry.events import NonfiniteGradient
from grit.stepping.learning_rate import learning_rate_factor
from grit.training.hooks import Hooks
from grit.training.result import TABLES
from grit.training.side_by_side import train as train_side_by_side
from grit.training.trainer import on_finished, train
from grit.training.workbench import Workbench

#: What a clock measured: everything else of a result must be equal, bit for bit.
TIMED = {
    "train_seconds",
    "adapter_seconds",
    "cpu_seconds",
    "kwh",
    "eval_seconds",
    "step_time_ms",
    "components_ms",
    "overhead",
    "peak_memory_bytes",
    "disturbance",
    "resumed_from_step",
}


def _comparable(result):
    """All that must not depend on the clock."""
    measured = result.measured.model_dump(exclude={*TIMED, "curve"})
    curve = [_untimed(row) for row in result.measured.curve]
    events = [_untimed(row) for row in result.events]
    telemetry = [_untimed(row) for row in result.telemetry]
    tables = (result.predictions, result.geometry, result.audits)
    return (result.status, result.reason, measured, curve, events, telemetry, tables)


def _untimed(row):
    timed = ("train_seconds", "seconds")
    return {name: value for name, value in row.items() if name not in timed and not name.startswith("ms_")}


def test_same_seed_same_result_bit_for_bit(bench, short_run):
    first, second = train(short_run(), bench), train(short_run(), bench)
    assert _comparable(first) == _comparable(second)
    assert _comparable(train(short_run(seed=42), bench)) != _comparable(first)


@pytest.mark.parametrize("suppression", ["project", "gate"])
@pytest.mark.parametrize("kill", [3, 4, 5, 9])
def test_interrupted_equals_uninterrupted(bench, reference, short_run, tmp_path, kill, suppression):
    """Killed around the reprojection of step 4, resumed from the last checkpoint (every step).

    The same bits in the end.
    """
    grit = replace(short_run().grit, suppression=suppression, rank_adaptation_threshold=0.8, min_lora_rank=2)
    config = short_run(grit=grit, checkpoint_steps=1)
    whole = reference(config)
    assert whole.measured.reprojections == 2
    assert min(whole.measured.final_ranks) < 8
    with pytest.raises(Killed):
        train(config, bench, checkpoints=tmp_path, hooks=Hooks(progress=killed_at(kill)))
    resumed = train(config, bench, checkpoints=tmp_path)
    assert resumed.measured.resumed_from_step == kill - 1
    assert _comparable(resumed) == _comparable(whole)
    assert not (tmp_path / "run.pt").exists()


def test_a_fresh_process_that_scores_nothing_first_resumes_bit_for_bit(bench, short_run, tmp_path):
    """The untuned model's scores are kept in a file: a worker that takes over begins with a training pass."""
    config = short_run(checkpoint_steps=5, cov_update_freq=4)
    whole = train(config, bench)
    for _ in range(2):
        fresh = Workbench(base_cache=tmp_path / "base")
        assert _comparable(train(config, fresh)) == _comparable(whole)
    with pytest.raises(Killed):
        train(config, fresh, checkpoints=tmp_path / "state", hooks=Hooks(progress=killed_at(7)))
    fresh = Workbench(base_cache=tmp_path / "base")
    resumed = train(config, fresh, checkpoints=tmp_path / "state")
    assert resumed.measured.resumed_from_step == 5
    assert _comparable(resumed) == _comparable(whole)


def test_tables_hold_what_is_declared_of_them(bench, short_run):
    results = [
        train(short_run(stability=True), bench),
        train_side_by_side(short_run(beside=("lora",)), bench),
        train(short_run(truncations=(2,), ladder=(4,), scales=(0.5,), preconditioner="none", T=None), bench),
        train(short_run(before=("reading",)), bench),
    ]
    for result in results:
        for name, rows in result.tables().items():
            columns = {key: [row.get(key) for row in rows] for row in rows for key in row}
            assert TABLES[name].problem(columns) is None, name
    assert {name for result in results for name in result.tables()} == set(TABLES)


def test_the_backbone_is_left_as_it_was_found(bench, short_run):
    first = train(short_run(), bench)
    for method in ("lora", "grit"):
        train(short_run(method=method, learning_rate=0.05), bench)
    assert _comparable(train(short_run(), bench)) == _comparable(first)


def test_grit_without_its_parts_is_lora_bit_for_bit(bench, reference, short_run):
    off = GritConfig(preconditioner="none", reprojection_freq=None)
    plain, disabled = reference(short_run(method="lora")), train(short_run(grit=off), bench)
    assert [row["loss"] for row in plain.telemetry] == [row["loss"] for row in disabled.telemetry]
    assert plain.predictions == disabled.predictions


@pytest.mark.parametrize(
    "knob, value",
    [
        ("rank_adaptation_threshold", 0.95),
        ("rank_adaptation_threshold", 0.999),
        ("reprojection_freq", 3),
        ("reprojection_freq", 5),
        ("kfac_damping", 1e-4),
        ("kfac_damping", 3e-3),
    ],
)
def test_every_knob_changes_training(reference, short_run, knob, value):
    """From the default to its neighbours on the sensitivity study's grid."""
    whole = short_run(model="embedded")  # of half of it every direction is kept here
    grit = replace(whole.grit, min_lora_rank=1)
    base = reference(whole.changed(grit=grit))
    changed = reference(whole.changed(grit=replace(grit, **{knob: value})))
    assert [row["loss"] for row in changed.telemetry] != [row["loss"] for row in base.telemetry]


def test_time_budget_is_kept_and_its_schedule_follows_the_clock(bench, short_run):
    result = train(short_run(budget=Budget(regime="time", amount=1.0)), bench)
    slowest = max(row["ms_step"] for row in result.telemetry) / 1e3
    assert abs(result.measured.train_seconds - 1.0) <= slowest
    rates = [row["learning_rate"] for row in result.telemetry]
    expected = [
        2e-3 * learning_rate_factor(seconds / 1.0, 0.05)
        for seconds in (0.0, *[row["train_seconds"] for row in result.telemetry[:-1]])
    ]
    assert rates == pytest.approx(expected)


def test_components_are_exclusive_and_complete(reference, short_run):
    result = reference(short_run())
    for row in result.telemetry:
        parts = sum(value for name, value in row.items() if name.startswith("ms_") and name != "ms_step")
        assert parts == pytest.approx(row["ms_step"])
    assert result.measured.components_ms["fisher"] > 0
    assert result.measured.components_ms["reprojection"] > 0
    assert 0 < result.measured.overhead < 1
    assert reference(short_run(method="lora")).measured.overhead == 0


@pytest.mark.parametrize("method", ["qlora", "qgrit"])
def test_nf4_learns_on_the_cpu_by_the_same_code(bench, short_run, method):
    config = short_run(
        method=method,
        budget=Budget(regime="step", amount=30),
        quality="answer_logprob",
        dtype="bfloat16",
        eval_examples=16,
    )
    result = train(config, bench)
    assert result.status == "completed"
    assert result.measured.answer_loss < result.measured.base_answer_loss - 1.0
    assert all(torch.isfinite(torch.tensor(row["loss"])) for row in result.telemetry)
    if method == "qgrit":
        assert result.measured.reprojections == 7


def test_q_grit_has_a_switch_of_its_own(bench, short_run):
    """Damping by the noise of the 4-bit weights changes training."""
    base = short_run(method="qgrit", dtype="bfloat16")
    losses = {}
    for name, changes in {"default": {}, "damping": {"quantization_damping": 100.0}}.items():
        losses[name] = [
            row["loss"] for row in train(base.changed(grit=replace(base.grit, **changes)), bench).telemetry
        ]
    assert losses["damping"] != losses["default"]


def test_lora_learns_and_forgets(bench, short_run):
    result = train(
        short_run(method="lora", budget=Budget(regime="step", amount=40), quality="answer_logprob"), bench
    )
    assert result.measured.quality > result.measured.base_quality + 1.0
    assert result.measured.forgetting > 0.02
    assert result.measured.footprint == 1.0
    assert result.measured.final_ranks == []


def test_a_run_that_blows_up_is_called_diverged(bench, short_run):
    result = train(
        short_run(
            method="lora", learning_rate=3.0, budget=Budget(regime="step", amount=60), max_grad_norm=1e6
        ),
        bench,
    )
    assert result.status == "diverged"
    assert result.reason is not None
    assert "step" in result.reason


def test_a_non_finite_gradient_never_reaches_the_weights(bench, short_run):
    """Poisons the gradients of two steps; the steps are dropped and counted, and weights stay finite."""
    from grit.geometry.attach import attach

    config = short_run()
    model = bench.adapted(config)
    try:
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=1e-2)
        handle = attach(
            model,
            optimizer,
            GritConfig(max_grad_norm=1.0, cov_update_freq=1, kfac_update_freq=1, kfac_min_samples=1),
        )
        from grit.data.encode import collate

        batch = collate(bench.training_data(config)[:4], bench.tokenizer(config).pad_token_id)
        model.train()
        for step in range(4):
            model(**batch).loss.backward()
            if step in (1, 2):
                parameters[5].grad[0, 0] = float("nan") if step == 1 else float("inf")
            before = parameters[0].detach().clone()
            optimizer.step()
            assert torch.equal(before, parameters[0]) == (step in (1, 2))
            optimizer.zero_grad()
        assert all(torch.isfinite(p).all() for p in parameters)
        assert [event.step for event in handle.events if isinstance(event, NonfiniteGradient)] == [2, 3]
    finally:
        bench.release(model)


def test_what_is_scored_has_the_rank_that_is_counted(bench, short_run, tmp_path):
    """T = 4 of 10 steps.

    The optimizer refills discarded directions in steps 9 and 10, and the end of the run truncates them again.
    """
    config = short_run(grit=replace(short_run().grit, rank_adaptation_threshold=0.8, min_lora_rank=2))
    seen = {}

    def look(state):
        state.restored(tmp_path)
        for layer in state.handle.layers:
            update = layer.up.weight.detach().double() @ layer.down.weight.detach().double()
            largest = torch.linalg.matrix_norm(update, 2)
            seen[layer.name] = int((torch.linalg.svdvals(update) > 1e-6 * largest).sum())

    result = train(config, bench, checkpoints=tmp_path, keep=True)
    on_finished(config, bench, look)
    assert result.measured.reprojections == 2
    assert min(result.measured.final_ranks) < 8
    assert result.events[-1]["trigger"] == "end"
    assert all(
        seen[name] <= rank
        for name, rank in zip(result.measured.modules, result.measured.final_ranks, strict=True)
    )
    assert 0 < result.measured.footprint < 1


def test_on_the_way_too_what_is_scored_is_what_is_counted(bench, short_run):
    """T = 4, looked at after step 5: scored as if training had ended there, and trained on as if not."""
    changes = {"rank_adaptation_threshold": 0.8, "min_lora_rank": 2}
    config = short_run(grit=replace(short_run().grit, **changes), evaluations=2, micro_batch=2)
    ranks, scored, fully = {}, bench.score, bench.score_fully

    def look(model):
        for layer in adapted_layers(model):
            update = layer.up.weight.detach().double() @ layer.down.weight.detach().double()
            largest = torch.linalg.matrix_norm(update, 2)
            kept = int((torch.linalg.svdvals(update) > 1e-6 * largest).sum())
            ranks.setdefault(layer.name, []).append(kept)

    def score(model, config, metric):
        look(model)
        return scored(model, config, metric)

    def score_fully(model, config):
        look(model)
        return fully(model, config)

    bench.score, bench.score_fully = score, score_fully
    try:
        looked_at = train(config, bench)
    finally:
        del bench.score, bench.score_fully
    assert [point["step"] for point in looked_at.measured.curve] == [0, 5, 10]
    assert all(kept[0] < 8 for kept in ranks.values())
    unwatched = train(config.changed(evaluations=1), bench)
    assert [row["loss"] for row in looked_at.telemetry] == [row["loss"] for row in unwatched.telemetry]
    assert looked_at.measured.final_ranks == unwatched.measured.final_ranks
    assert looked_at.measured.forgetting == unwatched.measured.forgetting


@pytest.mark.parametrize(
    "changes",
    [
        {"preconditioner": "kfac"},
        {"preconditioner": "none"},
        {"damping_scale": "relative"},
        {"basis": "balanced"},
        {"two_sided": False},
        {"suppression": "gate"},
        {"project_momentum": False},
        {"rank_policy": "growth"},
        {"rank_adaptation": False},
        {"ema_decay": 0.9},
        {"reprojection_mix": 0.5},
        {"inversion_device": "model"},
        {"damping_reference_batch": 64},
        {"ng_warmup_steps": 5},
        {"kfac_update_freq": 5},
        {"kfac_min_samples": 2000},
        {"cov_update_freq": 3},
        {"reprojection_warmup_steps": 5},
        {"rank_adaptation_start_step": 6},
        {"min_lora_rank": 6},
        {"reprojection_trigger": "adaptive", "reprojection_band": 0.5},
        {"rank_energy_ema": 0.99, "reprojection_freq": 2},
        {"rank_hysteresis": 0.09},
        {"lambda_k": 0.01},
        {"lambda_r": 0.1},
        {"lambda_k": 0.01, "regularizer_warmup_steps": 5},
        {"spectral_snr_min": 5.0},
        {"entropy_floor": 0.95},
        {"subspace_mixing": 0.5},
        {"share_statistics": "projection"},
        {"cadence": "adaptive", "cadence_window": 4},
        {"gradient_tokens": "labelled"},
        {"preconditioner": "soap"},
        {"preconditioner": "kfac", "trust_region": 1e-6},
        {"source_weight": 0.5},
        {"source_penalty": 30.0},
    ],
)
def test_every_switch_acts_and_trains(bench, reference, short_run, changes):
    brief = short_run(accumulation=1, eval_examples=4, retention_documents=2)
    grit = replace(brief.grit, rank_adaptation_threshold=0.9, min_lora_rank=2)
    if "rank_energy_ema" in changes or "cadence" in changes:  # each needs several occasions to differ
        grit = replace(grit, reprojection_freq=2, kfac_update_freq=1, rank_adaptation_threshold=0.8)
        brief = brief.changed(model="embedded")
    default = reference(brief.changed(grit=grit))
    switched = train(brief.changed(grit=replace(grit, **changes)), bench)
    assert switched.status == "completed"
    assert switched.measured.answer_loss < switched.measured.base_answer_loss
    same = [row["loss"] for row in switched.telemetry] == [row["loss"] for row in default.telemetry]
    assert same == (changes == {"inversion_device": "model"})
    assert default.measured.modules == switched.measured.modules


@pytest.mark.parametrize(
    "changes",
    [
        {"basis": "balanced", "suppression": "gate"},
        {"rank_policy": "growth", "reprojection_freq": 2},
        {
            "cadence": "adaptive",
            "cadence_window": 4,
            "lambda_r": 0.1,
            "lambda_k": 1e-3,
            "regularizer_warmup_steps": 8,
        },
        {
            "reprojection_trigger": "adaptive",
            "reprojection_band": 0.01,
            "reprojection_freq": 2,
            "rank_energy_ema": 0.5,
            "subspace_mixing": 0.3,
        },
        {"preconditioner": "soap", "reprojection_freq": 2},
        {"preconditioner": "kfac", "source_weight": 0.5, "source_penalty": 30.0, "trust_region": 1e-6},
    ],
)
def test_runs_with_more_state_resume_bit_for_bit(bench, short_run, tmp_path, changes):
    grit = replace(short_run().grit, **{"rank_adaptation_threshold": 0.8, "min_lora_rank": 2, **changes})
    config = short_run(grit=grit, checkpoint_steps=1)
    whole = train(config, bench)
    with pytest.raises(Killed):
        train(config, bench, checkpoints=tmp_path, hooks=Hooks(progress=killed_at(6)))
    assert _comparable(train(config, bench, checkpoints=tmp_path)) == _comparable(whole)


def test_a_finished_run_leaves_nothing_in_memory(bench, short_run, monkeypatch):
    import weakref

    from grit.training import trainer

    alive = []

    class WatchedRun(trainer.Run):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            alive.append(weakref.ref(self.state.handle))
            alive.append(weakref.ref(self.state.parameters[0]))

    monkeypatch.setattr(trainer, "Run", WatchedRun)
    train(short_run(), bench)
    assert [ref() for ref in alive] == [None, None]


def test_targets_that_do_not_exist_are_named(bench, short_run):
    with pytest.raises(ConfigError, match="no layer named w_pack"):
        train(short_run(targets=("q_proj", "w_pack")), bench)


def test_stop_on_request_is_clean(bench, short_run):
    steps = []
    result = train(
        short_run(),
        bench,
        hooks=Hooks(should_stop=lambda: len(steps) >= 3, progress=lambda step, *_: steps.append(step)),
    )
    assert (result.status, result.measured.steps) == ("stopped", 3)
    assert len(result.predictions) == 12


def test_curve_has_the_points_asked_for(bench, short_run):
    result = train(short_run(evaluations=5), bench)
    assert [point["step"] for point in result.measured.curve] == [0, 2, 4, 6, 8, 10]
    assert result.measured.curve[-1]["quality"] == result.measured.quality
    assert result.measured.curve[0]["forgetting"] == 0


def test_an_empty_train_split_is_refused(bench, short_run, tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    source = TaskSource(name="gsm8k", train_file=str(empty), eval_file=str(empty), retention_file=str(empty))
    with pytest.raises(ConfigError, match="train-file.*is empty"):
        train(short_run(task=source), bench)


def test_the_arithmetic_is_set_for_each_run_and_recorded(bench, short_run):
    exact = train(short_run(deterministic=True, tf32=True), bench)
    plain = train(short_run(), bench)
    assert exact.measured.numerics == {"deterministic": True, "tf32": True}
    assert plain.measured.numerics == {"deterministic": False, "tf32": False}
    assert exact.measured.quality == plain.measured.quality  # on one CPU thread runs repeat themselves anyway


@pytest.mark.parametrize("method", ["lora", "grit", "qgrit", "oft"])
def test_activations_that_are_computed_again_change_nothing(bench, short_run, method):
    kept = short_run(method=method, quality="answer_logprob")
    whole, again = train(kept, bench), train(kept.changed(gradient_checkpointing=True), bench)
    assert [row["loss"] for row in again.telemetry] == [row["loss"] for row in whole.telemetry]
    assert again.measured.forgetting == whole.measured.forgetting
    assert again.measured.final_ranks == whole.measured.final_ranks
    assert not bench.backbone(kept).is_activation_checkpointing


def test_attention_is_computed_as_asked(bench, short_run):
    losses = []
    for attention in ("eager", "sdpa"):
        config = short_run(method="lora", dropout=0.0, attention=attention)
        losses.append([row["loss"] for row in train(config, bench).telemetry])
        assert bench.backbone(config).config._attn_implementation == attention
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    with pytest.raises(ConfigError, match="attention = 'flash_attention_2'"):
        bench.backbone(short_run(attention="flash_attention_2"))
