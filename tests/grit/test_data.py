import pytest

from grit.data.encode import TrainingOrder, collate, encode
from grit.errors import ConfigError


def test_only_the_answer_and_the_end_carry_labels(bench, short_run):
    tokenizer = bench.tokenizer(short_run())
    item = encode(tokenizer, "Problem: x", " 7", 64)
    batch = collate(
        [item, encode(tokenizer, "Problem: a much longer one than that", " 7", 64)], tokenizer.pad_token_id
    )
    kept = [t for t in batch["labels"][0].tolist() if t != -100]
    assert tokenizer.decode(kept) == " 7<eos>"
    assert batch["attention_mask"][0].tolist() == [1] * len(item.tokens) + [0] * (
        batch["input_ids"].shape[1] - len(item.tokens)
    )


def test_the_whole_text_carries_loss_where_that_is_asked_for(bench, short_run):
    tokenizer = bench.tokenizer(short_run())
    item = encode(tokenizer, "Problem: x", " 7", 64, loss_on="text")
    labels = collate([item], tokenizer.pad_token_id)["labels"][0].tolist()
    assert labels == [-100, *item.tokens[1:]]
    assert item.tokens == encode(tokenizer, "Problem: x", " 7", 64).tokens


@pytest.mark.parametrize("length", [8, 12, 20])
def test_too_long_loses_the_start_of_the_prompt(bench, short_run, length):
    tokenizer = bench.tokenizer(short_run())
    item = encode(tokenizer, "one two three four five six seven eight", " 7", length)
    assert len(item.tokens) == length
    assert item.truncated
    assert tokenizer.decode(item.tokens).endswith("eight 7<eos>"[-6:])
    whole = encode(tokenizer, "one", " 7", 64)
    assert not whole.truncated


def test_an_answer_that_fills_the_length_keeps_one_token_of_prompt(bench, short_run):
    tokenizer = bench.tokenizer(short_run())
    item = encode(tokenizer, "one two", " three four five six seven eight nine ten", 8)
    assert (len(item.tokens), item.first_label, item.truncated) == (8, 1, True)


def test_order_is_a_permutation_per_epoch_and_needs_no_history():
    order = TrainingOrder(10, seed=3)
    seen = [i for step in range(5) for i in order.step(step, 4)]
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]
    assert TrainingOrder(10, seed=3).step(3, 4) == seen[12:16]
    assert TrainingOrder(10, seed=4).step(0, 4) != seen[:4]


def test_no_examples_is_an_error():
    with pytest.raises(ConfigError, match="train split"):
        TrainingOrder(0, seed=1)
