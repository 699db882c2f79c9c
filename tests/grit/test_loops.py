"""`attach` is the one line that a user adds: to Trainer, to Accelerate, to data-parallel workers."""

import os
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from grit.config.method import GritConfig
from grit.geometry.attach import attach
from grit.geometry.events import PassWithoutBackward

ACTIVE = GritConfig(
    cov_update_freq=1,
    kfac_update_freq=1,
    kfac_min_samples=1,
    T=2,
    min_lora_rank=1,
    tau=0.8,
    max_grad_norm=1.0,
)


def _plain(model, batches, steps, accumulation, lr=1e-2):
    """The reference: a loop that anyone would write, one mean over all labels of a step."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr, weight_decay=0.0)
    handle = attach(model.train(), optimizer, ACTIVE)
    for step in range(steps):
        parts = [batches[(step * accumulation + i) % len(batches)] for i in range(accumulation)]
        items = sum(int((part["labels"][:, 1:] != -100).sum()) for part in parts)
        for part in parts:
            model(**part, num_items_in_batch=items).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return handle


def _assert_same(handle, reference, tolerance=1e-6):
    assert handle.ranks() == reference.ranks()
    assert min(handle.ranks().values()) < 4
    for (name, ours), theirs in zip(handle.factors().items(), reference.factors().values(), strict=True):
        for side in (0, 1):
            scale = float(theirs[side].abs().max())
            told = lambda text, name=name: f"{name}: {text}"  # noqa: E731
            torch.testing.assert_close(
                ours[side], theirs[side], rtol=tolerance, atol=tolerance * scale, msg=told
            )
        assert ours[2:] == theirs[2:]
    for ours, theirs in zip(handle.layers, reference.layers, strict=True):
        torch.testing.assert_close(ours.down.weight, theirs.down.weight, rtol=tolerance, atol=1e-8)
        torch.testing.assert_close(ours.up.weight, theirs.up.weight, rtol=tolerance, atol=1e-8)


@pytest.mark.filterwarnings("ignore")
def test_hugging_face_trainer_needs_no_other_change(tiny_llama, token_batches, tmp_path):
    """Accumulation 2, the Trainer's own loss scaling and evaluation in between.

    The same weights, factors and ranks as a plain loop.
    """
    from transformers import Trainer, TrainingArguments

    batches = token_batches()
    rows = [{key: batch[key][i] for key in batch} for batch in batches for i in range(2)]
    model = tiny_llama(dropout=0.0)
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0
    )
    handle = attach(model, optimizer, ACTIVE)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        num_train_epochs=2,
        max_grad_norm=0.0,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        eval_strategy="steps",
        eval_steps=1,
        logging_strategy="no",
    )

    class InOrder(Trainer):
        def _get_train_sampler(self, *_):
            return torch.utils.data.SequentialSampler(self.train_dataset)

    trainer = InOrder(
        model=model,
        args=arguments,
        train_dataset=rows,
        eval_dataset=rows[:2],
        optimizers=(optimizer, scheduler),
    )
    trainer.train()
    assert handle.step == 4
    _assert_same(handle, _plain(tiny_llama(dropout=0.0), batches, steps=4, accumulation=2))


def test_accelerate_needs_no_other_change(tiny_llama, token_batches):
    from accelerate import Accelerator

    batches, model = token_batches(), tiny_llama(dropout=0.0)
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0
    )
    handle = attach(model.train(), optimizer, ACTIVE)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepared, wrapped = accelerator.prepare(model, optimizer)
    for index in range(8):
        with accelerator.accumulate(prepared):
            accelerator.backward(prepared(**batches[index % 4]).loss)
            wrapped.step()
            wrapped.zero_grad()
    assert handle.step == 4
    # Accelerate halves each micro-batch's mean; all have six labels here, so this is the mean over the step.
    _assert_same(handle, _plain(tiny_llama(dropout=0.0), batches, steps=4, accumulation=2))


def test_two_workers_are_one_on_the_joined_batch(tiny_llama, token_batches, tmp_path):
    """Gloo, DistributedDataParallel, sequences of unequal lengths.

    Statistics are summed over workers, so ranks and weights agree to 1e-6.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = Path(__file__).with_name("gloo_worker.py")
    workers = [
        subprocess.Popen(
            [sys.executable, str(script), str(tmp_path)],
            env={
                **os.environ,
                "RANK": str(rank),
                "WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "OMP_NUM_THREADS": "1",
            },
        )
        for rank in range(2)
    ]
    try:
        assert [worker.wait(timeout=240) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    reference = _plain(tiny_llama(dropout=0.0), token_batches(), steps=4, accumulation=2)
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for rank in range(2):
        assert found[rank]["ranks"] == reference.ranks()
        assert found[rank]["events"] == [event.kind for event in reference.events]
        for layer in reference.layers:
            ours = found[rank]["weights"][layer.name]
            torch.testing.assert_close(ours[0], layer.down.weight.detach(), rtol=1e-6, atol=1e-8)
            torch.testing.assert_close(ours[1], layer.up.weight.detach(), rtol=1e-6, atol=1e-8)
        for name, entry in reference.factors().items():
            for side in (0, 1):
                torch.testing.assert_close(
                    found[rank]["factors"][name][side],
                    entry[side],
                    rtol=1e-6,
                    atol=1e-6 * float(entry[side].abs().max()),
                )
            assert found[rank]["factors"][name][2:] == entry[2:]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["tiny_classifier", "tiny_t5"])
