"""A kept adapter that answers prompts: for whoever has its folder, without the run that trained it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from grit.adapters.backbones import load_backbone, load_tokenizer
from grit.adapters.kept_adapter import read_kept_adapter
from grit.adapters.peft_adapters import reload_adapter
from grit.backbone import resolve
from grit.data.encode import prompt_tokens

#: Of an answer, where the run's evaluation does not say.
ANSWER_TOKENS = 64


class Answering:
    """The backbone of a kept adapter's run, with the adapter.

    Raises:
        ConfigError: the folder holds no whole adapter, or the backbone cannot be had here.
    """

    def __init__(self, folder: Path) -> None:
        self.config = read_kept_adapter(folder).config
        backbone = self.config.backbone
        device = "cuda" if torch.cuda.is_available() else "cpu"
        where, trusted = resolve(backbone.model), backbone.trust_remote_code
        model = load_backbone(
            where,
            quantized=self.config.quantized,
            dtype=backbone.dtype,
            device=device,
            revision=backbone.revision,
            trust_remote_code=trusted,
        )
        self._tokenizer = load_tokenizer(where, revision=backbone.revision, trust_remote_code=trusted)
        self._model, self._device = reload_adapter(model, folder), device

    @torch.inference_mode()
    def answers(self, prompts: Sequence[str]) -> list[str]:
        """One greedy answer per prompt, without the prompt; as long as the run's evaluation let them be."""
        answers, longest = [], self.config.evaluation.max_new_tokens or ANSWER_TOKENS
        for prompt in prompts:
            tokens = torch.tensor([prompt_tokens(self._tokenizer, prompt)], device=self._device)
            out = self._model.generate(
                input_ids=tokens,
                attention_mask=torch.ones_like(tokens),
                max_new_tokens=longest,
                do_sample=False,
                pad_token_id=self._tokenizer.pad_token_id,
                eos_token_id=self._tokenizer.eos_token_id,
            )
            text = self._tokenizer.decode(out[0, tokens.shape[1] :], skip_special_tokens=True)
            answers.append(str(text))
        return answers
