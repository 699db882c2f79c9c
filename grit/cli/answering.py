"""A kept adapter that answers prompts: for whoever has its folder, without the run that trained it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from grit.adapters.kept_adapter import read_kept_adapter
from grit.adapters.peft_adapters import reload_adapter
from grit.data.encode import prompt_tokens
from grit.evaluation.generation import Sampling, generate
from grit.training.workbench import Workbench

#: Of an answer, where the run's evaluation does not say.
ANSWER_TOKENS = 64


class Answering:
    """The backbone of a kept adapter's run, with the adapter.

    Raises:
        ConfigError: the folder holds no whole adapter, or the backbone cannot be had here.
    """

    def __init__(self, folder: Path) -> None:
        self._config, bench = read_kept_adapter(folder).config, Workbench(training=False)
        self._tokenizer = bench.tokenizer(self._config)
        self._model = reload_adapter(bench.backbone(self._config), folder)

    def answers(self, prompts: Sequence[str], *, tuned: bool = True) -> list[str]:
        """One greedy answer per prompt, without the prompt; as long as the run's evaluation let them be.

        Without `tuned` they are the backbone's own.
        """
        evaluation = self._config.evaluation
        with nullcontext() if tuned else self._model.disable_adapter():
            return generate(
                self._model,
                self._tokenizer,
                [prompt_tokens(self._tokenizer, prompt) for prompt in prompts],
                prompts,
                Sampling(max_new_tokens=evaluation.max_new_tokens or ANSWER_TOKENS),
                batch_size=evaluation.eval_batch,
            )
