"""One run between its steps: what a checkpoint holds of it, and how it takes a step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from grit.adapters.lean_pass import lean_pass
from grit.audits.audit_specs import AUDITS, Trained
from grit.audits.factor_stability import StabilityMonitor
from grit.audits.spectra import SpectraLog
from grit.config.run_config import RunConfig
from grit.errors import ConfigError
from grit.evaluation.scores import Scores, example_quality, mean_quality, nats_per_token
from grit.geometry.attach import attach
from grit.geometry.handle import GritHandle
from grit.io.files import Row
from grit.methods.makers import maker_of
from grit.methods.optimizers import build_optimizer, follow_parameters
from grit.runtime import checkpoint
from grit.runtime.clock import StepClock
from grit.runtime.energy import EnergyMeter
from grit.runtime.memory import MemoryPeak
from grit.runtime.step_sections import GEOMETRY_SECTIONS
from grit.runtime.workers import Workers
from grit.stepping.earlier_tasks import EarlierTasks
from grit.stepping.gradient_guard import GradientGuard
from grit.stepping.learning_rate import learning_rate_factor
from grit.training.divergence import DivergenceRule
from grit.training.hooks import Interim
from grit.training.score_rows import short_rows
from grit.training.stages import Stages, rows_after
from grit.training.step_log import StepLog
from grit.training.workbench import Workbench

Returned = TypeVar("Returned")


class RunState:
    """Everything that a checkpoint holds: the adapted model, its optimizer, GRIT's state, and the counters.

    Attributes:
        handle: GRIT's, or None for a method that does not use it.
        earlier: what is held of the tasks learned before.
        monitor: watches the steadiness of factors where the run asks for it.
        step, tokens: taken and seen so far. resumed_from: the step of the checkpoint that it went on from.
        train_seconds, cpu_seconds, eval_seconds: of all processes that this run has had.
        curve: quality and forgetting at each evaluation.
    """

    def __init__(self, config: RunConfig, bench: Workbench, model: Any) -> None:
        self.config, self.bench, self.model = config, bench, model
        examples = partial(bench.first_examples, config)
        self.earlier = EarlierTasks(model, config.sequence.earlier_penalty, examples)
        self.clock = StepClock(bench.device)
        self.maker = maker_of(config.spec)
        self.optimizer = build_optimizer(config, model)
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.handle: GritHandle | None = None
        if config.uses_grit:  # the handle clips, after preconditioning
            grit = replace(
                config.grit, max_grad_norm=config.optimization.max_grad_norm, mixing_seed=config.seed
            )
            began = time.perf_counter()
            source = bench.source_batches(config) if config.grit.knows_source else ()
            self.handle = attach(model, self.optimizer, grit, clock=self.clock, source=source)
            bench.adapter_seconds += time.perf_counter() - began
        self.guard = (
            GradientGuard(self.optimizer, config.optimization.max_grad_norm)
            if self.handle is None
            else self.handle.guard
        )
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
        self.energy, self._joules_before = EnergyMeter(bench.device), 0.0
        self.curve: list[Row] = []
        self.spectra = SpectraLog()
        self.stage_rows: list[Row] = []

    def untrained(self) -> Any:
        """The model before its first step; not after `restored`."""
        return self.model.eval()

    def restored(self, folder: Path) -> Any:
        """The model as the checkpoint in `folder` has it."""
        self.resume(folder)
        return self.model.eval()

    def joules(self) -> float:
        """Energy of all processes that this worker of the run has had, training and evaluation."""
        return self._joules_before + self.energy.joules()

    def adapter_parameters(self) -> int:
        """Trained parameters."""
        return sum(parameter.numel() for parameter in self.parameters)

    def mean_rank(self) -> float:
        """Directions kept, as a mean over modules."""
        if self.handle is None:
            return float(self.config.adapter.rank)
        ranks = self.handle.ranks().values()
        return sum(ranks) / len(ranks)

    def save(self, folder: Path) -> None:
        """Writes a checkpoint."""
        handle, monitor = self.handle, self.monitor
        checkpoint.save(
            folder,
            {
                "step": self.step,
                "tokens": self.tokens,
                "train_seconds": self.train_seconds,
                "cpu_seconds": self.cpu_seconds,
                "eval_seconds": self.eval_seconds,
                "joules": self.joules(),
                "adapter": checkpoint.adapter_state(self.model),
                "optimizer": self.optimizer.state_dict(),
                "handle": None if handle is None else handle.state_dict(),
                "guard": self.guard.state_dict(),
                "divergence": self.divergence.state_dict(),
                "rows": self.log.rows,
                "curve": self.curve,
                "spectra": self.spectra.state_dict(),
                "stages": self.stage_rows,
                "peak_memory": self.memory.bytes,
                "earlier_tasks": self.earlier.state_dict(),
                "adapter_extra": self.maker.extra_state(self.model),
                "monitor": None if monitor is None else monitor.state_dict(),
            },
        )

    def resume(self, folder: Path) -> None:
        """Goes on from the checkpoint in `folder`, if there is one."""
        state = checkpoint.load(folder)
        if state is None:
            return
        device = torch.device(self.bench.device)
        self.step = self.resumed_from = state["step"]
        self.tokens, self.train_seconds, self.cpu_seconds = (
            state["tokens"],
            state["train_seconds"],
            state["cpu_seconds"],
        )
        self.curve, self.memory.bytes = state["curve"], state["peak_memory"]
        self.eval_seconds += state["eval_seconds"]
        self._joules_before = state.get("joules", 0.0)
        checkpoint.load_adapter_state(self.model, state["adapter"])
        self.optimizer.load_state_dict(state["optimizer"])
        follow_parameters(self.optimizer, device)
        if self.handle is not None:
            self.handle.load_state_dict(state["handle"])
        self.maker.load_extra_state(self.model, state["adapter_extra"])
        if self.monitor is not None:
            self.monitor.load_state_dict(state["monitor"], device)
        self.guard.load_state_dict(state["guard"])
        self.divergence.load_state_dict(state["divergence"])
        self.log.restore(state["rows"])
        if "spectra" in state:  # checkpoints of version 0.1 have none
            self.spectra.load_state_dict(state["spectra"])
        self.stage_rows = state.get("stages", [])
        self.earlier.load_state_dict(state.get("earlier_tasks", []))


class Run:
    """A run that is being trained.

    Args:
        config: the run. bench: what this process has loaded. model: the backbone with its adapter, untrained.
        checkpoints: where this run leaves its checkpoints; None: it leaves none.

    Raises:
        ConfigError: its micro-batches cannot be shared by the workers that train it.
    """

    def __init__(self, config: RunConfig, bench: Workbench, model: Any, *, checkpoints: Path | None) -> None:
        self.config, self.bench, self.checkpoints = config, bench, checkpoints
        self.workers = Workers()
        if config.optimization.accumulation % self.workers.count:
            raise ConfigError(
                "accumulation",
                config.optimization.accumulation,
                f"must be a multiple of the {self.workers.count} workers that share its steps",
            )
        if config.spec.one_process and self.workers.count > 1:
            raise ConfigError(
                "method", config.method, "begins elsewhere in every process: one worker a trial"
            )
        self.stages = Stages(config, bench)
        first = bench.micro_batches(config, self.stages.first(config.optimization.micro_batch))[0]
        bench.warm_up(config, model, first)  # before anybody watches the model: its pass is no statistic
        self.state = RunState(config, bench, model)
        self._rates = [group["lr"] for group in self.state.optimizer.param_groups]
        self._base: Scores | None = None
        self._scores: Scores | None = None
        self.audits: dict[str, list[Row]] = {}

    @property
    def base(self) -> Scores:
        """The untuned model's scores."""
        if self._base is None:
            raise RuntimeError(
                "the untuned model has not been scored: call measure_base() before the first step"
            )
        return self._base

    @property
    def scores(self) -> Scores:
        """The last evaluation."""
        if self._scores is None:
            raise RuntimeError("the run has not been evaluated yet")
        return self._scores

    def measure_base(self) -> None:
        """Scores the untuned model, unless that was done before; while the adapter is still zero."""
        model = self.state.model.eval()
        for config in self.stages.configs:
            self._base = self._timed(partial(self.bench.base_scores, config, model))

    def resume(self) -> None:
        """Goes on from this run's own checkpoint, if there is one."""
        if self.checkpoints is not None:
            self.state.resume(self.checkpoints)

    def save(self) -> None:
        """Leaves a checkpoint; the first worker does, for all."""
        assert self.checkpoints is not None
        self.state.log.flush()
        if self.workers.leads:
            self.state.save(self.checkpoints)

    def share(self) -> float:
        """Of the budget used, in [0, 1]."""
        return self.config.budget.progress(self.state.step, self._budget_seconds)

    def spent(self) -> bool:
        """Whether no further step fits into the budget."""
        return self.config.budget.is_spent(self.state.step, self._budget_seconds)

    @property
    def _budget_seconds(self) -> float:
        """Training seconds by the clock of the budget."""
        on_cpu = self.config.execution.clock == "cpu"
        return self.state.cpu_seconds if on_cpu else self.state.train_seconds

    def take_step(self) -> float:
        """One optimizer step; returns its loss in nats per token."""
        state, config = self.state, self.config
        began, cpu = time.perf_counter(), time.process_time()
        state.clock.start_step()
        state.memory.begin_step()
        state.model.train()
        progress = self.stages.progress(state.step, self.share())
        factor = learning_rate_factor(progress, config.optimization.warmup_fraction)
        for group, rate in zip(state.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        packs = self.stages.step(state.step)
        rows = [row for members in packs for row in members]
        loss = self._backward(packs, labels=sum(row.labels for row in rows))
        self._update()
        value = float(self.workers.add(loss))
        state.clock.end_step()
        state.step += 1
        state.tokens += sum(len(row.tokens) for row in rows)
        state.train_seconds = self.workers.first_says(state.train_seconds + time.perf_counter() - began)
        state.cpu_seconds = self.workers.first_says(state.cpu_seconds + time.process_time() - cpu)
        state.memory.end_step()
        state.log.add(
            state.step,
            state.train_seconds,
            loss=value,
            learning_rate=config.optimization.learning_rate * factor,
            grad_norm=state.guard.norm,
            tokens=state.tokens,
            handle=state.handle,
        )
        if state.handle is not None:
            self._timed(partial(state.spectra.look, state.handle))
        return value

    def _backward(self, packs: list[Any], labels: int) -> torch.Tensor:
        """Gradients of one mean over all answer tokens of the step, however they fall into micro-batches."""
        state, config = self.state, self.config
        loss = torch.zeros((), device=self.bench.device, dtype=torch.float64)
        for number, batch in self.workers.share(self.bench.micro_batches(config, packs)):
            # Dropout depends on the micro-batch alone: not on what was drawn before it, nor on which worker
            # it falls to.
            torch.manual_seed(((config.seed * 1_000_003 + state.step) * 1_009 + number) % 2**63)
            with state.clock.section("forward"), lean_pass(state.model, batch) as inputs:
                part = state.model(**inputs, num_items_in_batch=labels, use_cache=False).loss
            with state.clock.section("backward"):
                part.backward()
            loss += part.detach() - state.maker.penalty(state.model)
        return loss

    def _update(self) -> None:
        """The optimizer's step, unless the gradients are not finite."""
        state = self.state
        with state.clock.section("optimizer"):
            self.workers.add_gradients(state.parameters)
            state.earlier.add_gradients()
            if state.handle is None:
                state.guard()
            if state.handle is not None or not state.guard.skipped_last:
                state.optimizer.step()
                state.maker.after_step(state.model, state.step + 1)
            state.optimizer.zero_grad(set_to_none=True)

    def _timed(self, work: Callable[[], Returned]) -> Returned:
        """What `work` returns; its seconds count as evaluation."""
        began = time.perf_counter()
        try:
            return work()
        finally:
            self.state.eval_seconds += time.perf_counter() - began

    def evaluate(self, *, last: bool = False) -> None:
        """Measures quality and retention now, outside the training clock, and adds a point to the curve.

        Every data-parallel worker does: the others would only wait for the first.
        """
        state = self.state
        # What is scored is what is counted: on the way, too, the directions that were given up are left out.
        with nullcontext() if state.handle is None else state.handle.as_counted():
            self._scores = self._timed(partial(self._look, last=last))
        if not state.curve:
            self._add_to_curve(0, 0.0, self.base)
        self._add_to_curve(state.step, state.train_seconds, self._scores)

    def _look(self, *, last: bool) -> Scores:
        model = self.state.model.eval()
        if last:
            return self.bench.score_fully(model, self.config)
        return self.bench.score(model, self.config, self.config.evaluation.interim_metric)

    def _add_to_curve(self, step: int, seconds: float, scores: Scores) -> None:
        forgetting = nats_per_token(scores.documents) - nats_per_token(self.base.documents)
        metric, predictions = self.config.evaluation.quality, scores.predictions
        likelihood, has_quality = None, True
        if metric == "primary":
            likelihood = mean_quality(predictions, "answer_logprob")
            has_quality = predictions[0].score is not None
        self.state.curve.append(
            {
                "step": step,
                "train_seconds": seconds,
                "quality": mean_quality(predictions, metric) if has_quality else None,
                "answer_logprob": likelihood,
                "forgetting": forgetting,
                "retention": math.exp(-forgetting),
            }
        )

    def finish(self) -> None:
        """Truncates the adapter to its ranks, so that what is scored is what is counted, and evaluates it."""
        if self.state.handle is not None:
            self.state.handle.finish()
        self.state.maker.after_training(self.state.model)
        self.evaluate(last=True)
        if len(self.stages) > 1 and self.spent():
            self.look_back(len(self.stages) - 1)

    def look_back(self, stage: int) -> None:
        """Measures every task learned so far, and general text, after a stage (from 0); fills `stages`."""
        with nullcontext() if self.state.handle is None else self.state.handle.as_counted():
            rows = partial(rows_after, stage, self.stages, self.bench, self.state.model.eval())
            self.state.stage_rows += self._timed(rows)
        if stage < len(self.stages) - 1:
            self._timed(partial(self.state.earlier.learned, stage))

    def audit(self, *, lost: bool) -> None:
        """Makes the tables of the audits that this run asks for; fills `audits`.

        Args:
            lost: the run did not spend its budget.
        """
        state = self.state
        trained = Trained(
            config=self.config,
            model=state.model,
            handle=state.handle,
            monitor=state.monitor,
            score=self._rows,
        )
        for name, spec in AUDITS.items():
            if spec.asked_by(self.config) and (spec.of_lost_runs or not lost):
                self.audits[name] = self._timed(partial(spec.rows, trained))

    def _rows(self) -> list[Row]:
        """The model as it is now, scored."""
        metric = self.config.evaluation.quality
        return short_rows(self.bench.score(self.state.model.eval(), self.config, metric), self.base, metric)

    def unique_tokens(self) -> int:
        """Tokens of the distinct training examples seen so far."""
        return self.stages.unique_tokens(self.state.step)

    def interim(self) -> Interim:
        """Where the run stands at its last evaluation."""
        state, quality = self.state, self.config.evaluation.interim_metric
        footprint, spent = 1.0, 0.0
        if state.handle is not None:
            timings = state.handle.timings()
            footprint = state.handle.effective_parameters() / state.adapter_parameters()
            spent = sum(timings.get(name, 0.0) for name in GEOMETRY_SECTIONS)
        return Interim(
            number=len(state.curve) - 1,
            share=self.share(),
            scores=tuple(example_quality(prediction, quality) for prediction in self.scores.predictions),
            document_losses=tuple(document.loss for document in self.scores.documents),
            footprint=footprint,
            overhead=spent / state.train_seconds,
        )
