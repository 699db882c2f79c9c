"""GRIT in Trainer through one callback, and losses that a trainer computes itself."""

import copy

import pytest
import torch
from oracles import assert_factors, factors_by_definition
from peft import PeftModel

from grit.adapters.peft_adapters import adapted_layers, quiet_peft
from grit.capture.passes import is_attached
from grit.config.method import GritConfig
from grit.errors import ConfigError
from grit.geometry.attach import attach
from grit.integrations.trainer_callback import STATE_FILE, GritCallback

WATCH = GritConfig(cov_update_freq=1, preconditioner="none", T=None)
ACTIVE = GritConfig(
    cov_update_freq=1, kfac_update_freq=1, kfac_min_samples=1, T=2, min_lora_rank=1, tau=0.8, lambda_=1e-2
)
pytestmark = pytest.mark.filterwarnings("ignore")


def _rows(token_batches):
    return [{key: batch[key][i] for key in batch} for batch in token_batches() for i in range(2)]


def _trainer(model, rows, folder, callback, **arguments):
    from transformers import Trainer, TrainingArguments

    class InOrder(Trainer):
        def _get_train_sampler(self, *_):
            return torch.utils.data.SequentialSampler(self.train_dataset)

    settings = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 2,
        "max_steps": 4,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "max_grad_norm": 0.05,
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        "logging_strategy": "no",
        **arguments,
    }
    return InOrder(
        model=model,
        args=TrainingArguments(**settings),
        train_dataset=rows,
        eval_dataset=rows[:2],
        callbacks=[callback],
    )


def _weights(model):
    return [p.detach().clone() for p in model.parameters() if p.requires_grad]


def _in_a_loop(model, batches, config, **more):
    """What the callback is held against: the same steps in a loop of one's own."""
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0
    )
    handle = attach(model.train(), optimizer, config, **more)
    for batch in batches:
        items = int((batch["labels"][:, 1:] != -100).sum())
        model(**batch, num_items_in_batch=items).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    handle.finish()
    return handle


