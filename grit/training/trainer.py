"""The trainer: one run from its configuration to its result, under a budget of steps or seconds."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from grit.adapters.optimizers import build_optimizer, follow_parameters
from grit.adapters.peft_adapters import after_step, extra_state, load_extra_state, penalty
from grit.audits.factor_stability import StabilityMonitor
from grit.audits.truncation import truncation_rows
from grit.config.run import RunConfig
from grit.data.encode import TrainingOrder
from grit.errors import ConfigError
from grit.evaluation.scores import Scores, example_quality, mean_quality, nats_per_token
from grit.geometry.attach import GritHandle, attach
from grit.geometry.gradient_guard import GradientGuard
from grit.runtime import checkpoint
from grit.runtime.clock import GEOMETRY_SECTIONS, StepClock
from grit.runtime.memory import MemoryPeak
from grit.runtime.workers import Workers
from grit.training.divergence import DivergenceRule
from grit.training.result import Row, RunResult, Status
from grit.training.step_log import StepLog
from grit.training.summary import short_rows, summarize
from grit.training.workbench import Workbench

Outcome = TypeVar("Outcome")
#: Called after every optimizer step with (step, share of the budget used, loss in nats per token, mean rank).
Progress = Callable[[int, float, float, float], None]


@dataclass(frozen=True)
class Interim:
    """An evaluation on the way.

    Its number from 1, the share of the budget used, and scores per example and per document.
    """

    number: int
    share: float
    scores: tuple[float, ...]
    document_losses: tuple[float, ...]
    footprint: float
    overhead: float


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """Who watches a run, and may end it cleanly (status `stopped`).

    Attributes:
        progress: told of every step.
        should_stop: asked between steps.
        evaluated: told of every evaluation before the last; True ends the run.
    """

    progress: Progress | None = None
    should_stop: Callable[[], bool] | None = None
    evaluated: Callable[[Interim], bool] | None = None


def train(
    config: RunConfig,
    bench: Workbench,
    *,
    checkpoints: Path | None = None,
    hooks: Hooks | None = None,
    keep: bool = False,
) -> RunResult:
    """Runs `config` to the end of its budget and returns its result.

    Where torch.distributed is initialized, all its processes must call this; each takes its share of every
    step's micro-batches, and the result is that of one process up to rounding.

    Args:
        config: the run.
        bench: what this process has loaded already.
        checkpoints: folder of this run's checkpoint; one found there is resumed, bit for bit on a CPU under a
            step budget.
        hooks: who watches it.
        keep: leave the run's last state as its checkpoint, for `on_finished`; otherwise there is none once it
            has ended.
    """
    return on_adapted(config, bench, lambda run: run.run(hooks or Hooks(), keep=keep), checkpoints)


def on_finished(
    config: RunConfig, bench: Workbench, checkpoints: Path, work: Callable[[Run], Outcome]
) -> Outcome:
    """What `work` makes of a run that was trained with `keep`.

    `run.untrained()` is its model before, `run.restored()` after.
    """
    return on_adapted(config, bench, work, checkpoints, training=False)


@contextmanager
def adapted(config: RunConfig, bench: Workbench) -> Iterator[Any]:
    """The backbone with this run's adapter; after the block it is as it was."""
    torch.set_num_threads(config.execution.threads)
    model = bench.adapted(config)
    try:
        yield model
    finally:
        bench.release(model)
        del model
        # hooks and optimizer refer to each other: without this, the next run would find this one's memory
        # still taken
        gc.collect()


def on_adapted(
    config: RunConfig,
    bench: Workbench,
    work: Callable[[Run], Outcome],
    checkpoints: Path | None = None,
    *,
    training: bool = True,
) -> Outcome:
    """What `work` makes of a run on the backbone with its adapter."""
    with adapted(config, bench) as model:
        outcome = work(Run(config, bench, model, checkpoints, training=training))
        del (
            model
        )  # or the collection at the end of the block would still find it in use, and all that hangs on it
    return outcome


@dataclass(frozen=True)
class TrunkResult:
    """What a trunk took, from the very beginning: optimizer steps, seconds of training and of evaluation."""

    steps: int
    train_seconds: float
    eval_seconds: float


