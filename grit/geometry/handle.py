"""The live state of GRIT on one model.

It follows the optimizer's steps, and is read, saved and removed through this.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from grit.adapters.peft_adapters import AdaptedLayer
from grit.capture.agreement import STEPS, Agreement
from grit.capture.copied_hooks import OwnHook
from grit.capture.held_weights import HeldWeights
from grit.capture.label_positions import Layout, streams_of
from grit.capture.observation import Observation
from grit.capture.passes import Capture
from grit.capture.step_observer import StepObserver
from grit.capture.token_samples import TokenSamples
from grit.config.first_effect import refreshes
from grit.config.method import GritConfig
from grit.errors import ConfigError
from grit.geometry.cadence import CadenceController
from grit.geometry.events import (
    Event,
    MomentumNotProjected,
    NonfiniteFactor,
    NonfiniteGradient,
    PassWithoutBackward,
    Reprojection,
    ReprojectionHeld,
    event_of,
)
from grit.geometry.handle_summary import HandleSummary, summary_of
from grit.geometry.reprojector import Reprojector
from grit.geometry.state import GeometryState, ModuleFactors
from grit.rank_space.regularizers import ramp
from grit.runtime.clock import SectionTotals, StepClock
from grit.runtime.step_sections import GEOMETRY_SECTIONS
from grit.runtime.workers import reduce_mean
from grit.stepping.gradient_guard import (
    EvaluatedClosure,
    GradientGuard,
    flat_gradient,
    is_outermost_step,
    trained_parameters,
    unscale,
)
from grit.stepping.trust_region import TrustRegion


class GritHandle:
    """What `attach` returns.

    One optimizer step is: backward; statistics (every `cov_update_freq` steps); inverses (every
    `kfac_update_freq`);
    regularizers and preconditioning; clip; the optimizer's own step; reprojection and ranks (every
    `reprojection_freq`).

    Attributes:
        config: the switches. layers: the adapted layers, in the model's order. adapter: its name.
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
        adapter: str = "default",
        verify: bool = True,
        source: Sequence[TokenSamples],
    ) -> None:
        self.config, self.layers, self.adapter, self.step = config, layers, adapter, 0
        self.events: list[Event] = []
        self.guard = GradientGuard(optimizer, config.max_grad_norm)
        self._optimizer, self._clock = optimizer, clock
        streams = streams_of(model, layout, [layer.name for layer in layers])
        self._state = GeometryState(layers, streams, config)
        self._state.take_source(source)
        self._agreement = Agreement(layers, streams, steps=STEPS if verify else 0)
        self._held = HeldWeights(layers)
        self._totals = SectionTotals(self._state.device)
        self._controller = CadenceController.asked_by(config, trained_parameters(optimizer))
        kappa = config.trust_region if config.preconditioner == "kfac" else None
        self._trust = TrustRegion(optimizer, kappa)
        self._observer: StepObserver | None = None
        self._capture_next = False
        self._capture = Capture(
            model,
            layers,
            layout,
            sink=self._observe,
            before_pass=self._follow,
            discard=self._discard,
            verifying=lambda: self._verifying,
            watch_loss=self._controller is not None,
        )
        self._reprojector = Reprojector(config, self._state, self._capture, optimizer, self._section)
        self._arm()
        self._hooks = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
            model.register_forward_pre_hook(OwnHook(lambda *_: self._state.turn_back())),  # a failed step
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

    def outside_loss(self, loss: Tensor, count: Tensor | int) -> Tensor:
        """Says that `loss` is computed outside the model, as a mean over `count` equal parts; returns it.

        Call it between the forward pass and `loss.backward()`. A part is whatever the mean is over: a label,
        or a pair of a preference loss, in which all real tokens of the pair stand for it.
        """
        if loss.requires_grad:
            self._capture.watch_loss(loss, count)
        return loss

    def summary(self) -> HandleSummary:
        """Where GRIT stands: what it has seen and done, what waits and why. `print` it."""
        return summary_of(
            self.config, self.step, self._state, self.events, to_verify=self._agreement.remaining
        )

    def __repr__(self) -> str:
        return f"<GritHandle on {len(self.layers)} layers, step {self.step}>"

    def watch(self, observer: StepObserver) -> None:
        """Shows `observer` the factors and gradients of every step from now on.

        It costs memory and time, and changes nothing.
        """
        self._observer = observer
        self._state.keep_estimates()

    def modules_by_stack(self) -> dict[str, list[str]]:
        """Names of the modules in each stack that an observer sees, in order, by the stack's number."""
        return self._state.modules_by_stack()

    def finish(self) -> None:
        """Truncates the adapter to its ranks at the end of training.

        With `suppression = project` the optimizer has refilled discarded directions since the last
        reprojection; what is scored, counted and exported must be the same weights. Nothing to do for a gate,
        when reprojection never acted, or when this was just done.
        """
        if self._refilled(just_done=("end",)):
            if self._held.written:
                raise RuntimeError(
                    "the adapter's weights were written since the last step (load_best_model_at_end?), and "
                    "the directions kept belong to others: load the handle's state of that moment too (as "
                    "GritCallback does), or detach() and save the adapter as it is"
                )
            self.reproject(trigger="end", adapt_rank=False)
            self._held.note()

    @contextmanager
    def as_counted(self) -> Iterator[None]:
        """The adapter as `finish` would leave it, for an evaluation on the way; then as it was."""
        every = ("fixed", "first", "adaptive", "end")
        if not self._refilled(just_done=every):
            yield
            return
        foreign = self._held.written
        with self._state.truncated(self.step):
            yield
        if not foreign:
            self._held.note()

    def _refilled(self, *, just_done: tuple[str, ...]) -> bool:
        """Whether the optimizer has had a step to refill discarded directions in."""
        acted = [event for event in self.events if isinstance(event, Reprojection)]
        done = any(event.trigger in just_done and event.step == self.step for event in acted)
        return bool(acted) and not done and self.config.suppression == "project"

    def detach(self) -> None:
        """Removes every hook.

        The adapter keeps its weights; a `gate` is folded into A, so that the function stays the same.
        """
        self._state.leave_eigenbasis(self._optimizer)
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

    @property
    def _verifying(self) -> bool:
        return self._agreement.remaining > 0

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

    def _discard(self) -> None:
        self._state.discard()
        self._agreement.discard()

    def _observe(self, seen: Observation) -> None:
        with self._section("fisher"):
            if self._capture.passes == 1 or self.config.accumulated_statistics:
                self._state.observe(seen)
            self._agreement.observe(seen)

    def _before_step(self, _optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """As a hook before the optimizer's step; a closure is evaluated here, and only handed on to it."""
        if not is_outermost_step(self._optimizer):
            return None
        closure = kwargs.get("closure") or (args[1] if len(args) > 1 else None)
        replaced = None
        if closure is not None:
            evaluated = EvaluatedClosure(closure, trained_parameters(self._optimizer))
            replaced = (args[:1], {**kwargs, "closure": evaluated})
        self._held.check_same()
        self._prepare_step()
        return replaced

    def _prepare_step(self) -> None:
        config = self.config
        self._follow()
        passes, unused = self._capture.close()
        if unused:
            self._record(PassWithoutBackward(passes=unused), step=self.step + 1)
        if self._verifying:
            self._agreement.check(self._gates())
        unscale(self._optimizer)
        losses = self._capture.take_losses()
        with self._section("fisher"):
            if self._capture.armed:
                self._commit(passes)
            if refreshes(config, self.step, self._every(config.kfac_update_freq)):
                self._refresh()
        raw = None if self._observer is None else flat_gradient(self.layers)
        with self._section("fisher"):
            self._state.add_penalties(ramp(self.step, config.regularizer_warmup_steps))
            if self.step >= config.ng_warmup_steps:
                with self._trust.within(self._state.preconditioned):
                    self._state.precondition()
        if self._observer is not None and raw is not None:
            self._observer.gradients(self.step + 1, raw, flat_gradient(self.layers))
        self.guard()
        with self._section("fisher"):
            if self._controller is not None:
                self._control(self._controller, losses)
            self._state.turn()

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
        for event in self._state.refresh(self._optimizer):
            self._record(event, step=self.step + 1)

    def _control(self, controller: CadenceController, losses: Sequence[Tensor]) -> None:
        look = controller.look(self.guard.norm, losses, reduce_mean)
        if look is not None:
            self._record(look, step=self.step + 1)
            if look.verdict == "unstable":
                self._capture_next = True
                self._refresh()

    def _after_step(self, *_: Any) -> None:
        if not is_outermost_step(self._optimizer):
            return
        with self._section("fisher"):
            self._state.turn_back()
        self.step += 1
        self._arm()
        if self.guard.skipped_last:
            self._record(NonfiniteGradient())
        every = self.config.reprojection_freq
        if every is not None and self.step >= self.config.reprojection_warmup_steps:
            if self.step % self._every(every, stretched=self.config.cadence_stretches_reprojection) == 0:
                self._look()
        self._held.note()

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
        adapt_rank = adapt_rank and self.step >= self.config.rank_adaptation_start_step
        happened = {type(event) for event in self.events}
        for event in self._reprojector(self.step, trigger=trigger, adapt_rank=adapt_rank):
            if not (isinstance(event, MomentumNotProjected) and MomentumNotProjected in happened):
                self._record(event)

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
            "config": self.config.to_dict(),
            "layers": {layer.name: layer.rank for layer in self.layers},
            "step": self.step,
            "to_verify": self._agreement.remaining,
            "loss_scale": self._capture.loss_scale.state_dict(),
            "events": [event.row() for event in self.events],
            "groups": self._state.state_dict(),
            "gates": self._gates(),
            "seconds": self._totals.seconds(),
            "guard": self.guard.state_dict(),
            "capture_next": self._capture.armed,
            "controller": None if self._controller is None else self._controller.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict()`; training goes on bit for bit as if it had not been interrupted.

        The model's own weights are loaded before it.

        Raises:
            ConfigError: it is of other layers, or of other ranks.
        """
        own = {layer.name: layer.rank for layer in self.layers}
        saved = state.get("layers", own)  # older states do not say
        for name in {**own, **saved}:
            if own.get(name) != saved.get(name):
                there, here = saved.get(name, "none"), own.get(name, "none")
                raise ConfigError("state", name, f"has rank {there} in this state, and {here} in this model")
        self._agreement.remaining = min(self._agreement.remaining, state.get("to_verify", 0))
        self._capture.loss_scale.load_state_dict(state.get("loss_scale"))
        self.step, self.events = state["step"], [event_of(row) for row in state["events"]]
        self._state.load_state_dict(state["groups"])
        self._restore_place(state["gates"], state["seconds"])
        self.guard.load_state_dict(state["guard"])
        if self._controller is not None:
            self._controller.load_state_dict(state["controller"])
        self._capture_next = state["capture_next"]
        self._arm()
        self._held.note()