def test_trainer_accumulation_does_not_change_the_factors_of_other_heads(request, name, tmp_path):
    """Trainer passes num_items_in_batch to heads that return the mean over their own labels all the same.

    That mean is what is undone.
    """
    import copy

    from transformers import Trainer, TrainingArguments

    original = request.getfixturevalue(name)
    for module in original.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "dropout", None), float):  # T5 calls the function
            module.dropout = 0.0
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(3, 50, (4, 6), generator=generator)
    labels = torch.tensor([0, 1, 2, 0]) if name == "tiny_classifier" else tokens
    rows = [
        {"input_ids": tokens[i], "attention_mask": torch.ones(6, dtype=torch.int64), "labels": labels[i]}
        for i in range(4)
    ]
    found = []
    for accumulation in (1, 4):
        model = copy.deepcopy(original)
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0)
        handle = attach(model, optimizer, GritConfig(cov_update_freq=1, preconditioner="none", T=None))
        arguments = TrainingArguments(
            output_dir=str(tmp_path),
            per_device_train_batch_size=4 // accumulation,
            max_steps=1,
            report_to=[],
            gradient_accumulation_steps=accumulation,
            max_grad_norm=0.0,
            use_cpu=True,
            save_strategy="no",
            disable_tqdm=True,
            logging_strategy="no",
        )
        Trainer(
            model=model,
            args=arguments,
            train_dataset=rows,
            optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)),
        ).train()
        found.append(handle.factors())
    for layer, entry in found[0].items():
        assert entry[2:] == found[1][layer][2:]
        torch.testing.assert_close(
            entry[1], found[1][layer][1], rtol=1e-4, atol=1e-6 * float(entry[1].abs().max())
        )


@pytest.mark.parametrize("fused", [False, True])
def test_a_gradient_scaler_changes_nothing(tiny_llama, token_batches, fused):
    """A fused optimizer leaves unscaling to its kernel.

    Preconditioning, clipping and regularizers must see the gradients themselves.
    """
    ends = []
    for scaled in (False, True):
        model, batches = tiny_llama(dropout=0.0, dtype=torch.float32), token_batches()
        optimizer = torch.optim.AdamW(
            [p for p in model.parameters() if p.requires_grad], lr=1e-2, fused=fused
        )
        handle = attach(
            model.train(),
            optimizer,
            GritConfig(
                cov_update_freq=1,
                kfac_update_freq=1,
                kfac_min_samples=1,
                T=2,
                min_lora_rank=1,
                tau=0.8,
                damping_scale="relative",
                lambda_=0.1,
                lambda_k=1e-2,
                max_grad_norm=0.05,
            ),
        )
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=scaled)
        for step in range(4):
            scaler.scale(model(**batches[step]).loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        ends.append((handle.guard.norm, [p.detach().clone() for p in model.parameters() if p.requires_grad]))
    assert ends[0][0] == pytest.approx(ends[1][0], rel=1e-3)
    for plain, amp in zip(ends[0][1], ends[1][1], strict=True):
        torch.testing.assert_close(plain, amp, rtol=1e-3, atol=1e-5)


def test_a_step_that_a_scaler_skips_belongs_to_no_statistics(tiny_llama, token_batches):
    model, batches = tiny_llama(dropout=0.0, dtype=torch.float32), token_batches()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    handle = attach(model.train(), optimizer, ACTIVE)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    for batch in batches[:2]:
        scaler.scale(model(**batch).loss).backward()
        scaler.step(optimizer)
        scaler.update(16.0)
        optimizer.zero_grad()
    assert handle.step == 1
    assert not [event for event in handle.events if event.kind.startswith("nonfinite")]
    assert {entry[2:] for entry in handle.factors().values()} == {
        (int(batches[1]["attention_mask"].sum()), 6)
    }


def test_one_backward_may_end_several_forward_passes(tiny_llama, token_batches):
    found = []
    for joined in (False, True):
        model, batches = tiny_llama(dropout=0.0), token_batches()
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0)
        handle = attach(
            model.train(), optimizer, GritConfig(cov_update_freq=1, preconditioner="none", T=None)
        )
        if joined:
            sum(model(**batch).loss / 4 for batch in batches).backward()
        else:
            for batch in batches:
                (model(**batch).loss / 4).backward()
        model(**batches[0])  # looked at, and never trained on
        optimizer.step()
        assert handle.events == [PassWithoutBackward(step=1, passes=1)]
        found.append(handle.factors())
    for name, entry in found[0].items():
        assert entry[2:] == found[1][name][2:] == (55, 24)
        torch.testing.assert_close(entry[1], found[1][name][1], rtol=1e-6, atol=1e-12)


@pytest.mark.gpu
def test_a_model_may_move_after_attach(tiny_llama, token_batches):
    """As Trainer and Accelerate move it."""
    model, batches = tiny_llama(dropout=0.0, dtype=torch.float32), token_batches()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    handle = attach(model, optimizer, ACTIVE)
    model.cuda().train()
    for batch in batches:
        model(**{key: value.cuda() for key, value in batch.items()}).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert all(entry[0].is_cuda for entry in handle.factors().values())
    assert min(handle.ranks().values()) < 4
