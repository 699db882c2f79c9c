"""Several examples in one sequence, none of which sees another.

Less padding, the same loss and the same gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from grit.data.encode import IGNORED_LABEL, Encoded
from grit.errors import ConfigError

Pack = tuple[Encoded, ...]


def pack(encoded: Sequence[Encoded], max_length: int) -> list[Pack]:
    """First-fit decreasing: the longest example first, each into the first pack that has room for it.

    Packs stand in the order of their first example in the data, which depends on neither seed nor hash.
    """
    order = sorted(range(len(encoded)), key=lambda i: (-len(encoded[i].tokens), i))
    packs: list[list[int]] = []
    room: list[int] = []
    for i in order:
        length = len(encoded[i].tokens)
        place = next((p for p, left in enumerate(room) if left >= length), None)
        if place is None:
            packs.append([])
            room.append(max_length)
            place = len(packs) - 1
        packs[place].append(i)
        room[place] -= length
    return [tuple(map(encoded.__getitem__, sorted(members))) for members in sorted(packs, key=min)]


def by_length(packs: Sequence[Pack], size: int) -> list[list[Pack]]:
    """Parts of at most `size`, each of similar length.

    They stand in the order of their first members in `packs`: where that is random, so is the length of the
    first part, which is all that a method sees that looks at one pass of a step.
    """
    order = sorted(range(len(packs)), key=lambda i: (-_tokens(packs[i]), i))
    parts = [sorted(order[start : start + size]) for start in range(0, len(order), size)]
    return [list(map(packs.__getitem__, part)) for part in sorted(parts)]


def _tokens(members: Pack) -> int:
    return sum(len(item.tokens) for item in members)


def collate_packs(packs: Sequence[Pack], pad_token: int) -> dict[str, Tensor]:
    """`input_ids`, `labels` and `position_ids`, each (batch, longest) int64.

    Positions start again at every example, from which transformers makes the mask that keeps examples apart
    (it does so where no attention
    mask and no cache is given: call the model with `use_cache=False`). What is left over is texts of one
    token at position 0, which GRIT
    counts as padding (grit/capture/label_positions.py).
    """
    length = max(map(_tokens, packs))
    batch = {
        "input_ids": torch.full((len(packs), length), pad_token),
        "labels": torch.full((len(packs), length), IGNORED_LABEL),
        "position_ids": torch.zeros(len(packs), length, dtype=torch.int64),
    }
    for row, members in enumerate(packs):
        start = 0
        for item in members:
            count, tokens = len(item.tokens), torch.tensor(item.tokens)
            batch["input_ids"][row, start : start + count] = tokens
            # Never a label on an example's first token: the one before it belongs to another.
            scored = max(1, item.first_label)
            batch["labels"][row, start + scored : start + count] = tokens[scored:]
            batch["position_ids"][row, start : start + count] = torch.arange(count)
            start += count
    return batch


@torch.inference_mode()
def check_separation(model: Any, members: Pack, pad_token: int, device: str) -> None:
    """Compares the last example's logits alone and in its pack.

    Not every model makes the mask that packing needs.

    Raises:
        ConfigError: they differ by more than rounding.
    """

    def logits(pack: Pack) -> Tensor:
        batch = {
            name: tensor.to(device)
            for name, tensor in collate_packs([pack], pad_token).items()
            if name != "labels"
        }
        last_logits: Tensor = model(**batch, use_cache=False).logits[0, -len(pack[-1].tokens) :].float()
        return last_logits

    alone, packed = logits(members[-1:]), logits(members)
    if float((alone - packed).abs().max()) > 0.05 * float(alone.std()):
        raise ConfigError(
            "packing",
            True,
            "cannot be used with this model: its examples would see each other; set packing=false",
        )
