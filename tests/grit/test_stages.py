"""Tasks one after the other: which examples each step has, what is measured after each, and going on."""

import pytest
from killing import Killed, killed_at

from grit.config.registry import METHODS
from grit.config.sections import Budget, TaskSource
from grit.errors import ConfigError
from grit.stepping.learning_rate import learning_rate_factor
from grit.training.hooks import Hooks
from grit.training.stages import Stages
from grit.training.trainer import train


@pytest.fixture
def sequence(short_run):
    base = short_run(
        eval_examples=4,
        retention_documents=2,
        quality="answer_logprob",
        budget=Budget(regime="step", amount=9),
        dropout=0.1,
        accumulation=2,
    )
    return lambda **changes: base.changed(before=("reading", "context"), **changes)


def test_every_stage_has_its_own_task_in_the_order_of_a_run_of_it_alone(bench, sequence):
    config = sequence()
    stages = Stages(config, bench)
    assert [stage.task.name for stage in stages.configs] == ["reading", "context", "arithmetic"]
    assert [stages.stage_of(step) for step in range(9)] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    for number, alone in enumerate(stages.configs):
        single = Stages(alone, bench)
        for step in range(3):
            assert stages.step(3 * number + step) == single.step(step)


@pytest.mark.parametrize("amount, begins", [(9, [0, 3, 6]), (10, [0, 4, 7]), (11, [0, 4, 8])])
def test_stages_are_as_long_as_each_other_but_for_a_step(bench, sequence, amount, begins):
    stages = Stages(sequence(budget=Budget(regime="step", amount=amount)), bench)
    assert [stages.begins(stage) for stage in range(3)] == begins
    assert [stages.ended(steps) for steps in range(1, amount + 1)] == [
        {begins[1]: 0, begins[2]: 1}.get(steps) for steps in range(1, amount + 1)
    ]
    assert [stages.progress(step, step / amount) for step in begins] == [0.0, 0.0, 0.0]


def test_replay_draws_its_share_from_what_was_learned_before(bench, sequence):
    config = sequence(replay=0.5)
    stages, plain = Stages(config, bench), Stages(sequence(), bench)
    size = config.step_sequences
    assert stages.step(0) == plain.step(0)
    earlier = {row.tokens for pack in bench.packs(stages.configs[0]) for row in pack}
    for step in (3, 4, 5):
        drawn = [pack for pack in stages.step(step) if pack[0].tokens in earlier]
        assert len(stages.step(step)) == size
        assert len(drawn) == size // 2
    assert stages.step(7) == Stages(config, bench).step(7)


def test_a_run_of_one_task_has_one_stage_and_no_table(bench, sequence):
    alone = sequence().stages()[-1]
    result = train(alone, bench)
    assert result.stages == []
    assert result.measured.steps == 9


def test_every_task_so_far_is_measured_after_every_stage(bench, sequence):
    config = sequence(method="grit", T=2)
    result = train(config, bench)
    counted = {}
    for row in result.stages:
        key = (row["after"], row["learned"], row["task"], row["kind"])
        counted[key] = counted.get(key, 0) + 1
    tasks = ["reading", "context", "arithmetic"]
    expected = {
        (after, learned, tasks[learned - 1], "task"): 4
        for after in (1, 2, 3)
        for learned in range(1, after + 1)
    }
    assert counted == {**expected, **{(after, None, None, "retention"): 2 for after in (1, 2, 3)}}
    last = [row for row in result.stages if row["after"] == 3]
    own = [row["value"] for row in last if row["learned"] == 3]
    assert sum(own) / 4 == pytest.approx(result.measured.quality)
    base = bench.base_scores(config.stages()[0], None).predictions
    reading = [row["base_value"] for row in last if row["learned"] == 1]
    assert reading == [-prediction.answer_loss for prediction in base]
    telemetry = [row["learning_rate"] for row in result.telemetry]
    rate, warmup = config.optimization.learning_rate, config.optimization.warmup_fraction
    assert telemetry == pytest.approx(
        [rate * learning_rate_factor(step % 3 / 3, warmup) for step in range(9)]
    )


@pytest.mark.parametrize(
    "method, kept",
    [*((name, {"replay": 0.25}) for name in ("lora", "grit", "osf")), ("lora", {"earlier_penalty": 300.0})],
)
def test_interrupted_in_any_stage_equals_uninterrupted(bench, sequence, tmp_path, method, kept):
    config = sequence(method=method, checkpoint_steps=1, **kept)
    whole = train(config, bench)
    for kill in (3, 4, 8):
        with pytest.raises(Killed):
            train(config, bench, checkpoints=tmp_path, hooks=Hooks(progress=killed_at(kill)))
    resumed = train(config, bench, checkpoints=tmp_path)
    assert resumed.measured.resumed_from_step == 7
    assert [row["loss"] for row in resumed.telemetry] == [row["loss"] for row in whole.telemetry]
    assert resumed.stages == whole.stages
    assert METHODS[method].title


def test_another_tasks_losses_are_no_divergence(bench, sequence):
    """An easy task before a hard one: the loss jumps where the task changes."""
    config = sequence(method="lora", learning_rate=3e-4, budget=Budget(regime="step", amount=60))
    config = config.changed(before=("arithmetic",), task=TaskSource(name="entailment"))
    result = train(config, bench)
    assert result.status == "completed"
    losses = [row["loss"] for row in result.telemetry]
    assert min(losses[30:38]) > 2 * sum(losses[:8]) / 8


def test_data_that_a_method_looks_at_first_are_the_first_tasks(bench, sequence):
    examples = bench.first_examples(sequence())
    first = bench.training_data(sequence().stages()[0])[0].tokens
    assert any(list(first) == row[: len(first)] for batch in examples for row in batch["input_ids"].tolist())


def test_probes_of_time_and_memory_are_of_one_task(sequence):
    from grit.training.memory_probe import probe

    assert probe(sequence(replay=0.25)).sequence.before == ()


def test_what_was_learned_before_is_part_of_who_a_trial_is(bench, sequence):
    config = sequence()
    content = bench.content(config)
    assert "before" in content
    alone = config.stages()[-1]
    assert "before" not in bench.content(alone)
    others = (alone, config.changed(before=("context", "reading")), config.changed(replay=0.5))
    ids = {other.identity(bench.content(other)) for other in (config, *others)}
    assert len(ids) == 4


@pytest.mark.parametrize(
    "changes, name",
    [
        ({"budget": Budget(regime="time", amount=2.0)}, "before"),
        ({"budget": Budget(regime="step", amount=5)}, "before"),
        ({"before": ("gsm8k=only",)}, "before"),
        ({"before": (), "replay": 0.5}, "replay"),
        ({"beside": ("lora",)}, "beside"),
        ({"replay": 1.5}, "replay"),
        ({"replay": 0.05}, "replay"),
        ({"replay": 0.99}, "replay"),
    ],
)
def test_what_cannot_be_is_refused(sequence, changes, name):
    with pytest.raises(ConfigError, match=name):
        sequence().changed(**changes)
