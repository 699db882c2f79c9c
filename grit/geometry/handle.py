"""The live state of GRIT on one model.

It follows the optimizer's steps, and is read, saved and removed through this.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from grit.adapters.peft_adapters import AdaptedLayer
from grit.config.first_effect import refreshes
from grit.config.method import GritConfig
from grit.geometry.cadence import CadenceController
from grit.geometry.capture import Capture, Observation
from grit.geometry.events import (
    CadenceLook,
    Event,
    MomentumNotProjected,
    NonfiniteFactor,
    NonfiniteGradient,
    PassWithoutBackward,
    RankChange,
    Reprojection,
    ReprojectionHeld,
    ReprojectionSkipped,
    event_of,
)
from grit.geometry.gradient_guard import GradientGuard, gradient_or_zero
from grit.geometry.label_positions import Layout
from grit.geometry.rank_group import RankGroup
from grit.geometry.state import GeometryState, ModuleFactors
from grit.geometry.subspace_state import Projection
from grit.rank_space.regularizers import ramp
from grit.runtime.clock import SectionTotals, StepClock
from grit.runtime.step_sections import GEOMETRY_SECTIONS
from grit.runtime.workers import reduce_mean


class StepObserver(Protocol):
    """Somebody who looks at every optimizer step of a handle (see `GritHandle.watch`)."""

    def factors(self, step: int, own_factors: dict[str, Tensor]) -> None:
        """Takes the factors (M, r, r) of optimizer step `step`, by `<stack>/<side>/<estimate>`.

        The side is `a` or `g`; the estimate is `used` (the mean that acts) or `batch` (the step's own).
        """

    def gradients(self, step: int, raw: Tensor, applied: Tensor) -> None:
        """Takes the flat gradient of optimizer step `step` before and after preconditioning."""


class GritHandle:
    """What `attach` returns.

    One optimizer step is: backward; statistics (every `cov_update_freq` steps); inverses (every
    `kfac_update_freq`);
    regularizers and preconditioning; clip; the optimizer's own step; reprojection and ranks (every
    `reprojection_freq`).

    Attributes:
        config: the switches. layers: the adapted layers, in the model's order.
        step: optimizer steps taken so far.
        events: what happened, in order (grit/geometry/events.py).
        guard: clips to `max_grad_norm`, and drops steps whose gradients are not finite.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        config: GritConfig,
        *,
        layers: tuple[AdaptedLayer, ...],
        layout: Layout,
        clock: StepClock,
    ) -> None:
        self.config, self.layers, self.step = config, layers, 0
        self.events: list[Event] = []
        self.guard = GradientGuard(optimizer, config.max_grad_norm)
        self._optimizer, self._clock = optimizer, clock
        self._state = GeometryState(layers, layout, config)
        self._totals = SectionTotals(self._state.device)
        self._controller = _controller(optimizer, config)
        self._observer: StepObserver | None = None
        self._capture_next = False
        self._capture = Capture(
            model,
            layers,
            layout,
            sink=self._observe,
            before_pass=self._before_pass,
            watch_loss=self._controller is not None,
        )
        self._arm()
        self._hooks = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]

    # What people read.

    def factors(self) -> dict[str, ModuleFactors]:
        """Per module name, in the model's order: Sigma_a, Sigma_g, and how many tokens each has seen."""
        return self._state.factors()

    def ranks(self) -> dict[str, int]:
        """Per module name: the number of directions kept, in the model's order."""
        return self._state.ranks()

    def gates(self) -> dict[str, Tensor]:
        """Per module name with one.

        The matrix (r, r) that `suppression = gate` applies between the factors.
        """
        gates = ((layer.name, self._capture.gate(index)) for index, layer in enumerate(self.layers))
        return {name: gate for name, gate in gates if gate is not None}

    def effective_parameters(self) -> int:
        """Sum over modules of k (d_in + d_out): the size of the adapter once truncated to its ranks."""
        return self._state.effective_parameters()

    def timings(self) -> dict[str, float]:
        """Seconds in total of `fisher`, `reprojection` and `rank`, and the number of `steps`.

        On CUDA this waits for the device.
        """
        return {**dict.fromkeys(GEOMETRY_SECTIONS, 0.0), **self._totals.seconds(), "steps": float(self.step)}

    def watch(self, observer: StepObserver) -> None:
        """Shows `observer` the factors and gradients of every step from now on.

        It costs memory and time, and changes nothing.
        """
        self._observer = observer
        self._state.keep_estimates()

    def modules_by_stack(self) -> dict[str, list[str]]:
        """Names of the modules in each stack that an observer sees, in order, by the stack's number."""
        return self._state.modules_by_stack()

    # What ends it.

    def finish(self) -> None:
        """Truncates the adapter to its ranks at the end of training.

        With `suppression = project` the optimizer has refilled discarded directions since the last
        reprojection; what is scored, counted and exported must be the same weights. Nothing to do for a gate,
        when reprojection never acted, or when this was just done.
        """
        if self._refilled(just_done=("end",)):
            self.reproject(trigger="end", adapt_rank=False)

    def as_counted(self) -> AbstractContextManager[None]:
        """The adapter as `finish` would leave it, for an evaluation on the way; then as it was."""
        every = ("fixed", "first", "adaptive", "end")
        return self._state.truncated(self.step) if self._refilled(just_done=every) else nullcontext()

    def _refilled(self, *, just_done: tuple[str, ...]) -> bool:
        """Whether the optimizer has had a step to refill discarded directions in."""
        acted = [event for event in self.events if isinstance(event, Reprojection)]
        done = any(event.trigger in just_done and event.step == self.step for event in acted)
        return bool(acted) and not done and self.config.suppression == "project"

    def detach(self) -> None:
        """Removes every hook.

        The adapter keeps its weights; a `gate` is folded into A, so that the function stays the same.
        """
        for index, layer in enumerate(self.layers):
            gate = self._capture.gate(index)
            if gate is not None:
                weight = layer.down.weight
                weight.data.copy_(gate.to(weight.dtype) @ weight.data)
                self._capture.set_gate(index, None)
        self._capture.remove()
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    # What happens in a step.

    @contextmanager
    def _section(self, name: str) -> Iterator[None]:
        with self._clock.section(name), self._totals.section(name), torch.no_grad():
            yield

    def _every(self, period: int, *, stretched: bool = True) -> int:
        """A period of the configuration, in steps, as the controller has stretched it."""
        return period * self._controller.stretch if stretched and self._controller else period

    def _arm(self) -> None:
        due = self.step % self._every(self.config.cov_update_freq) == 0
        self._capture.arm(self._capture_next or due)
        self._capture_next = False

    def _follow(self) -> None:
        """Moves the state after the adapter: a trainer may put the model on its device after `attach`."""
        if not self._state.misplaced:
            return
        gates, seconds = self._gates(), self._totals.seconds()
        self._state.follow()
        self._restore_place(gates, seconds)

    def _before_pass(self) -> None:
        self._follow()
        layer = self.layers[0]
        if self._capture.passes and layer.down.weight.grad is None and layer.up.weight.grad is None:
            # Gradients were cleared and no step was taken: a gradient scaler skipped it, and its passes
            # belong to no step.
            self._capture.forget_passes()
            self._state.discard()

    def _observe(self, seen: Observation) -> None:
        if self._capture.passes > 1 and not self.config.accumulated_statistics:
            return
        with self._section("fisher"):
            self._state.observe(seen)

    def _before_step(self, *_: Any) -> None:
        config = self.config
        self._follow()
        passes, unused = self._capture.close()
        if unused:
            self._record(PassWithoutBackward(passes=unused), step=self.step + 1)
        self._unscale()
        losses = self._capture.take_losses()
        with self._section("fisher"):
            if self._capture.armed:
                self._commit(passes)
            if refreshes(config, self.step, self._every(config.kfac_update_freq)):
                self._refresh()
        raw = None if self._observer is None else self._flat_gradient()
        with self._section("fisher"):
            self._state.transform_gradients(
                precondition=self.step >= config.ng_warmup_steps,
                regularization=ramp(self.step, config.regularizer_warmup_steps),
            )
        if self._observer is not None and raw is not None:
            self._observer.gradients(self.step + 1, raw, self._flat_gradient())
        self.guard()
        if self._controller is not None:
            self._control(self._controller, losses)

    def _unscale(self) -> None:
        """Undoes the scale that a gradient scaler leaves to a fused optimizer.

        Preconditioning and clipping need the gradients themselves.
        """
        scale = getattr(self._optimizer, "grad_scale", None)
        if scale is None:
            return
        gradients = [p.grad for p in _parameters(self._optimizer) if p.grad is not None]
        torch._foreach_div_(gradients, scale)
        self._optimizer.grad_scale = None  # type: ignore[attr-defined]  # set by torch.amp.GradScaler

    def _commit(self, passes: int) -> None:
        if passes == 0:
            raise RuntimeError(
                "no backward pass was observed before this optimizer step: was the model in training mode?"
            )
        lost = self._state.commit()
        if self._observer is not None:
            factors: dict[str, Tensor] = {}
            for name, used, own in self._state.estimates():
                factors[f"{name}/used"], factors[f"{name}/batch"] = used, own
            self._observer.factors(self.step + 1, factors)
        if lost:
            self._record(NonfiniteFactor(factors=lost), step=self.step + 1)

    def _refresh(self) -> None:
        for event in self._state.refresh():
            self._record(event, step=self.step + 1)

    def _flat_gradient(self) -> Tensor:
        """All adapters' gradients as one vector; zero where there is none."""
        weights = [weight for layer in self.layers for weight in (layer.down.weight, layer.up.weight)]
        return torch.cat([gradient_or_zero(weight).float().flatten() for weight in weights])

    def _control(self, controller: CadenceController, losses: Sequence[Tensor]) -> None:
        if not losses:
            raise RuntimeError(
                "cadence = 'adaptive' needs the model's own loss: pass `labels` to its forward"
            )
        with self._section("fisher"):
            look = controller.update(self.guard.norm, torch.stack(list(losses)).mean(), reduce_mean)
            if look is None:
                return
            verdict, indicators = look
            event = CadenceLook(
                verdict=verdict,
                stretch=controller.stretch,
                spread=indicators.spread,
                change=indicators.change,
                cosine=indicators.cosine,
            )
            self._record(event, step=self.step + 1)
            if verdict == "unstable":
                self._capture_next = True
                self._refresh()

    def _after_step(self, *_: Any) -> None:
        self.step += 1
        self._arm()
        if self.guard.skipped_last:
            self._record(NonfiniteGradient())
        every = self.config.reprojection_freq
        if every is None or self.step < self.config.reprojection_warmup_steps:
            return
        if self.step % self._every(every, stretched=self.config.cadence_stretches_reprojection) == 0:
            self._look()

    def _look(self) -> None:
        """At every T-th step: reprojects, unless an adaptive trigger finds that too little has changed."""
        if self.config.reprojection_trigger == "fixed":
            self.reproject(trigger="fixed")
            return
        with self._section("rank"):
            moved = self._state.largest_shift()
        if moved is not None and moved <= self.config.reprojection_band:
            self._record(ReprojectionHeld(shift=moved))
        else:
            self.reproject(trigger="first" if moved is None else "adaptive")

    def reproject(self, *, trigger: str, adapt_rank: bool = True) -> None:
        """Chooses ranks (unless told to keep them) and projects now, where the gates allow it.

        Records the event.
        """
        started = time.perf_counter()
        masses: list[Tensor] = []
        before, two_sided = self.ranks(), True
        adapt_rank = adapt_rank and self.step >= self.config.rank_adaptation_start_step
        for group in self._state.groups:
            with self._section("rank"):
                projection = group.subspace.choose(self.step, adapt_rank=adapt_rank, mix=trigger != "end")
            if projection is None:
                continue
            with self._section("reprojection"):
                masses.append(group.retained_mass(projection))
                two_sided = two_sided and projection.two_sided
                self._suppress(group, projection)
        self._state.ranks_changed()
        if not masses:
            self._record(ReprojectionSkipped(trigger=trigger, reason="sample gate"))
            return
        after, mass = self.ranks(), torch.cat(masses)
        self._record(
            Reprojection(
                trigger=trigger,
                two_sided=two_sided,
                ranks=tuple(after.values()),
                retained_mass=float(mass.mean()),
                retained_mass_min=float(mass.min()),
                seconds=time.perf_counter() - started,
            )
        )
        if after != before:
            self._record_rank_change(before, after)

    def _record_rank_change(self, before: dict[str, int], after: dict[str, int]) -> None:
        changed = [after[name] - before[name] for name in after]
        up, down = sum(change > 0 for change in changed), sum(change < 0 for change in changed)
        self._record(RankChange(up=up, down=down, effective_parameters=self.effective_parameters()))

    def _suppress(self, group: RankGroup, projection: Projection) -> None:
        if self.config.suppression == "project":
            momentum_projected = group.apply(projection, self._optimizer)
            already_recorded = any(isinstance(event, MomentumNotProjected) for event in self.events)
            if not momentum_projected and not already_recorded:
                self._record(MomentumNotProjected(optimizer=type(self._optimizer).__name__))
            return
        eye = torch.eye(group.rank, device=projection.between.device, dtype=projection.between.dtype)
        for index, between in zip(group.indices, projection.between, strict=True):
            self._capture.set_gate(index, None if torch.equal(between, eye) else between)

    def _record(self, event: Event, *, step: int | None = None) -> None:
        self.events.append(event.at(self.step if step is None else step))

    # Checkpoints.

    def _gates(self) -> list[Tensor | None]:
        return [self._capture.gate(index) for index in range(len(self.layers))]

    def _restore_place(self, gates: Sequence[Tensor | None], seconds: dict[str, float]) -> None:
        """Gates and clock readings, where the state is now."""
        for index, gate in enumerate(gates):
            self._capture.set_gate(index, None if gate is None else gate.to(self._state.device))
        self._totals = SectionTotals(self._state.device)
        self._totals.add(seconds)

    def state_dict(self) -> dict[str, Any]:
        """The exact state, for a checkpoint; call it between optimizer steps."""
        return {
            "step": self.step,
            "events": [event.row() for event in self.events],
            "groups": self._state.state_dict(),
            "gates": self._gates(),
            "seconds": self._totals.seconds(),
            "guard": self.guard.state_dict(),
            "capture_next": self._capture.armed,
            "controller": None if self._controller is None else self._controller.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict()`; training goes on bit for bit as if it had not been interrupted."""
        self.step, self.events = state["step"], [event_of(row) for row in state["events"]]
        self._state.load_state_dict(state["groups"])
        self._restore_place(state["gates"], state["seconds"])
        self.guard.load_state_dict(state["guard"])
        if self._controller is not None:
            self._controller.load_state_dict(state["controller"])
        self._capture_next = state["capture_next"]
        self._arm()


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _controller(optimizer: torch.optim.Optimizer, config: GritConfig) -> CadenceController | None:
    if config.cadence == "fixed":
        return None
    return CadenceController(config.cadence_window, config.cadence_max_stretch, _parameters(optimizer))
