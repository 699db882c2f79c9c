"""The paper's numbers that an ablation is laid beside."""

from __future__ import annotations

from typing import NamedTuple


class PublishedScore(NamedTuple):
    """Accuracy or ROUGE-L, and trained parameters in millions."""

    quality: float
    millions: float

    def shown(self) -> str:
        """Both in a cell."""
        return f"{self.quality:.4f}, {self.millions:.2f} M"


#: Table 11: (model, task) to the scores of QLoRA, Q-GRIT-uni and Q-GRIT.
TABLE_11: dict[tuple[str, str], dict[str, PublishedScore]] = {
    ("meta-llama/Llama-3.2-3B", "alpaca"): {
        "qlora": PublishedScore(0.0983, 24.31),
        "qgrit-uni": PublishedScore(0.1024, 8.68),
        "qgrit": PublishedScore(0.1127, 8.45),
    },
    ("meta-llama/Llama-3.2-3B", "dolly"): {
        "qlora": PublishedScore(0.0884, 24.31),
        "qgrit-uni": PublishedScore(0.0921, 16.99),
        "qgrit": PublishedScore(0.0968, 17.0),
    },
    ("meta-llama/Llama-3.2-3B", "gsm8k"): {
        "qlora": PublishedScore(0.3836, 24.31),
        "qgrit-uni": PublishedScore(0.3798, 17.86),
        "qgrit": PublishedScore(0.3779, 17.43),
    },
    ("meta-llama/Llama-3.1-8B", "alpaca"): {
        "qlora": PublishedScore(0.1047, 83.89),
        "qgrit-uni": PublishedScore(0.1059, 27.63),
        "qgrit": PublishedScore(0.1327, 30.85),
    },
    ("meta-llama/Llama-3.1-8B", "dolly"): {
        "qlora": PublishedScore(0.0950, 83.89),
        "qgrit-uni": PublishedScore(0.1427, 49.22),
        "qgrit": PublishedScore(0.1471, 38.14),
    },
    ("meta-llama/Llama-3.1-8B", "gsm8k"): {
        "qlora": PublishedScore(0.6315, 83.89),
        "qgrit-uni": PublishedScore(0.6202, 67.19),
        "qgrit": PublishedScore(0.6224, 67.57),
    },
}
#: Parity in quality: within 1 to 3% on median metrics.
PARITY = 0.03
#: Least share of parameters that is saved (30 to 68%, 46% on average).
LEAST_SAVED = 0.30
#: Most additional time a step (6 to 10%).
MOST_OVERHEAD = 0.10
