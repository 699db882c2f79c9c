"""`attach`: GRIT on any PEFT LoRA model and any torch optimizer, through hooks alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from grit.adapters.peft_adapters import AdaptedLayer, adapted_layers, task_type
from grit.adapters.quantization import ComputePrecision
from grit.config.first_effect import refreshes
from grit.config.method import GritConfig
from grit.errors import ConfigError
from grit.geometry.cadence import CadenceController, as_event
from grit.geometry.capture import Capture, Observation
from grit.geometry.gradient_guard import GradientGuard
from grit.geometry.label_positions import Layout, layout_of, stream_of
from grit.geometry.rank_group import RankGroup
from grit.geometry.subspace_state import Projection
from grit.rank_space.regularizers import ramp
from grit.runtime.clock import GEOMETRY_SECTIONS, NoClock, SectionTotals, StepClock
from grit.runtime.workers import reduce_mean, reduce_sum

Event = dict[str, Any]


class StepObserver(Protocol):
    """Somebody who looks at every optimizer step of a handle (see `GritHandle.watch`)."""

    def factors(self, step: int, found: dict[str, Tensor]) -> None:
        """Takes the factors (M, r, r) of optimizer step `step`, by `<stack>/<side>/<estimate>`.

        Side `a` or `g`, estimate `used` or `batch`.
        """

    def gradients(self, step: int, raw: Tensor, applied: Tensor) -> None:
        """Takes the flat gradient of optimizer step `step` before and after preconditioning."""


def attach(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: GritConfig,
    *,
    labels: Layout | None = None,
    clock: StepClock | None = None,
    adapter: str = "default",
) -> GritHandle:
    """Makes `optimizer` train `model`'s LoRA adapter with GRIT; the training loop needs no other change.

    The model must be called with `labels` (and `attention_mask`, when it is padded), so that padding, labels
    and the loss's scale are known. Gradients should be clipped by `max_grad_norm` here, after
    preconditioning, and not by the loop before it.

    Args:
        model: a PEFT model with a LoRA adapter on linear layers.
        optimizer: any torch optimizer that trains it.
        config: the switches.
        labels: how labels line up with positions; None finds it from the adapter's task type or the model's
            class.
        clock: charged with the time GRIT takes, for loops that keep one.
        adapter: the adapter's name.

    Raises:
        ConfigError: the model has no plain LoRA adapter of that name, the optimizer does not train it, how
            its labels line up is not known, or the configuration asks for something that this model cannot
            do.
    """
    layers = adapted_layers(model, adapter)
    _check_support(layers, optimizer, config)
    layout = labels or layout_of(model, task_type(model, adapter))
    return GritHandle(model, optimizer, config, layers, layout, clock or NoClock())


def _check_support(
    layers: tuple[AdaptedLayer, ...], optimizer: torch.optim.Optimizer, config: GritConfig
) -> None:
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    for layer in layers:
        if id(layer.down.weight) not in trained and id(layer.up.weight) not in trained:
            raise ConfigError(
                "optimizer", type(optimizer).__name__, f"does not train the adapter of {layer.name}"
            )
    for name in ("quantization_damping", "dequantized_refresh"):
        if getattr(config, name) and not len(ComputePrecision([layer.base for layer in layers])):
            raise ConfigError(
                name,
                getattr(config, name),
                "needs a 4-bit backbone, and no adapted layer of this model is quantized",
            )


class GritHandle:
    """What `attach` returns: the live state of GRIT on one model, and the way to read, save and remove it.

    One optimizer step is: backward; statistics (every `cov_update_freq` steps); inverses (every
    `kfac_update_freq`); regularizers and
    preconditioning; clip; the optimizer's own step; reprojection and ranks (every `reprojection_freq`).

    Attributes:
        step: optimizer steps taken so far.
        events: what happened, in order: reprojections, rank changes, damping ladders, non-finite values. Each
            has `step` (the optimizer step, from 1, in which it happened) and `kind`.
        guard: clips to `max_grad_norm`, and drops steps whose gradients are not finite.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        config: GritConfig,
        layers: tuple[AdaptedLayer, ...],
        layout: Layout,
        clock: StepClock,
    ) -> None:
        self.config, self.layers, self.step = config, layers, 0
        self.events: list[Event] = []
        self._clock, self._optimizer, self._layout = clock, optimizer, layout
        self._settle()
        self._capture = Capture(model, layers, layout, self._observe)
        self._capture.before_pass = self._before_pass
        self._capture.around = (
            ComputePrecision([layer.base for layer in layers]).full if config.dequantized_refresh else None
        )
        self.guard = GradientGuard(optimizer, config.max_grad_norm)
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self._controller = (
            CadenceController(config.cadence_window, config.cadence_max_stretch, parameters)
            if config.cadence == "adaptive"
            else None
        )
        self._capture.watch_loss = self._controller is not None
        self._capture_next = False
        self._ranks: dict[str, int] | None = None
        self._observer: StepObserver | None = None
        self._arm()
        self._hooks = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]

    def _settle(self) -> None:
        """Builds the state where the adapter is."""
        self._device = self.layers[0].down.weight.device
        self._totals = SectionTotals(self._device)
        by_rank: dict[int, list[int]] = {}
        for index, layer in enumerate(self.layers):
            by_rank.setdefault(layer.rank, []).append(index)
        streams = [stream_of(self._layout, layer.name) for layer in self.layers]
        self._groups = [
            RankGroup([self.layers[i] for i in rows], rows, [streams[i] for i in rows], self.config)
            for rows in by_rank.values()
        ]

    def watch(self, observer: StepObserver) -> None:
        """Shows `observer` the factors and gradients of every step from now on.

        It costs memory and time, and changes nothing.
        """
        self._observer = observer
        for group in self._groups:
            group.statistics.keep_estimate = True

    def modules_by_group(self) -> dict[str, list[str]]:
        """Names of the modules in each stack of factors, in order, by the stack's number.

        An observer's factors are named after these.
        """
        return {
            str(number): [layer.name for layer in group.layers] for number, group in enumerate(self._groups)
        }

    def _show_factors(self, observer: StepObserver) -> None:
        factors: dict[str, Tensor] = {}
        for number, group in enumerate(self._groups):
            estimates = group.statistics.estimate
            assert estimates is not None
            moments = (group.statistics.moment_a, group.statistics.moment_g)
            for side, moment, estimate in zip("ag", moments, estimates, strict=True):
                factors[f"{number}/{side}/used"] = moment.mean()
                factors[f"{number}/{side}/batch"] = estimate
        observer.factors(self.step + 1, factors)

    def _flat_gradient(self) -> Tensor:
        """All adapters' gradients as one vector; zero where there is none."""
        weights = [weight for layer in self.layers for weight in (layer.down.weight, layer.up.weight)]
        return torch.cat(
            [
                (torch.zeros_like(weight) if weight.grad is None else weight.grad).detach().float().flatten()
                for weight in weights
            ]
        )

    def _follow(self) -> None:
        """Moves the state after the adapter: a trainer may put the model on its device after `attach`."""
        if self.layers[0].down.weight.device == self._device:
            return
        kept = self._movable_state()
        self._settle()
        for group in self._groups:
            group.statistics.keep_estimate = self._observer is not None
        self._load_movable_state(kept)

    def _movable_state(self) -> dict[str, Any]:
        """What lies where the adapter does, and the seconds spent there."""
        gates = [self._capture.gate(index) for index in range(len(self.layers))]
        return {
            "groups": [group.state_dict() for group in self._groups],
            "gates": gates,
            "seconds": self._totals.seconds(),
        }

    def _load_movable_state(self, state: dict[str, Any]) -> None:
        for group, saved in zip(self._groups, state["groups"], strict=True):
            group.load_state_dict(saved)
        for index, gate in enumerate(state["gates"]):
            self._capture.set_gate(index, None if gate is None else gate.to(self._device))
        self._totals = SectionTotals(self._device)
        self._totals.add(state["seconds"])

    def _before_pass(self) -> None:
        self._follow()
        layer = self.layers[0]
        if self._capture.passes and layer.down.weight.grad is None and layer.up.weight.grad is None:
            # Gradients were cleared and no step was taken: a gradient scaler skipped it, and its passes
            # belong to no step.
            self._capture.passes = 0
            for group in self._groups:
                group.statistics.discard()

    def detach(self) -> None:
        """Removes every hook.

        The adapter keeps its weights; a `gate` is folded into A, so that the function stays the same.
        """
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

    @contextmanager
    def _section(self, name: str) -> Iterator[None]:
        with self._clock.section(name), self._totals.section(name), torch.no_grad():
            yield

    def _every(self, period: int) -> int:
        """A period of the configuration, in steps, as the controller has stretched it."""
        return period if self._controller is None else period * self._controller.stretch

    def _arm(self) -> None:
        self._capture.armed = self._capture_next or self.step % self._every(self.config.cov_update_freq) == 0
        self._capture_next = False

    def _observe(self, seen: Observation) -> None:
        if self._capture.passes > 1 and not self.config.accumulated_statistics:
            return
        with self._section("fisher"):
            for group in self._groups:
                group.statistics.observe(seen)

    def _before_step(self, *_: Any) -> None:
        config = self.config
        self._follow()
        passes, unused = self._capture.close()
        if unused:
            self._record({"kind": "pass_without_backward", "passes": unused}, step=self.step + 1)
        self._unscale()
        losses, self._capture.losses = self._capture.losses, []
        with self._section("fisher"):
            if self._capture.armed:
                self._commit(passes)
            if refreshes(config, self.step, self._every(config.kfac_update_freq)):
                self._refresh()
        raw = None if self._observer is None else self._flat_gradient()
        with self._section("fisher"):
            for group in self._groups:
                group.transform_gradients(
                    precondition=self.step >= config.ng_warmup_steps,
                    regularization=ramp(self.step, config.regularizer_warmup_steps),
                )
        if self._observer is not None and raw is not None:
            self._observer.gradients(self.step + 1, raw, self._flat_gradient())
        self.guard()
        if self._controller is not None:
            self._control(losses)

    def _unscale(self) -> None:
        """Undoes the scale that a gradient scaler leaves to a fused optimizer.

        Preconditioning and clipping need the gradients themselves.
        """
        scale = getattr(self._optimizer, "grad_scale", None)
        if scale is None:
            return
        gradients = [
            p.grad for group in self._optimizer.param_groups for p in group["params"] if p.grad is not None
        ]
        torch._foreach_div_(gradients, scale)
        self._optimizer.grad_scale = None  # type: ignore[attr-defined]  # set by torch.amp.GradScaler for fused optimizers

    def _commit(self, passes: int) -> None:
        if passes == 0:
            raise RuntimeError(
                "no backward pass was observed before this optimizer step: was the model in training mode?"
            )
        lost = sum(group.statistics.commit(reduce_sum) for group in self._groups)
        if self._observer is not None:
            self._show_factors(self._observer)
        if lost:
            self._record({"kind": "nonfinite_factor", "factors": lost}, step=self.step + 1)

    def _refresh(self) -> None:
        for group in self._groups:
            for event in group.refresh():
                self._record(event, step=self.step + 1)

    def _control(self, losses: list[Tensor]) -> None:
        assert self._controller is not None
        if not losses:
            raise RuntimeError(
                "cadence = 'adaptive' needs the model's own loss: pass `labels` to its forward"
            )
        with self._section("fisher"):
            seen = self._controller.update(self.guard.norm, torch.stack(losses).mean(), reduce_mean)
            if seen is None:
                return
            self._record(as_event(*seen, self._controller.stretch), step=self.step + 1)
            if seen[0] == "unstable":
                self._capture_next = True
                self._refresh()

    def _after_step(self, *_: Any) -> None:
        self.step += 1
        self._arm()
        if self.guard.skipped_last:
            self._record({"kind": "nonfinite_gradient"})
        every = self.config.reprojection_freq
        if (
            every is not None
            and self.step % every == 0
            and self.step >= self.config.reprojection_warmup_steps
        ):
            self._look()

    def _look(self) -> None:
        """At every T-th step: reprojects, unless an adaptive trigger finds that too little has changed."""
        if self.config.reprojection_trigger == "fixed":
            self.reproject(trigger="fixed")
            return
        with self._section("rank"):
            shifts = [shift for group in self._groups if (shift := group.subspace.shift()) is not None]
            moved = float(torch.cat(shifts).mean()) if shifts else None
        if moved is not None and moved <= self.config.reprojection_band:
            self._record({"kind": "reprojection_held", "shift": moved})
        else:
            self.reproject(trigger="first" if moved is None else "adaptive")

    def finish(self) -> None:
        """Truncates the adapter to its ranks at the end of training.

        With `suppression = project` the optimizer has refilled discarded directions since the last
        reprojection; what is scored, counted and exported must be the same weights. Nothing to do for a gate,
        when reprojection never acted, or when this was just done.
        """
        acted = any(event["kind"] == "reprojection" for event in self.events)
        done = any(
            event["kind"] == "reprojection" and event["trigger"] == "end" and event["step"] == self.step
            for event in self.events
        )
        if acted and not done and self.config.suppression == "project":
            self.reproject(trigger="end", adapt_rank=False)

    def reproject(self, *, trigger: str, adapt_rank: bool = True) -> None:
        """Chooses ranks (unless told to keep them) and projects now, where the gates allow it.

        Records the event.
        """
        started = time.perf_counter()
        masses: list[Tensor] = []
        before, two_sided = self.ranks(), True
        adapt_rank = adapt_rank and self.step >= self.config.rank_adaptation_start_step
        for group in self._groups:
            with self._section("rank"):
                projection = group.subspace.choose(self.step, adapt_rank=adapt_rank, mix=trigger != "end")
            if projection is None:
                continue
            with self._section("reprojection"):
                masses.append(group.retained_mass(projection))
                two_sided = two_sided and projection.two_sided
                self._suppress(group, projection)
        self._ranks = None
        if not masses:
            self._record({"kind": "reprojection_skipped", "trigger": trigger, "reason": "sample gate"})
            return
        after, mass = self.ranks(), torch.cat(masses)
        self._record(
            {
                "kind": "reprojection",
                "trigger": trigger,
                "two_sided": two_sided,
                "ranks": list(after.values()),
                "retained_mass": float(mass.mean()),
                "retained_mass_min": float(mass.min()),
                "seconds": time.perf_counter() - started,
            }
        )
        if after != before:
            changed = [new - old for new, old in zip(after.values(), before.values(), strict=True)]
            self._record(
                {
                    "kind": "rank",
                    "up": sum(c > 0 for c in changed),
                    "down": sum(c < 0 for c in changed),
                    "effective_parameters": self.effective_parameters(),
                }
            )

    def _suppress(self, group: RankGroup, projection: Projection) -> None:
        if self.config.suppression == "project":
            known = group.apply(projection, self._optimizer)
            if not known and not any(event["kind"] == "momentum_not_projected" for event in self.events):
                self._record({"kind": "momentum_not_projected", "optimizer": type(self._optimizer).__name__})
            return
        eye = torch.eye(group.rank, device=projection.between.device, dtype=projection.between.dtype)
        for index, between in zip(group.indices, projection.between, strict=True):
            self._capture.set_gate(index, None if torch.equal(between, eye) else between)

    def _record(self, event: Event, *, step: int | None = None) -> None:
        self.events.append({"step": self.step if step is None else step, **event})

    def factors(self) -> dict[str, tuple[Tensor, Tensor, int, int]]:
        """Per module name: Sigma_a (r, r), Sigma_g (r, r), and how many tokens each has seen."""
        found = {}
        for group in self._groups:
            moments = group.statistics.moment_a, group.statistics.moment_g
            means = moments[0].mean(), moments[1].mean()
            for row, layer in enumerate(group.layers):
                found[layer.name] = (
                    means[0][row],
                    means[1][row],
                    int(moments[0].samples[row]),
                    int(moments[1].samples[row]),
                )
        return {layer.name: found[layer.name] for layer in self.layers}

    def ranks(self) -> dict[str, int]:
        """Per module name: the number of directions kept, in the model's order."""
        if self._ranks is None:
            kept = {
                i: k
                for group in self._groups
                for i, k in zip(group.indices, group.subspace.ranks.tolist(), strict=True)
            }
            self._ranks = {layer.name: kept[index] for index, layer in enumerate(self.layers)}
        return dict(self._ranks)

    def gates(self) -> dict[str, Tensor]:
        """Per module name with one.

        The matrix (r, r) that `suppression = gate` applies between the factors.
        """
        gates = ((layer.name, self._capture.gate(index)) for index, layer in enumerate(self.layers))
        return {name: gate for name, gate in gates if gate is not None}

    def effective_parameters(self) -> int:
        """Sum over modules of k (d_in + d_out): the size of the adapter once truncated to its ranks."""
        return sum(group.effective_parameters() for group in self._groups)

    def timings(self) -> dict[str, float]:
        """Seconds in total of `fisher`, `reprojection` and `rank`, and the number of `steps`.

        On CUDA this waits for the device.
        """
        return {**dict.fromkeys(GEOMETRY_SECTIONS, 0.0), **self._totals.seconds(), "steps": float(self.step)}

    def state_dict(self) -> dict[str, Any]:
        """The exact state, for a checkpoint; call it between optimizer steps."""
        return {
            "step": self.step,
            "events": list(self.events),
            **self._movable_state(),
            "guard": self.guard.state_dict(),
            "capture_next": self._capture.armed,
            "controller": None if self._controller is None else self._controller.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict()`; training goes on bit for bit as if it had not been interrupted."""
        self.step, self.events, self._ranks = state["step"], list(state["events"]), None
        self._load_movable_state(state)
        self.guard.load_state_dict(state["guard"])
        if self._controller is not None:
            self._controller.load_state_dict(state["controller"])
        self._capture_next = state["capture_next"]
        self._arm()
