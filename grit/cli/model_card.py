"""The model card of an adapter: what it is, its knobs, its data, its numbers, and what they do not show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from grit.adapters.kept_adapter import CARD_FILE, KeptAdapter
from grit.config.declared_knobs import KNOBS
from grit.config.run_config import RunConfig
from grit.io.files import write_atomically
from grit.runtime.energy import GRAMS_PER_KWH
from grit.training.measurements import Measurements


@dataclass(frozen=True, kw_only=True)
class CardNumber:
    """A measured number: its value, the untuned model's, and the mean over seeds with its 95% interval."""

    label: str
    value: str
    untuned: str = "-"
    over_seeds: str = "-"


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a card says beside what the adapter's own files say.

    Attributes:
        kept_as: why this adapter was kept, in words; empty where nobody chose.
        numbers: what was measured.
        geometry: sentences on ranks and updates.
        energy: what training took, in a sentence.
        limits: what the numbers do not show, in sentences.
        provenance: versions, commit, study, by name.
    """

    kept_as: str
    numbers: Sequence[CardNumber]
    geometry: Sequence[str]
    energy: str
    limits: Sequence[str]
    provenance: Mapping[str, str]


def energy_in_words(measured: Measurements) -> str:
    """The energy of a run's training and evaluation, in a sentence."""
    if measured.kwh is None:
        return "Not measured."
    grams = measured.kwh * GRAMS_PER_KWH
    return (
        f"{measured.kwh:.2g} kWh for training and evaluation ({measured.energy_source}), {grams:.2g} g CO2e "
        f"at {GRAMS_PER_KWH:.0f} g/kWh."
    )


def ranks_in_words(measured: Measurements) -> str:
    """The ranks that were kept, in a sentence."""
    ranks = measured.final_ranks
    if not ranks:
        return "Every module has the full rank."
    mean = sum(ranks) / len(ranks)
    return f"{len(ranks)} modules keep {min(ranks)} to {max(ranks)} directions, {mean:.1f} on average."


def write_card(folder: Path, kept: KeptAdapter, card: Card) -> None:
    """`README.md` in the adapter's folder, as model hubs read it."""
    write_atomically(folder / CARD_FILE, card_text(kept, card))


def card_text(kept: KeptAdapter, card: Card) -> str:
    """Markdown under the metadata that hubs index."""
    config = kept.config
    parts = [
        _metadata(config),
        f"# {config.spec.title} adapter for {config.task_title} on {config.backbone.model}",
        _what(kept, card),
        "## Knobs\n\n" + _table(("setting", "value"), [*_knobs(config).items()]),
        "## Data\n\n" + _data(kept),
        "## Numbers\n\n"
        + _table(
            ("", "this adapter", "untuned model", "mean over seeds [95%]"),
            [(each.label, each.value, each.untuned, each.over_seeds) for each in card.numbers],
        ),
        "## Geometry\n\n" + "\n".join(card.geometry),
        "## Energy\n\n" + card.energy,
        "## Limits\n\n" + "\n".join(f"- {sentence}" for sentence in card.limits),
        "## Provenance\n\n" + _table(("", ""), [*card.provenance.items()]),
    ]
    return "\n\n".join(parts) + "\n"


def _metadata(config: RunConfig) -> str:
    """The base model is named only where it is no folder of this machine."""
    model = config.backbone.model
    named = [] if Path(model).exists() or model == "embedded" else [f"base_model: {model}"]
    return "\n".join(["---", *named, "library_name: peft", "tags:", "- lora", f"- {config.method}", "---"])


def _what(kept: KeptAdapter, card: Card) -> str:
    reloaded = kept.reloaded
    role = f" It was kept as: {card.kept_as}." if card.kept_as else ""
    return (
        f"A plain PEFT adapter of {kept.parameters:,} parameters ({kept.bytes:,} bytes), truncated to the "
        f"ranks that were scored.{role} Reloaded by PEFT alone its logits differ by at most "
        f"{reloaded.difference:.2g} from those of the model that was scored ({reloaded.tokens} tokens)."
    )


def _knobs(config: RunConfig) -> dict[str, str]:
    optimization = config.optimization
    knobs = {name: knob.shown(config.setting(name)) for name, knob in KNOBS.items()}
    return {
        **(knobs if config.uses_grit else {}),
        "method": config.method,
        "rank as set": str(config.adapter.rank),
        "alpha": f"{config.adapter.alpha:g}",
        "dropout": f"{config.adapter.dropout:g}",
        "learning rate": f"{optimization.learning_rate:g}",
        "budget": f"{config.budget.amount:g} {'steps' if config.budget.regime == 'step' else 'seconds'}",
        "examples per step": str(optimization.micro_batch * optimization.accumulation),
        "seed": str(config.seed),
    }


def _data(kept: KeptAdapter) -> str:
    hashes = ", ".join(f"{name} `{value}`" for name, value in kept.content.items())
    return f"Trained on `{kept.config.task_title}`; what its names stood for, by hash: {hashes}."


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(_line(cells) for cells in (header, ["---"] * len(header), *rows))


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
