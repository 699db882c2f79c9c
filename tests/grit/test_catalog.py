"""The paper's tasks and the user's own.

Templates, normalization, files of every kind, what is held out, what is refused.
"""

import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT

from grit.config.sections import TaskSource
from grit.errors import ConfigError
from grit.tasks.base import Example
from grit.tasks.catalog import DECLARATIONS
from grit.tasks.loading import hold_out, load_documents, load_task
from grit.tasks.metrics import METRICS
from grit.tasks.scoring import marked_number_match
from grit.tasks.text import normalize

ROWS = {
    "alpaca": [
        {
            "instruction": f"Name  a\x00 colour {i}.",
            "input": "" if i % 2 else "warm",
            "output": "Red.\n\n\nOr orange.",
        }
        for i in range(30)
    ],
    "dolly": [
        {"instruction": f"Who {i}?", "context": "A text.", "response": "Me.", "category": "x"}
        for i in range(30)
    ],
    "boolq": [{"question": f"is it {i}", "answer": i % 2 == 0, "passage": "A passage."} for i in range(30)],
    "qnli": [{"question": f"Q{i}?", "sentence": "S.", "label": i % 2, "idx": i} for i in range(30)],
    "gsm8k": [
        {"question": f"{i}+1?", "answer": f"It is <<{i}+1={i + 1}>>{i + 1}.\n#### {i + 1}"} for i in range(30)
    ],
}


