"""`attach`: GRIT on any PEFT LoRA model and any torch optimizer, through hooks alone."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor, nn

from grit.adapters import AdaptedLayer, adapted_layers
from grit.capture import Capture
from grit.config import GritConfig
from grit.group import Projection, RankGroup
from grit.guard import GradientGuard
from grit.timing import NoClock, StepClock

Event = dict[str, Any]


def attach(model: nn.Module, optimizer: torch.optim.Optimizer, config: GritConfig, *, clock: StepClock | None = None,
           adapter: str = "default") -> GritHandle:
    """Makes `optimizer` train `model`'s LoRA adapter with GRIT; the training loop needs no other change.

    The model must be called with `labels` (and `attention_mask`, when it is padded), so that padding, labels and the loss's scale are known.

    Raises:
        ConfigError: the model has no plain LoRA adapter of that name.
    """
    return GritHandle(model, optimizer, config, adapted_layers(model, adapter), clock or NoClock())


class GritHandle:
    """What `attach` returns: the live state of GRIT on one model, and the way to read, save and remove it.

    One optimizer step is: backward; statistics (every `cov_update_freq` steps); inverses (every `kfac_update_freq`); precondition; clip;
    the optimizer's own step; reprojection and ranks (every `reprojection_freq`).

    Attributes:
        step: optimizer steps taken so far.
        events: what happened, in order: reprojections, rank changes, damping ladders, non-finite values. Each has `step` (the optimizer step,
            from 1, in which it happened) and `kind`.
        guard: the clip of `max_grad_norm`, when the configuration has one.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, config: GritConfig, layers: tuple[AdaptedLayer, ...],
                 clock: StepClock) -> None:
        self.config, self.layers, self.step = config, layers, 0
        self.events: list[Event] = []
        self._clock, self._optimizer = clock, optimizer
        by_rank: dict[int, list[int]] = {}
        for index, layer in enumerate(layers):
            by_rank.setdefault(layer.rank, []).append(index)
        self._groups = [RankGroup([layers[i] for i in indices], indices, config) for indices in by_rank.values()]
        self._capture = Capture(model, layers)
        self._capture.armed = self._captures_at(0)
        self.guard = GradientGuard(optimizer, config.max_grad_norm) if config.max_grad_norm is not None else None
        self._hooks = [optimizer.register_step_pre_hook(self._before_step), optimizer.register_step_post_hook(self._after_step)]

    def detach(self) -> None:
        """Removes every hook. The adapter keeps its weights; a `gate` is folded into A, so that the function stays the same."""
        for group in self._groups:
            for row, index in enumerate(group.indices):
                gate = self._capture.gate(index)
                if gate is not None:
                    weight = group.layers[row].down.weight
                    weight.data.copy_(gate.to(weight.dtype) @ weight.data)
                    self._capture.set_gate(index, None)
        self._capture.remove()
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _captures_at(self, step: int) -> bool:
        return step % self.config.cov_update_freq == 0

    def _before_step(self, *_: Any) -> None:
        with self._clock.section("fisher"), torch.no_grad():
            if self._capture.armed:
                self._fold()
            if self.config.preconditioner != "none":
                if (self.step + 1) % self.config.kfac_update_freq == 0:
                    for event in (event for group in self._groups for event in group.refresh()):
                        self._record(event, step=self.step + 1)
                if self.step >= self.config.ng_warmup_steps:
                    for group in self._groups:
                        group.precondition()
        if self.guard is not None:
            self.guard()

    def _fold(self) -> None:
        observations = self._capture.drain()
        if not observations:
            raise RuntimeError("no backward pass was observed before this optimizer step: was the model in training mode?")
        lost = sum(group.fold(observations, reduce_sum) for group in self._groups)
        if lost:
            self._record({"kind": "nonfinite_factor", "factors": lost}, step=self.step + 1)

    def _after_step(self, *_: Any) -> None:
        self.step += 1
        self._capture.armed = self._captures_at(self.step)
        if self.guard is not None and self.guard.skipped_last:
            self._record({"kind": "nonfinite_gradient"})
        every = self.config.reprojection_freq
        if every is not None and self.step % every == 0 and self.step >= self.config.reprojection_warmup_steps:
            self.reproject(trigger="fixed")

    def finish(self) -> None:
        """Truncates the adapter to its ranks at the end of training.

        With `suppression = project` the optimizer has refilled discarded directions since the last reprojection; what is scored, counted
        and exported must be the same weights. Nothing to do for a gate, or when reprojection never acted.
        """
        acted = any(event["kind"] == "reprojection" for event in self.events)
        if acted and self.config.suppression == "project":
            self.reproject(trigger="end", adapt_rank=False)

    def reproject(self, *, trigger: str, adapt_rank: bool = True) -> None:
        """Chooses ranks (unless told to keep them) and projects now, where the sample gates allow it; records the event."""
        started = time.perf_counter()
        masses: list[Tensor] = []
        before, two_sided = self.ranks(), False
        adapt_rank = adapt_rank and self.step >= self.config.rank_adaptation_start_step
        for group in self._groups:
            with self._clock.section("rank"), torch.no_grad():
                projection = group.choose(adapt_rank=adapt_rank)
            if projection is None:
                continue
            with self._clock.section("reprojection"), torch.no_grad():
                masses.append(group.retained_mass(projection, group.gramians()))
                two_sided = projection.two_sided
                self._suppress(group, projection)
        if not masses:
            self._record({"kind": "reprojection_skipped", "trigger": trigger, "reason": "sample gate"})
            return
        after, mass = self.ranks(), torch.cat(masses)
        self._record({"kind": "reprojection", "trigger": trigger, "two_sided": two_sided, "ranks": list(after.values()),
                      "retained_mass": float(mass.mean()), "retained_mass_min": float(mass.min()), "seconds": time.perf_counter() - started})
        if after != before:
            changed = [new - old for new, old in zip(after.values(), before.values(), strict=True)]
            self._record({"kind": "rank", "up": sum(c > 0 for c in changed), "down": sum(c < 0 for c in changed),
                          "effective_parameters": self.effective_parameters()})

    def _suppress(self, group: RankGroup, projection: Projection) -> None:
        if self.config.suppression == "project":
            group.apply(projection, self._optimizer)
            return
        for row, index in enumerate(group.indices):
            full = int(group.ranks[row]) == group.rank
            self._capture.set_gate(index, None if full else projection.between[row])

    def _record(self, event: Event, *, step: int | None = None) -> None:
        self.events.append({"step": self.step if step is None else step, **event})

    def factors(self) -> dict[str, tuple[Tensor, Tensor, int, int]]:
        """Per module name: Sigma_a (r, r), Sigma_g (r, r), and how many tokens each has seen."""
        found = {}
        for group in self._groups:
            means = group.moment_a.mean(), group.moment_g.mean()
            for row, layer in enumerate(group.layers):
                found[layer.name] = (means[0][row], means[1][row], int(group.moment_a.samples[row]), int(group.moment_g.samples[row]))
        return {layer.name: found[layer.name] for layer in self.layers}

    def ranks(self) -> dict[str, int]:
        """Per module name: the number of directions kept, in the model's order."""
        found = {layer.name: int(k) for group in self._groups for layer, k in zip(group.layers, group.ranks, strict=True)}
        return {layer.name: found[layer.name] for layer in self.layers}

    def effective_parameters(self) -> int:
        """Sum over modules of k (d_in + d_out): the size of the adapter once truncated to its ranks."""
        return sum(group.effective_parameters() for group in self._groups)

    def state_dict(self) -> dict[str, Any]:
        """The exact state, for a checkpoint; call it between optimizer steps."""
        gates = [self._capture.gate(index) for index in range(len(self.layers))]
        return {"step": self.step, "events": list(self.events), "groups": [group.state_dict() for group in self._groups], "gates": gates,
                "guard": None if self.guard is None else self.guard.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict()`; training goes on bit for bit as if it had not been interrupted."""
        self.step, self.events = state["step"], list(state["events"])
        for group, saved in zip(self._groups, state["groups"], strict=True):
            group.load_state_dict(saved)
        for index, gate in enumerate(state["gates"]):
            self._capture.set_gate(index, None if gate is None else gate.to(self.layers[index].down.weight.device))
        if self.guard is not None:
            self.guard.load_state_dict(state["guard"])
        self._capture.armed = self._captures_at(self.step)


def reduce_sum(tensor: Tensor) -> None:
    """Adds the data-parallel workers' sums in place; one process keeps its own."""
    if torch.distributed.is_available() and torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        torch.distributed.all_reduce(tensor)
