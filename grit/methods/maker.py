"""What a method's adapter has to be able to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from grit.config.run_config import RunConfig

#: Tokens, mask and labels, on the device.
Batches = Sequence[dict[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """What is to be adapted, and with what data a method may look at before.

    Attributes:
        config: the run.
        ranks: of each module, by path.
        examples: the first training examples.
        general_text: documents of general text that nothing is measured on.
    """

    config: RunConfig
    ranks: Mapping[str, int]
    examples: Callable[[], Batches]
    general_text: Callable[[], Batches]

    @property
    def targets(self) -> list[str]:
        """Paths of the modules."""
        return list(self.ranks)

    @property
    def scaling(self) -> float:
        """Alpha over the rank."""
        return self.config.adapter.alpha / self.config.adapter.rank


def backward_over(backbone: PreTrainedModel, batches: Batches) -> None:
    """A forward and a backward pass over each batch: of its mean loss over labels."""
    for batch in batches:
        labels = int((batch["labels"] != -100).sum())
        backbone(**batch, num_items_in_batch=labels, use_cache=False).loss.backward()


class AdapterMaker:
    """Makes the adapters of one kind, and knows what they need beside a gradient step: mostly nothing."""

    def make(self, backbone: PreTrainedModel, wanted: Adaptation) -> Any:
        """A PEFT model around `backbone`; torch's global generator is seeded with the run's seed.

        Args:
            backbone: frozen; a method with `moves_backbone` changes its weights.
            wanted: which modules, ranks and data.

        Raises:
            RuntimeError: it cannot be made from these data.
        """
        raise NotImplementedError

    def after_step(self, model: Any, step: int) -> None:
        """What follows the optimizer's step number `step` (from 1), while gradients are there."""

    def after_training(self, model: Any) -> None:
        """What is done to the adapter once its last step is taken, before it is scored."""

    def penalty(self, model: Any) -> Tensor | float:
        """What the adapter adds to the model's loss in every forward pass, nats per token."""
        return 0.0

    def extra_state(self, model: Any) -> dict[str, Any]:
        """What decides the next step beside trained parameters."""
        return {}

    def load_extra_state(self, model: Any, state: dict[str, Any]) -> None:
        """Restores `extra_state()`."""

    def prefix_scale(self, rank: int, whole: int) -> float:
        """What B A of the first `rank` of `whole` directions is multiplied by, where they are used alone."""
        return 1.0

    def effective_parameters(self, model: nn.Module, parameters: int) -> int:
        """How many of the trained `parameters` act."""
        return parameters
