"""Whether the adapter's weights are still those that the handle left."""

from __future__ import annotations

from collections.abc import Sequence

from grit.adapters.peft_adapters import AdaptedLayer


class HeldWeights:
    """Notices replaced parameters, and weights that somebody else has written.

    Torch counts in-place changes of a tensor; loading a state counts as one, moving a model does not.
    """

    def __init__(self, layers: Sequence[AdaptedLayer]) -> None:
        self._layers = layers
        self._parameters = [(layer.down.weight, layer.up.weight) for layer in layers]
        self.note()

    def note(self) -> None:
        """The weights as they are now are the handle's own."""
        self._versions = [down._version + up._version for down, up in self._parameters]

    def check_same(self) -> None:
        """Refuses to go on with parameters that are no longer the model's.

        Raises:
            RuntimeError: a module has another parameter than when GRIT was attached.
        """
        for layer, (down, up) in zip(self._layers, self._parameters, strict=True):
            if layer.down.weight is not down or layer.up.weight is not up:
                raise RuntimeError(
                    f"layer {layer.name} has other parameters than when GRIT was attached (FSDP, or a state "
                    "loaded with assign=True): attach after that, to an optimizer of the new ones"
                )

    @property
    def written(self) -> bool:
        """Whether weights were changed in place since `note`."""
        return [down._version + up._version for down, up in self._parameters] != self._versions
