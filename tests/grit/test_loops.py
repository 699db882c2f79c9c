"""`attach` is the one line that a user adds: to Trainer, to Accelerate, to data-parallel workers."""

import os
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from grit.config import GritConfig
from grit.handle import attach

ACTIVE = GritConfig(cov_update_freq=1, kfac_update_freq=1, kfac_min_samples=1, T=2, min_lora_rank=1, tau=0.8, max_grad_norm=1.0)


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
    assert handle.ranks() == reference.ranks() and min(handle.ranks().values()) < 4
    for (name, ours), theirs in zip(handle.factors().items(), reference.factors().values(), strict=True):
        for side in (0, 1):
            scale = float(theirs[side].abs().max())
            told = lambda text, name=name: f"{name}: {text}"  # noqa: E731
            torch.testing.assert_close(ours[side], theirs[side], rtol=tolerance, atol=tolerance * scale, msg=told)
        assert ours[2:] == theirs[2:]
    for ours, theirs in zip(handle.layers, reference.layers, strict=True):
        torch.testing.assert_close(ours.down.weight, theirs.down.weight, rtol=tolerance, atol=1e-8)
        torch.testing.assert_close(ours.up.weight, theirs.up.weight, rtol=tolerance, atol=1e-8)


@pytest.mark.filterwarnings("ignore")
def test_hugging_face_trainer_needs_no_other_change(tiny_llama, token_batches, tmp_path):
    """Accumulation 2, the Trainer's own loss scaling and evaluation in between: the same weights, factors and ranks as a plain loop."""
    from transformers import Trainer, TrainingArguments

    batches = token_batches()
    rows = [{key: batch[key][i] for key in batch} for batch in batches for i in range(2)]
    model = tiny_llama(dropout=0.0)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0)
    handle = attach(model, optimizer, ACTIVE)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    arguments = TrainingArguments(output_dir=str(tmp_path), per_device_train_batch_size=2, gradient_accumulation_steps=2, num_train_epochs=2,
                                  max_grad_norm=0.0, use_cpu=True, report_to=[], save_strategy="no", disable_tqdm=True, eval_strategy="steps",
                                  eval_steps=1, logging_strategy="no")

    class InOrder(Trainer):
        def _get_train_sampler(self, *_):
            return torch.utils.data.SequentialSampler(self.train_dataset)

    trainer = InOrder(model=model, args=arguments, train_dataset=rows, eval_dataset=rows[:2], optimizers=(optimizer, scheduler))
    trainer.train()
    assert handle.step == 4
    _assert_same(handle, _plain(tiny_llama(dropout=0.0), batches, steps=4, accumulation=2))


def test_accelerate_needs_no_other_change(tiny_llama, token_batches):
    from accelerate import Accelerator

    batches, model = token_batches(), tiny_llama(dropout=0.0)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0)
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
    """Gloo, DistributedDataParallel, sequences of unequal lengths: statistics are summed over workers, so ranks and weights agree to 1e-6."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = Path(__file__).with_name("gloo_worker.py")
    workers = [subprocess.Popen([sys.executable, str(script), str(tmp_path)], env={
        **os.environ, "RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"})
        for rank in range(2)]
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
        assert found[rank]["events"] == [event["kind"] for event in reference.events]
        for layer in reference.layers:
            ours = found[rank]["weights"][layer.name]
            torch.testing.assert_close(ours[0], layer.down.weight.detach(), rtol=1e-6, atol=1e-8)
            torch.testing.assert_close(ours[1], layer.up.weight.detach(), rtol=1e-6, atol=1e-8)
        for name, entry in reference.factors().items():
            for side in (0, 1):
                torch.testing.assert_close(found[rank]["factors"][name][side], entry[side], rtol=1e-6, atol=1e-6 * float(entry[side].abs().max()))
            assert found[rank]["factors"][name][2:] == entry[2:]