def test_a_callback_is_the_loop_with_clipping_behind_preconditioning(tiny_llama, token_batches, tmp_path):
    callback, model = GritCallback(ACTIVE), tiny_llama(dropout=0.0)
    trainer = _trainer(model, _rows(token_batches), tmp_path, callback)
    trainer.train()
    assert trainer.args.max_grad_norm == 0.05  # as it was before
    plain = tiny_llama(dropout=0.0)
    config = GritConfig(**{**ACTIVE.to_dict(), "max_grad_norm": 0.05})
    handle = _in_a_loop(plain, token_batches(), config)
    assert callback.handle.guard.norm == pytest.approx(handle.guard.norm, rel=1e-9)
    assert callback.handle.ranks() == handle.ranks()
    for ours, theirs in zip(_weights(model), _weights(plain), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_a_resumed_training_ends_where_an_uninterrupted_one_does(tiny_llama, token_batches, tmp_path):
    ends = []
    for interrupted in (False, True):
        folder, rows = tmp_path / str(interrupted), _rows(token_batches)
        saving = {"save_strategy": "steps", "save_steps": 2}
        model, callback = tiny_llama(dropout=0.0), GritCallback(ACTIVE)
        if interrupted:
            _trainer(model, rows, folder, callback, **saving, max_steps=2).train()
            model, callback = tiny_llama(dropout=0.0), GritCallback(ACTIVE)
        trainer = _trainer(model, rows, folder, callback, **saving)
        trainer.train(resume_from_checkpoint=str(folder / "checkpoint-2") if interrupted else None)
        ends.append((callback.handle.ranks(), callback.handle.factors(), _weights(model)))
    assert ends[0][0] == ends[1][0]
    for name, entry in ends[0][1].items():
        assert torch.equal(entry.sigma_g, ends[1][1][name].sigma_g)
    for ours, theirs in zip(ends[0][2], ends[1][2], strict=True):
        # The trainer's checkpoints hold the adapter exactly; its shuffling of rows is not at work here.
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_a_checkpoint_without_the_state_is_not_resumed_from(tiny_llama, token_batches, tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 2}
    _trainer(
        tiny_llama(), _rows(token_batches), tmp_path, GritCallback(ACTIVE), **saving, max_steps=2
    ).train()
    (tmp_path / "checkpoint-2" / STATE_FILE).unlink()
    trainer = _trainer(tiny_llama(), _rows(token_batches), tmp_path, GritCallback(ACTIVE), **saving)
    with pytest.raises(FileNotFoundError, match="no state of GRIT lies there"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_the_best_checkpoint_is_exported_with_its_own_directions(tiny_llama, token_batches, tmp_path):
    """The worst evaluation comes last: a rate that ruins everything after the first step."""
    callback, model = GritCallback(ACTIVE), tiny_llama(dropout=0.0)
    settings = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
    trainer = _trainer(
        model,
        _rows(token_batches),
        tmp_path,
        callback,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        learning_rate=3.0,
        max_grad_norm=0.0,
        **settings,
    )
    trainer.train()
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-2") and callback.handle.step == 2
    callback.export(tmp_path / "adapter")
    with quiet_peft():
        loaded = PeftModel.from_pretrained(tiny_llama(dropout=0.0).unload(), str(tmp_path / "adapter"))
    batch = token_batches(count=1)[0]
    with torch.no_grad():
        ours, theirs = (m.double().eval()(**batch).logits for m in (model, loaded))
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_what_the_callback_cannot_do_is_said_when_training_begins(tiny_llama, token_batches, tmp_path):
    smoothed = _trainer(
        tiny_llama(), _rows(token_batches), tmp_path, GritCallback(ACTIVE), label_smoothing_factor=0.1
    )
    with pytest.raises(ConfigError, match="^label_smoothing_factor = 0.1: must be 0"):
        smoothed.train()
    with pytest.raises(RuntimeError, match="nothing was trained"):
        GritCallback().export(tmp_path)


def test_schedules_fit_the_trainers_steps_or_are_warned_of_by_name(tiny_llama, token_batches, tmp_path):
    callback = GritCallback()
    _trainer(tiny_llama(), _rows(token_batches), tmp_path, callback).train()
    assert callback.handle.config == GritConfig.for_steps(4, max_grad_norm=0.05)
    trainer = _trainer(tiny_llama(), _rows(token_batches), tmp_path, GritCallback(GritConfig()))
    with pytest.warns(UserWarning, match="T = 50: the first reprojection comes in step 50, .* after 4"):
        trainer.train()


def test_a_state_of_other_weights_is_not_resumed_from(tiny_llama, token_batches, tmp_path):
    """The trainer resumes from a folder outside its own, where another training left the same step."""
    saving = {"save_strategy": "steps", "save_steps": 2}
    rows, stop = _rows(token_batches), {"max_steps": 2}
    _trainer(tiny_llama(dropout=0.0), rows, tmp_path / "a", GritCallback(ACTIVE), **saving, **stop).train()
    other = {**saving, **stop, "learning_rate": 3e-2}
    _trainer(tiny_llama(dropout=0.0), rows, tmp_path / "b", GritCallback(ACTIVE), **other).train()
    checkpoint = tmp_path / "a" / "checkpoint-2"
    astray = _trainer(tiny_llama(dropout=0.0), rows, tmp_path / "b", GritCallback(ACTIVE), **saving)
    with pytest.raises(ValueError, match=r"belongs to other weights .* GritCallback\(resume_from=\.\.\.\)"):
        astray.train(resume_from_checkpoint=str(checkpoint))
    callback = GritCallback(ACTIVE, resume_from=checkpoint)
    trainer = _trainer(tiny_llama(dropout=0.0), rows, tmp_path / "b", callback, **saving)
    trainer.train(resume_from_checkpoint=str(checkpoint))
    assert callback.handle.step == 4


def test_clipping_survives_an_interrupted_training(tiny_llama, token_batches, tmp_path):
    from transformers import TrainerCallback

    class Interrupts(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            if state.global_step == 3:
                raise KeyboardInterrupt

    callback = GritCallback(ACTIVE)
    saving = {"save_strategy": "steps", "save_steps": 2}
    trainer = _trainer(tiny_llama(dropout=0.0), _rows(token_batches), tmp_path, callback, **saving)
    trainer.add_callback(Interrupts)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    trainer.remove_callback(Interrupts)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert callback.handle.config.max_grad_norm == 0.05
    assert trainer.args.max_grad_norm == 0.05


def test_nothing_follows_the_model_when_training_is_over(tiny_llama, token_batches, tmp_path):
    model, callback = tiny_llama(dropout=0.0), GritCallback(ACTIVE)
    _trainer(model, _rows(token_batches), tmp_path, callback).train()
    optimizer = torch.optim.SGD(_parameters(model), lr=0.1)
    model.train()(input_ids=token_batches()[0]["input_ids"]).logits.sum().backward()
    optimizer.step()
    assert callback.handle.step == 4
    assert not any(is_attached(layer.down) for layer in callback.handle.layers)
    attach(model, optimizer, WATCH)


# Losses that are computed from the model's outputs.


def _factors(model, batches, loss_of):
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0)
    handle = attach(model.train(), optimizer, WATCH)
    for batch in batches:
        loss_of(handle, model, batch).backward()
    optimizer.step()
    handle.detach()
    return handle


def test_log_probabilities_in_place_of_a_loss_tell_what_a_label_counts(tiny_llama, token_batches):
    """As TRL's SFTTrainer: the model returns them, and the trainer divides by the labels of the step."""
    from trl.trainer.utils import add_fused_lm_head

    backbone = tiny_llama(dropout=0.0).unload().double()
    add_fused_lm_head(backbone)
    with quiet_peft():
        model = tiny_llama(dropout=0.0)
        wrapped = PeftModel(backbone, copy.copy(model.peft_config["default"])).double()
    wrapped.load_state_dict(model.state_dict())

    def loss_of(_handle, fused, batch):
        return -fused(**batch, fused_lm_head=True).log_probs.sum() / 24

    handle = _factors(wrapped, token_batches(), loss_of)
    plain = tiny_llama(dropout=0.0)
    layers = adapted_layers(plain)
    expected = factors_by_definition(plain, layers, token_batches(), "causal", ["main"] * len(layers))
    assert_factors(handle, expected, rtol=1e-5, atol=1e-6)


def _parameters(model):
    return [p for p in model.parameters() if p.requires_grad]


def test_a_loss_outside_the_model_is_a_mean_over_what_is_said(tiny_llama, token_batches):
    """Without labels in the model's inputs, divided once more by the accumulation."""

    def loss_of(handle, model, batch):
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        loss = torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=-100
        )
        return handle.outside_loss(loss, int((batch["labels"][:, 1:] != -100).sum())) / 4

    model = tiny_llama(dropout=0.0)
    handle = _factors(model, token_batches(), loss_of)
    streams = ["main"] * len(handle.layers)
    assert_factors(
        handle,
        factors_by_definition(model, handle.layers, token_batches(), "causal", streams),
        rtol=1e-5,
        atol=1e-6,
    )


def test_a_loss_over_several_forward_passes_counts_its_parts_once(tiny_llama, token_batches):
    """As chosen and rejected answers in passes of their own: one mean over both."""

    def joined(handle, model, _batch):
        losses, count = [], 0
        for batch in token_batches():
            logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
            targets = batch["labels"][:, 1:].flatten()
            flat = logits[:, :-1].flatten(0, 1)
            losses.append(torch.nn.functional.cross_entropy(flat, targets, reduction="sum"))
            count += int((targets != -100).sum())
        loss = handle.outside_loss(sum(losses) / count, count)
        with pytest.raises(RuntimeError, match="have a loss already"):
            handle.outside_loss(loss, count)
        return loss

    model = tiny_llama(dropout=0.0)
    handle = _factors(model, token_batches(count=1), joined)
    streams = ["main"] * len(handle.layers)
    assert_factors(
        handle,
        factors_by_definition(model, handle.layers, token_batches(), "causal", streams),
        rtol=1e-5,
        atol=1e-6,
    )


def test_labels_that_count_differently_are_refused_until_their_mean_is_said(tiny_llama, token_batches):
    """A preference loss: the log-probabilities of one answer count for it, those of the other against."""
    from trl.trainer.utils import add_fused_lm_head

    backbone = tiny_llama(dropout=0.0).unload().double()
    add_fused_lm_head(backbone)
    with quiet_peft():
        model = PeftModel(backbone, tiny_llama().peft_config["default"]).double()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1, generator=torch.Generator().manual_seed(1))

    def preference(_handle, fused, batch):
        better, worse = fused(**batch, fused_lm_head=True).log_probs.sum(1)
        return -torch.nn.functional.logsigmoid(better - worse)

    def said(handle, fused, batch):
        return handle.outside_loss(preference(handle, fused, batch), 1)

    with pytest.raises(RuntimeError, match=r"do not count alike .*handle\.outside_loss"):
        _factors(copy.deepcopy(model), token_batches(), preference)
    handle = _factors(model, token_batches(), said)
    assert {entry.seen_g for entry in handle.factors().values()} == {4}  # pairs
    assert all(float(entry.sigma_g.trace()) > 0 for entry in handle.factors().values())