def _write(path, rows):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        import csv

        with path.open("w", newline="", encoding="utf8") as handle:
            writer = csv.DictWriter(handle, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")
    return str(path)


METAMATH = [
    {"query": f"What is {i} + 1?", "response": f"It is {i + 1}. The answer is: {i + 1}", "type": "GSM_SV"}
    for i in range(30)
]


#: Those that read one kind of row: MetaMathQA is evaluated on GSM8K's.
ONE_DATASET = [name for name, kind in DECLARATIONS.items() if kind.evaluation_hub is None]


@pytest.mark.parametrize("name", ONE_DATASET)
def test_a_task_is_the_same_from_every_kind_of_file(tmp_path, name):
    tasks = [
        load_task(
            TaskSource(
                name=name,
                train_file=_write(tmp_path / f"train{kind}", ROWS[name]),
                eval_file=_write(tmp_path / f"eval{kind}", ROWS[name][:5]),
            )
        )
        for kind in (".jsonl", ".csv", ".parquet")
    ]
    first = tasks[0]
    for task in tasks[1:]:
        assert [(e.prompt, e.answer) for e in task.train] == [(e.prompt, e.answer) for e in first.train]
    assert all(first.score(e.answer, e) == 1 for e in first.evaluation)
    assert first.also == DECLARATIONS[name].metrics[1:]
    assert {first.metric, *first.also} <= set(METRICS)
    assert all(e.prompt == e.prompt.strip() and e.answer[0] in " \n" for e in first.train)


def test_metamathqa_trains_on_one_dataset_and_is_scored_on_another(tmp_path):
    long = {"query": "q" * 700, "response": "r" * 700, "type": "GSM_Rephrased"}
    train = [*METAMATH, long]
    task = load_task(
        TaskSource(
            name="metamathqa",
            train_file=_write(tmp_path / "train.jsonl", train),
            eval_file=_write(tmp_path / "eval.jsonl", ROWS["gsm8k"][:5]),
        )
    )
    assert (len(task.train), task.left_out) == (len(METAMATH), 1)
    first = task.train[0]
    assert first.prompt == "Question: What is 0 + 1? Think step by step.\nAnswer:"
    assert first.answer == METAMATH[0]["response"]  # no space before it, as in PEFT's run
    assert task.evaluation[0].prompt == "Question: 0+1? Think step by step.\nAnswer:"
    assert [task.score(f"So it is that. The answer is: {i + 1}", task.evaluation[i]) for i in range(5)] == [
        1
    ] * 5
    assert task.score("The answer is: 7", task.evaluation[0]) == 0
    assert task.score("no answer", task.evaluation[0]) == 0


@pytest.mark.parametrize(
    "prediction, answer, right",
    [
        ("... The answer is: 16.", "#### 16", 1),
        ("The answer is 50%", "#### 50", 1),
        ("The answer is: 20/35", "#### 0.5714285714285714", 1),
        ("The final answer is: $12\nMore text", "#### 12", 1),
        ("#### 3\nThe answer is: 4", "#### 4", 1),
        ("The answer is: 1/0", "#### 1", 0),
        ("The answer is: x", "The answer is: x", 1),
        ("The answer is: ", "#### 1", 0),
    ],
)
def test_marked_answers_are_compared_as_peft_compares_them(prediction, answer, right):
    assert marked_number_match(prediction, Example(example_id="", prompt="", answer=answer)) == right


def test_templates_are_as_documented(tmp_path):
    def first(name):
        return load_task(
            TaskSource(name=name, train_file=_write(tmp_path / f"{name}.jsonl", ROWS[name]))
        ).train[0]

    alpaca = load_task(
        TaskSource(name="alpaca", train_file=_write(tmp_path / "a.jsonl", ROWS["alpaca"]))
    ).train
    assert any("### Input:\nwarm\n" in e.prompt for e in alpaca) and any(
        "### Input" not in e.prompt for e in alpaca
    )
    assert all(
        e.prompt.endswith("### Response:") and e.answer == "\nRed.\nOr orange." and "\x00" not in e.prompt
        for e in alpaca
    )
    assert first("boolq").prompt.startswith("Passage: A passage.\nQuestion: is it ")
    assert first("boolq").labels == (" yes", " no")
    assert re.fullmatch(
        r"Sentence: S\.\nQuestion: Q\d+\?\nDoes the sentence answer the question\?", first("qnli").prompt
    )
    assert first("gsm8k").answer.startswith(" It is")


@pytest.mark.parametrize(
    "raw, clean",
    [
        ("a  b\t\tc", "a b c"),
        (" a \r\n \r\n b ", "a\nb"),
        ("a\x07b\x1b[0m", "ab[0m"),
        ("a\u00a0b\u2003c", "a b c"),
        ("日本\u3000語", "日本 語"),
        ("", ""),
        ("x\ud800y", "x���y"),
        ("one\ntwo", "one\ntwo"),
    ],
)
def test_text_is_normalized(raw, clean):
    assert normalize(raw) == clean
    assert normalize(clean) == clean


def test_held_out_examples_depend_on_their_text_alone(tmp_path):
    task = load_task(TaskSource(name="dolly", train_file=_write(tmp_path / "a.jsonl", ROWS["dolly"])))
    turned = load_task(TaskSource(name="dolly", train_file=_write(tmp_path / "b.jsonl", ROWS["dolly"][::-1])))
    assert {e.prompt for e in task.evaluation} == {e.prompt for e in turned.evaluation}
    assert len(task.evaluation) == 3
    assert not {e.prompt for e in task.train} & {e.prompt for e in task.evaluation}
    assert len(task.train) == 27
    with pytest.raises(ConfigError, match="eval-file.*none can be held out"):
        hold_out(task.train[:5])


def test_custom_tasks_follow_their_template(tmp_path):
    rows = [{"q": f"what is {i}", "a": str(i), "kind": "odd" if i % 2 else "even"} for i in range(20)]
    data = _write(tmp_path / "rows.csv", rows)
    inline = load_task(
        TaskSource(name="custom", train_file=data, eval_file=data, template="Q: {q}\\nA: => {a}")
    )
    assert (inline.train[3].prompt, inline.train[3].answer, inline.metric, inline.decoding) == (
        "Q: what is 3\nA:",
        " 3",
        "exact_match",
        "generate",
    )
    path = tmp_path / "template.json"
    path.write_text(
        json.dumps(
            {
                "prompt": "{q}?",
                "answer": " {kind}",
                "labels": [" odd", " even"],
                "metrics": ["accuracy", "f1"],
            }
        )
    )
    labelled = load_task(TaskSource(name="custom", train_file=data, eval_file=data, template=str(path)))
    assert labelled.decoding == "choose"
    assert labelled.train[1].labels == (" odd", " even")
    assert labelled.also == ("f1",)
    assert inline.content_hash() != labelled.content_hash()


@pytest.mark.parametrize(
    "template, said",
    [
        (None, "template = None: must be given"),
        ("no arrow {q}", "prompt => answer"),
        ("nothing => here", "must name fields"),
        ("{q => {a}", "malformed"),
        ("{q} => {nope}", "lacks the field 'nope'"),
        ("/no/such.json", "cannot be read"),
        ("{q[0]} => {a}", "must name fields"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused(tmp_path, template, said):
    data = _write(tmp_path / "rows.jsonl", [{"q": "x", "a": "y"}] * 3)
    with pytest.raises(ConfigError, match=said):
        load_task(TaskSource(name="custom", train_file=data, eval_file=data, template=template))
    with pytest.raises(ConfigError, match="is for task custom"):
        load_task(TaskSource(name="gsm8k", template="{q} => {a}"))


@pytest.mark.parametrize(
    "values, said",
    [
        ({"prompt": "{q}"}, '"prompt" and "answer"'),
        ({"prompt": "{q}", "answer": "{a}", "colour": 1}, "unknown key 'colour'"),
        ({"prompt": "{q}", "answer": "{a}", "metrics": ["f1"]}, "cannot be the first metric"),
        ({"prompt": "{q}", "answer": "{a}", "metrics": ["meteor"]}, "must be among"),
        ({"prompt": "{q}", "answer": "{a}", "labels": ["z"]}, "none of the labels"),
        ({"prompt": "{q}", "answer": "{a}", "labels": "ab"}, "lists of texts"),
        ({"prompt": "{q}", "answer": "{a}", "metrics": ["rougeL", ["x"]]}, "lists of texts"),
        ({"prompt": "{q}", "answer": "{a}", "max_new_tokens": 0}, "whole number of at least 1"),
    ],
)
def test_a_template_file_that_cannot_be_used_is_refused(tmp_path, values, said):
    data = _write(tmp_path / "rows.jsonl", [{"q": "x", "a": "y"}] * 3)
    path = tmp_path / "t.json"
    path.write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=said):
        load_task(TaskSource(name="custom", train_file=data, eval_file=data, template=str(path)))


@pytest.mark.parametrize(
    "name, row, said",
    [
        ("qnli", {"question": "a", "sentence": "b", "label": -1}, "neither 0"),
        ("gsm8k", {"question": "a", "answer": "twelve"}, "no final number"),
        ("boolq", {"question": "a", "answer": "perhaps"}, "neither true nor false"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(tmp_path, name, row, said):
    data = _write(tmp_path / "rows.jsonl", [*ROWS[name][:2], row])
    with pytest.raises(ConfigError, match=f"line 3.*{said}"):
        load_task(TaskSource(name=name, train_file=data, eval_file=data))


def test_rows_without_an_answer_are_left_out_and_counted(tmp_path):
    rows = [
        *ROWS["alpaca"],
        {"instruction": "a", "input": "", "output": " \x00 "},
        {"instruction": "b", "input": "", "output": ""},
    ]
    task = load_task(
        TaskSource(
            name="alpaca",
            train_file=_write(tmp_path / "a.jsonl", rows),
            eval_file=_write(tmp_path / "b.jsonl", rows[:4]),
        )
    )
    assert len(task.train) == 30
    assert task.left_out == 2


def test_an_empty_prompt_is_refused_and_a_byte_order_mark_is_not(tmp_path):
    data = tmp_path / "rows.csv"
    data.write_text("q,a\nwhat,this\nwho,that\n", encoding="utf-8-sig")
    source = TaskSource(name="custom", train_file=str(data), eval_file=str(data), template="{q} => {a}")
    assert load_task(source).train[0].prompt == "what"
    lines = tmp_path / "rows.jsonl"
    lines.write_text('{"q": "what", "a": "this"}\n', encoding="utf-8-sig")
    marked = TaskSource(name="custom", train_file=str(lines), eval_file=str(lines), template="{q} => {a}")
    assert load_task(marked).train[0].answer == " this"
    with pytest.raises(ConfigError, match="line 2: the prompt is empty"):
        load_task(TaskSource(name="custom", train_file=str(data), eval_file=str(data), template="=> {a}"))


def test_questions_have_one_question_mark(tmp_path):
    rows = [{"question": "is it so?", "answer": True}, {"question": "is it so", "answer": True}]
    task = load_task(
        TaskSource(
            name="boolq",
            train_file=_write(tmp_path / "a.jsonl", rows),
            eval_file=_write(tmp_path / "a.jsonl", rows),
        )
    )
    assert {e.prompt for e in task.train} == {"Question: is it so?\nAnswer:"}


def test_evaluation_alone_needs_no_training_examples(tmp_path):
    path = _write(tmp_path / "eval.jsonl", ROWS["gsm8k"][:3])
    task = load_task(TaskSource(name="gsm8k", eval_file=path), training=False)
    assert len(task.evaluation) == 3
    assert not task.train


@pytest.mark.parametrize(
    "suffix, content, said",
    [
        (".csv", "a,b\n1,2,3\n", "more fields"),
        (".csv", "", "empty"),
        (".parquet", "not parquet", "cannot be read"),
        (".csv", "question\nq\n", "lacks the field"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(tmp_path, suffix, content, said):
    path = tmp_path / f"x{suffix}"
    path.write_text(content)
    with pytest.raises(ConfigError, match=said):
        load_task(TaskSource(name="gsm8k", train_file=str(path), eval_file=str(path)))


@pytest.mark.parametrize("name", DECLARATIONS)
def test_without_a_network_the_file_to_give_is_named(name, monkeypatch, tmp_path):
    """The real library, with nothing in its cache and no way to the hub."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    with pytest.raises(
        ConfigError,
        match=f"train-file = None: {DECLARATIONS[name].hub.repository} is neither cached here nor within "
        "reach",
    ):
        load_task(TaskSource(name=name))


def test_every_hub_source_is_pinned_and_has_a_card():
    cards = (ROOT / "DATA_CARDS.md").read_text(encoding="utf8")
    for declaration in DECLARATIONS.values():
        assert re.fullmatch("[0-9a-f]{40}", declaration.hub.revision)
        assert declaration.hub.repository in cards
        assert declaration.hub.revision in cards


def test_documents_come_from_every_kind_of_file(tmp_path):
    rows = [{"text": "one"}, {"text": "two"}]
    for kind in (".jsonl", ".csv", ".parquet"):
        path = _write(tmp_path / f"general{kind}", rows)
        assert load_documents(TaskSource(name="gsm8k", retention_file=path)) == ["one", "two"]
