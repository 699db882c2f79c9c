"""Generated answers.

The same however they are batched, drawn from the right distribution, read as labels by a stated rule.
"""

import pytest
import torch
import transformers

from grit.evaluation.evaluator import Evaluator, named_label
from grit.evaluation.generation import OwnNoise, Sampling, generate


@pytest.fixture(scope="module")
def prompts(bench):
    from grit.tasks import embedded

    examples = embedded.load("instruction").evaluation[:20] + embedded.load("arithmetic").evaluation[:20]
    return examples


@pytest.mark.parametrize(
    "sampling",
    [Sampling(max_new_tokens=12), Sampling(max_new_tokens=12, temperature=0.7, top_p=0.95, seed=3)],
)
def test_outputs_do_not_depend_on_the_batch_size(bench, short_run, prompts, sampling):
    config = short_run()
    model, tokenizer = bench.adapted(config), bench.tokenizer(config)
    try:
        tokens = [tokenizer(e.prompt)["input_ids"] for e in prompts]
        names = [e.example_id for e in prompts]
        whole, told = None, []
        for size in (1, 7, 40):
            made = generate(
                model.eval(), tokenizer, tokens, names, sampling, batch_size=size, bar=told.append
            )
            whole = made if whole is None else whole
            assert made == whole
        assert sum(told) == 3 * len(prompts)
        assert len(set(whole)) > 5
    finally:
        bench.release(model)


@pytest.mark.parametrize("kind", ["Llama", "Lfm2", "Gemma2"])
def test_rows_that_end_leave_attention_convolutions_and_windows_alike(bench, short_run, kind):
    """What a model remembers of a row goes with it, whatever its layers are."""
    torch.manual_seed(0)
    tokenizer = bench.tokenizer(short_run())
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4}
    config = getattr(transformers, f"{kind}Config")(
        **sizes, num_key_value_heads=2, vocab_size=len(tokenizer), initializer_range=0.5
    )
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    generator = torch.Generator().manual_seed(2)
    lengths = (3, 4, 5, 6, 8, 9)
    prompts = [torch.randint(4, len(tokenizer), (n,), generator=generator).tolist() for n in lengths]
    sampling = Sampling(max_new_tokens=70, temperature=1.0, seed=1)
    names = [str(n) for n in lengths]
    together = generate(model, tokenizer, prompts, names, sampling, batch_size=6)
    alone = generate(model, tokenizer, prompts, names, sampling, batch_size=1)
    assert together == alone
    assert len({len(text) for text in together}) > 3


def test_sampling_repeats_with_its_seed_and_only_with_it(bench, short_run, prompts):
    config = short_run()
    model, tokenizer = bench.adapted(config), bench.tokenizer(config)
    try:
        tokens, names = (
            [tokenizer(e.prompt)["input_ids"] for e in prompts[:8]],
            [e.example_id for e in prompts[:8]],
        )
        made = [
            generate(
                model.eval(),
                tokenizer,
                tokens,
                names,
                Sampling(max_new_tokens=8, temperature=1.0, seed=seed),
                batch_size=8,
            )
            for seed in (1, 1, 2)
        ]
        assert made[0] == made[1] != made[2]
    finally:
        bench.release(model)


def test_the_checkpoints_own_generation_settings_do_not_act(bench, short_run, prompts):
    from transformers import GenerationConfig

    config = short_run()
    model, tokenizer = bench.adapted(config), bench.tokenizer(config)
    inner = model.get_base_model()
    before = inner.generation_config
    try:
        tokens, names = (
            [tokenizer(e.prompt)["input_ids"] for e in prompts[:8]],
            [e.example_id for e in prompts[:8]],
        )
        plain = generate(model.eval(), tokenizer, tokens, names, Sampling(max_new_tokens=12), batch_size=8)
        poisoned = GenerationConfig(repetition_penalty=5.0, no_repeat_ngram_size=1, min_new_tokens=9)
        inner.generation_config = poisoned
        assert generate(model, tokenizer, tokens, names, Sampling(max_new_tokens=12), batch_size=8) == plain
        assert inner.generation_config is poisoned
    finally:
        inner.generation_config = before
        bench.release(model)


def test_noise_draws_from_the_softmax():
    """Chi-squared over 4,000 draws of a known distribution, its 99.9% point at 3 degrees of freedom."""
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    count = 4000
    scores = probabilities.log().expand(count, -1)
    drawn = OwnNoise([str(i) for i in range(count)], seed=5)(torch.empty(0), scores).argmax(-1)
    expected = count * probabilities
    assert float(((torch.bincount(drawn, minlength=4) - expected) ** 2 / expected).sum()) < 16.27


@pytest.mark.parametrize(
    "text, label",
    [
        (" yes", " yes"),
        ("Yes, it is", " yes"),
        ("no.", " no"),
        ("nobody", ""),
        ("maybe", ""),
        ("", ""),
        (" not_entailment", " not_entailment"),
    ],
)
def test_a_label_is_what_the_text_begins_with(text, label):
    assert named_label(text, (" yes", " no", " not", " not_entailment")) == label


def test_classification_by_likelihood_and_by_generation(bench, short_run):
    """Likelihood always names a label.

    Generation may name none, and where it names one both follow the same model.
    """
    from grit.config.sections import TaskSource

    config = short_run(task=TaskSource(name="reading"))
    task = bench.task(config)
    model = bench.adapted(config)
    try:
        tokenizer, examples = bench.tokenizer(config), task.evaluation[:12]
        chosen = Evaluator(model.eval(), tokenizer, config).task(task, examples, predict=True)
        written = Evaluator(model, tokenizer, config.changed(label_scoring="generate")).task(
            task, examples, predict=True
        )
        assert {p.prediction for p in chosen} <= {" yes", " no"}
        assert {p.prediction for p in written} <= {" yes", " no", ""}
        assert [p.answer_loss for p in chosen] == [p.answer_loss for p in written]
    finally:
        bench.release(model)