def train_trunk(
    config: RunConfig, bench: Workbench, *, steps: int, checkpoints: Path, hooks: Hooks | None = None
) -> TrunkResult | None:
    """Runs the first `steps` optimizer steps of `config` and leaves them as a checkpoint.

    From which other runs may go on.

    Args:
        config: any of the runs that share these steps.
        bench: what this process has loaded already.
        steps: where they part. Under a time budget that is spent before, the checkpoint is its last step.
        checkpoints: where the checkpoint goes; one found there is resumed.
        hooks: who watches it.

    Returns:
        What it took; None, and no checkpoint, if it diverged: each of its trials would have ended there by
        itself.
    """
    return on_adapted(config, bench, lambda run: run.run_until(steps, hooks or Hooks()), checkpoints)


def learning_rate_factor(progress: float, warmup: float) -> float:
    """Linear warm-up over the first `warmup` of the budget (from a tenth of the rate), then cosine to zero.

    `progress` lies in [0, 1], on the budget's own clock.
    """
    if progress < warmup:
        return max(progress / warmup, 0.1)
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / max(1 - warmup, 1e-9)))


class Run:
    """State of one run between its steps; without `training` only what is needed to restore its end."""

    def __init__(
        self,
        config: RunConfig,
        bench: Workbench,
        model: Any,
        checkpoints: Path | None,
        *,
        training: bool = True,
    ) -> None:
        self.config, self.bench, self.model, self.checkpoints = config, bench, model, checkpoints
        self.workers = Workers()
        if config.optimization.accumulation % self.workers.count:
            raise ConfigError(
                "accumulation",
                config.optimization.accumulation,
                f"must be a multiple of the {self.workers.count} workers that share its steps",
            )
        self.optimizer = build_optimizer(config, model)
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._rates = [group["lr"] for group in self.optimizer.param_groups]
        self.clock = StepClock(bench.device)
        if training:
            self.packs = bench.packs(config)
            self.order = TrainingOrder(len(self.packs), config.seed)
            bench.warm_up(
                config, model, bench.micro_batches(config, self.packs[: config.optimization.micro_batch])[0]
            )
        self.handle: GritHandle | None = None
        if config.uses_grit:  # the handle clips, after preconditioning
            grit = replace(
                config.grit, max_grad_norm=config.optimization.max_grad_norm, mixing_seed=config.seed
            )
            self.handle = attach(model, self.optimizer, grit, clock=self.clock)
            self.guard = self.handle.guard
        else:
            self.guard = GradientGuard(self.optimizer, config.optimization.max_grad_norm)
        self.monitor = StabilityMonitor() if config.audits.stability else None
        if self.handle is not None and self.monitor is not None:
            self.handle.watch(self.monitor)
        self.divergence, self.log, self.memory = (
            DivergenceRule(),
            StepLog(self.clock),
            MemoryPeak(bench.device),
        )
        self.step, self.tokens, self.resumed_from = 0, 0, 0
        self.train_seconds = self.cpu_seconds = self.eval_seconds = 0.0
        self.curve: list[Row] = []
        self.last_scores: Scores | None = None
        self.truncated: list[Row] = []

    def untrained(self) -> Any:
        """The model before its first step; not after `restored`."""
        return self.model.eval()

    def restored(self) -> Any:
        """The model as the checkpoint has it."""
        self._resume()
        return self.model.eval()

    def measure_base(self) -> None:
        """Scores the untuned model, unless that was done before."""
        self.base = self._timed(lambda: self.bench.base_scores(self.config, self.model.eval()))

    def run(self, hooks: Hooks, *, keep: bool = False) -> RunResult:
        """Trains to the end of the budget, evaluates, and returns the result.

        With `keep` its last state stays as its checkpoint.
        """
        self.measure_base()
        self._resume()
        status, reason = self._steps(hooks, None)
        self.finish()
        if self.config.audits.truncations and self.handle is not None and status == "completed":
            self.truncated = self._timed(self._score_truncated)
        if keep:
            self._save()
        elif self.checkpoints is not None and self.workers.leads:
            checkpoint.discard(self.checkpoints)
        return summarize(self, status, reason)

    def run_until(self, steps: int, hooks: Hooks) -> TrunkResult | None:
        """Trains `steps` steps, or to the end of the budget if that comes first, and saves a checkpoint.

        None if it diverged.
        """
        self.measure_base()
        self._resume()
        status, _ = self._steps(hooks, steps)
        if status == "diverged" and self.checkpoints is not None:
            checkpoint.discard(self.checkpoints)
            return None
        self._save()
        return TrunkResult(self.step, self.train_seconds, self.eval_seconds)

    def _steps(self, hooks: Hooks, until: int | None) -> tuple[Status, str | None]:
        """Trains until the budget is spent, step `until` is reached, the run diverges.

        Or somebody asks it to stop.
        """
        budget, asked = self.config.budget, hooks.should_stop
        while not budget.is_spent(self.step, self.train_seconds) and self.step != until:
            if asked is not None and self.workers.first_says(asked()):
                return "stopped", "stopped on request"
            loss = self.take_step()
            reason = self.divergence.update(loss, skipped=self.guard.skipped_last)
            if reason is not None:
                return "diverged", f"step {self.step}: {reason}"
            share = budget.progress(self.step, self.train_seconds)
            if hooks.progress is not None:
                hooks.progress(self.step, share, loss, self.mean_rank())
            if share < 1 and max(0, len(self.curve) - 1) < int(share * self.config.evaluation.evaluations):
                self._evaluate()
                if hooks.evaluated is not None and self.workers.first_says(
                    self.workers.leads and hooks.evaluated(self._interim(share))
                ):
                    return (
                        "stopped",
                        f"step {self.step}: another setting is better beyond noise, and no dearer",
                    )
            if (
                self.checkpoints is not None
                and self.config.execution.checkpoint_steps
                and self.step % self.config.execution.checkpoint_steps == 0
            ):
                self._save()
        return "completed", None

    def finish(self) -> None:
        """Truncates the adapter to its ranks, so that what is scored is what is counted, and evaluates it."""
        if self.handle is not None:
            self.handle.finish()
            self.log.finish(self.handle)
        self._evaluate(last=True)

    def _score_truncated(self) -> list[Row]:
        """The trained adapter truncated in every way there is, scored as it is itself."""
        assert self.handle is not None
        return truncation_rows(
            self.model,
            self.handle,
            self.config.audits.truncations,
            lambda: short_rows(
                self.bench.score(self.model.eval(), self.config, last=False),
                self.base,
                self.config.evaluation.quality,
            ),
        )

    def unique_tokens(self) -> int:
        """Tokens of the distinct training examples seen so far."""
        size = self.config.optimization.micro_batch * self.config.optimization.accumulation
        seen = {index for step in range(self.step) for index in self.order.step(step, size)}
        return sum(len(row.tokens) for index in seen for row in self.packs[index])

    def _interim(self, share: float) -> Interim:
        scores = self.last_scores
        assert scores is not None
        footprint = (
            1.0
            if self.handle is None
            else self.handle.effective_parameters() / sum(p.numel() for p in self.parameters)
        )
        spent = {} if self.handle is None else self.handle.timings()
        return Interim(
            len(self.curve) - 1,
            share,
            tuple(
                example_quality(prediction, self.config.evaluation.quality)
                for prediction in scores.predictions
            ),
            tuple(document.loss for document in scores.documents),
            footprint,
            sum(spent.get(name, 0.0) for name in GEOMETRY_SECTIONS) / self.train_seconds,
        )

    def take_step(self) -> float:
        """One optimizer step; returns its loss in nats per token."""
        config, began, cpu = self.config, time.perf_counter(), time.process_time()
        self.clock.start_step()
        self.memory.begin_step()
        self.model.train()
        factor = learning_rate_factor(
            config.budget.progress(self.step, self.train_seconds), config.optimization.warmup_fraction
        )
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        chosen = self.order.step(
            self.step, config.optimization.micro_batch * config.optimization.accumulation
        )
        packs = [self.packs[i] for i in chosen]
        rows = [row for members in packs for row in members]
        labels = sum(row.labels for row in rows)
        loss = torch.zeros((), device=self.bench.device, dtype=torch.float64)
        for number, batch in self.workers.share(self.bench.micro_batches(config, packs)):
            # Dropout depends on the micro-batch alone: not on what was drawn before it, nor on which worker
            # it falls to.
            torch.manual_seed(((config.seed * 1_000_003 + self.step) * 1_009 + number) % 2**63)
            with self.clock.section("forward"):
                # One mean over all answer tokens of the step, however they fall into micro-batches.
                part_loss = self.model(**batch, num_items_in_batch=labels, use_cache=False).loss
            with self.clock.section("backward"):
                part_loss.backward()
            loss += part_loss.detach() - penalty(self.model)
        with self.clock.section("optimizer"):
            self.workers.add_gradients(self.parameters)
            if self.handle is None:
                self.guard()
            if self.handle is not None or not self.guard.skipped_last:
                self.optimizer.step()
                after_step(self.model, self.step + 1)
            self.optimizer.zero_grad(set_to_none=True)
        value = float(self.workers.add(loss))
        self.clock.end_step()
        self.step += 1
        self.tokens += sum(len(row.tokens) for row in rows)
        self.train_seconds = self.workers.first_says(self.train_seconds + time.perf_counter() - began)
        self.cpu_seconds += time.process_time() - cpu
        self.memory.end_step()
        self.log.add(
            self.step,
            self.train_seconds,
            loss=value,
            learning_rate=config.optimization.learning_rate * factor,
            grad_norm=self.guard.norm,
            tokens=self.tokens,
            handle=self.handle,
        )
        return value

    def mean_rank(self) -> float:
        """Directions kept, as a mean over modules."""
        if self.handle is None:
            return float(self.config.adapter.rank)
        ranks = self.handle.ranks().values()
        return sum(ranks) / len(ranks)

    def _timed(self, work: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        try:
            return work()
        finally:
            self.eval_seconds += time.perf_counter() - began

    def _evaluate(self, *, last: bool = False) -> None:
        """Measures quality and retention now, outside the training clock, and adds a point to the curve.

        Every data-parallel worker does: the others would only wait for the first.
        """
        scores = self._timed(lambda: self.bench.score(self.model.eval(), self.config, last=last))
        self.last_scores = scores
        if not self.curve:
            self._add_to_curve(0, 0.0, self.base)
        self._add_to_curve(self.step, self.train_seconds, scores)

    def _add_to_curve(self, step: int, seconds: float, scores: Scores) -> None:
        forgetting = nats_per_token(scores.documents) - nats_per_token(self.base.documents)
        self.curve.append(
            {
                "step": step,
                "train_seconds": seconds,
                "quality": mean_quality(scores.predictions, self.config.evaluation.quality),
                "forgetting": forgetting,
                "retention": math.exp(-forgetting),
            }
        )

    def _save(self) -> None:
        assert self.checkpoints is not None
        self.log.flush()
        if not self.workers.leads:
            return
        checkpoint.save(
            self.checkpoints,
            {
                "step": self.step,
                "tokens": self.tokens,
                "train_seconds": self.train_seconds,
                "cpu_seconds": self.cpu_seconds,
                "eval_seconds": self.eval_seconds,
                "adapter": checkpoint.adapter_state(self.model),
                "optimizer": self.optimizer.state_dict(),
                "handle": None if self.handle is None else self.handle.state_dict(),
                "guard": self.guard.state_dict(),
                "divergence": self.divergence.state_dict(),
                "rows": self.log.rows,
                "curve": self.curve,
                "peak_memory": self.memory.bytes,
                "adapter_extra": extra_state(self.model),
                "monitor": None if self.monitor is None else self.monitor.state_dict(),
            },
        )

    def _resume(self) -> None:
        state = checkpoint.load(self.checkpoints) if self.checkpoints is not None else None
        if state is None:
            return
        self.step = self.resumed_from = state["step"]
        self.tokens, self.train_seconds, self.cpu_seconds = (
            state["tokens"],
            state["train_seconds"],
            state["cpu_seconds"],
        )
        self.curve, self.memory.bytes = state["curve"], state["peak_memory"]
        self.eval_seconds += state["eval_seconds"]
        checkpoint.load_adapter_state(self.model, state["adapter"])
        self.optimizer.load_state_dict(state["optimizer"])
        follow_parameters(self.optimizer, torch.device(self.bench.device))
        if self.handle is not None:
            self.handle.load_state_dict(state["handle"])
        load_extra_state(self.model, state["adapter_extra"])
        if self.monitor is not None:
            self.monitor.load_state_dict(state["monitor"], torch.device(self.bench.device))
        self.guard.load_state_dict(state["guard"])
        self.divergence.load_state_dict(state["divergence"])
        self.log.restore(state["rows"], self.handle)