def test_a_summary_says_what_waits_and_why(tiny_llama, token_batches):
    model, batch = tiny_llama(dropout=0.0), token_batches(count=1)[0]
    optimizer = torch.optim.AdamW(_parameters(model), lr=1e-3)
    with pytest.warns(UserWarning, match="GritConfig.for_steps"):
        handle = attach(model.train(), optimizer, GritConfig(), total_steps=12)
    for _ in range(3):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    summary = handle.summary()
    assert (summary.step, summary.reprojections, summary.preconditions) == (3, 0, False)
    assert summary.tokens == int(batch["attention_mask"].sum())  # one capture, in the first step
    assert summary.effective_parameters == summary.parameters
    assert summary.notes == (
        "14 layers wait for kfac_min_samples = 64 (tokens and labels)",
        "preconditioning begins in step 50 (kfac_update_freq, ng_warmup_steps)",
        "the first reprojection comes in step 50 (T = 50)",
    )
    assert "note: the first reprojection" in str(summary)
    assert repr(handle) == "<GritHandle on 14 layers, step 3>"


def test_a_callback_takes_general_text_as_attach_does(tiny_llama, token_batches, tmp_path):
    """The recommended configuration through the callback: the same steps as in a loop of one's own."""
    config = GritConfig.recommended(4, cov_update_freq=1, kfac_min_samples=1, max_grad_norm=1.0)
    assert config.knows_source and config.T == 1
    source, ended = token_batches("left"), []
    callback, model = GritCallback(config, source=source), tiny_llama(dropout=0.0)
    _trainer(model, _rows(token_batches), tmp_path, callback, max_grad_norm=1.0).train()
    ended.append(_weights(model))
    plain = tiny_llama(dropout=0.0)
    _in_a_loop(plain, token_batches(), config, source=source)
    ended.append(_weights(plain))
    for one, other in zip(*ended, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)
    with pytest.raises(ConfigError, match="needs general text"):
        _trainer(tiny_llama(), _rows(token_batches), tmp_path, GritCallback(config)).train()
