"""One run without a study, from the command line: trained, killed and resumed, evaluated, exported."""

import json
import os
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest
import torch
from conftest import ROOT
from transformers import AutoModelForCausalLM

from grit.cli.main import main, parser, run_configuration
from grit.cli.run_file import read_run
from grit.cli.single_run import open_run
from grit.training.measurements import OBJECTIVES

SHORT = (
    "--budget-steps",
    "20",
    "--set",
    "eval_examples=12",
    "retention_documents=6",
    "dropout=0.1",
    "checkpoint_steps=4",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished GRIT run."""
    folder = tmp_path_factory.mktemp("single") / "run"
    assert main(["train", "--output", str(folder), "--tau", "0.9", "--T", "5", *SHORT]) == 0
    return folder


def test_a_run_leaves_what_a_trial_leaves(trained):
    record = read_run(trained)
    assert record.status == "completed"
    assert record.measured.steps == 20
    assert record.config.grit.rank_adaptation_threshold == 0.9
    assert all(getattr(record.measured, name) is not None for name in OBJECTIVES)
    assert len(record.measured.final_ranks) == len(record.measured.modules)
    assert {"git_commit", "versions"} <= set(record.provenance)
    assert pq.read_table(trained / "telemetry.parquet").num_rows == 20
    kinds = pq.read_table(trained / "predictions.parquet")["kind"].to_pylist()
    assert (kinds.count("task"), kinds.count("retention")) == (12, 6)


def test_evaluating_again_gives_the_same_predictions(trained, capsys):
    assert main(["eval", str(trained)]) == 0
    columns = ["example_id", "prediction", "score", "loss", "base_loss"]
    assert pq.read_table(trained / "eval-predictions.parquet", columns=columns) == pq.read_table(
        trained / "predictions.parquet", columns=columns
    )
    assert "retention" in capsys.readouterr().out
    assert main(["eval", str(trained), "--task", "instruction", "--set", "eval_examples=5"]) == 0
    assert json.loads((trained / "eval.json").read_text())["config"]["task"]["name"] == "instruction"
    assert (
        pq.read_table(trained / "eval-predictions.parquet")["example_id"][0].as_py().startswith("instruction")
    )


def test_exports_compute_what_was_trained(trained, tmp_path):
    """The adapter loads with PEFT, and the merged model alone has the recorded loss on the general text."""
    from grit.data.encode import Encoded
    from grit.evaluation.evaluator import Evaluator
    from grit.evaluation.scores import nats_per_token
    from grit.training.workbench import Workbench

    assert main(["export", str(trained), "--merged", "--to", str(tmp_path / "whole")]) == 0
    record = read_run(trained)
    config, bench = record.config, Workbench()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "whole", dtype=torch.float32).eval()
    evaluator = Evaluator(model, bench.tokenizer(config), config)
    loss = nats_per_token(evaluator.documents(bench.documents(config)))
    assert loss - record.measured.base_retention_loss == pytest.approx(record.measured.forgetting, abs=2e-4)
    assert evaluator.losses([Encoded(tokens=(1, 2, 3), first_label=1, truncated=False)])[0][1] == 2
    assert not [p for p in (tmp_path / "whole").rglob("*") if p.suffix in (".bin", ".pt", ".pkl")]
    assert main(["export", str(trained), "--to", str(tmp_path / "whole")]) == 2  # not empty


def test_a_killed_run_goes_on_where_it_was(tmp_path, trained):
    """SIGKILL in mid-run, then --resume: bit for bit what an uninterrupted run measured."""
    folder = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "grit",
        "train",
        "--output",
        str(folder),
        "--tau",
        "0.9",
        "--T",
        "5",
        *SHORT,
    ]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    deadline = time.time() + 120
    while not (folder / "state" / "run.pt").exists() and time.time() < deadline and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert read_run(folder).status == "planned"
    assert main(["eval", str(folder)]) == 2 and main(command[3:]) == 2  # not ended; and not without --resume
    assert main([*command[3:], "--resume"]) == 0
    resumed, whole = read_run(folder).measured, read_run(trained).measured
    assert resumed.resumed_from_step >= 4
    for name in ("quality", "retention", "answer_loss", "footprint", "final_ranks", "curve"):
        assert _untimed(getattr(resumed, name)) == _untimed(getattr(whole, name)), name
    assert pq.read_table(folder / "predictions.parquet") == pq.read_table(trained / "predictions.parquet")


def _untimed(value):
    """Without the clock's readings."""
    if not isinstance(value, list):
        return value
    return [
        {k: v for k, v in row.items() if k != "train_seconds"} if isinstance(row, dict) else row
        for row in value
    ]


def test_a_start_that_failed_leaves_room_for_another(tmp_path, monkeypatch):
    import grit.cli.single_run

    def fail(*_args, **_kwargs):
        raise RuntimeError("lost")

    folder = str(tmp_path / "run")
    with monkeypatch.context() as broken:
        broken.setattr(grit.cli.single_run, "train", fail)
        with pytest.raises(RuntimeError, match="lost"):
            main(["train", "--output", folder, *SHORT])
    assert main(["train", "--output", folder, "--method", "lora", *SHORT]) == 0
    assert read_run(tmp_path / "run").config.method == "lora"


def test_resuming_before_the_first_checkpoint_is_the_same_run_or_refused(tmp_path, capsys):
    """A bare --resume has other settings: it once trained those, in the interrupted run's folder."""
    config = run_configuration(parser().parse_args(["train", "--output", str(tmp_path / "run"), *SHORT]))
    begun = open_run(tmp_path / "run", config, resume=False)
    assert main(["train", "--resume", "--output", str(tmp_path / "run")]) == 2
    assert "holds another run" in capsys.readouterr().err
    assert open_run(tmp_path / "run", config, resume=True).run_id == begun.run_id


def test_a_whole_number_for_a_setting_that_need_not_be_one_resumes(tmp_path):
    """A file gives alpha = 32 back as 32.0: it is the same run."""
    command = ["train", "--output", str(tmp_path / "run"), *SHORT, "--set", "alpha=32"]
    config = run_configuration(parser().parse_args(command))
    (tmp_path / "run" / "state").mkdir(parents=True)
    begun = open_run(tmp_path / "run2", config, resume=False)
    begun.write(tmp_path / "run")
    (tmp_path / "run" / "state" / "run.pt").touch()
    assert open_run(tmp_path / "run", config, resume=True).run_id == begun.run_id


def test_export_and_evaluation_need_no_training_file(tmp_path):
    rows = [json.dumps({"q": f"what is {i}?", "a": f"it is {i}"}) for i in range(30)]
    data, held = tmp_path / "train.jsonl", tmp_path / "eval.jsonl"
    data.write_text("\n".join(rows))
    held.write_text("\n".join(rows[:5]))
    general = tmp_path / "general.txt"
    general.write_text("Some text.\n\nAnother text.")
    assert (
        main(
            [
                "train",
                "--output",
                str(tmp_path / "run"),
                "--task",
                "custom",
                "--template",
                "{q} => {a}",
                "--train-file",
                str(data),
                "--eval-file",
                str(held),
                "--retention-file",
                str(general),
                "--budget-steps",
                "4",
            ]
        )
        == 0
    )
    data.unlink()
    assert main(["eval", str(tmp_path / "run")]) == 0
    assert main(["export", str(tmp_path / "run")]) == 0
    assert main(["eval", str(tmp_path / "run"), "--task", "instruction", "--set", "eval_examples=2"]) == 0


def test_a_run_that_diverged_can_be_looked_at_again(tmp_path, capsys):
    command = ["train", "--output", str(tmp_path / "run"), *SHORT, "learning_rate=1e30", "max_grad_norm=1e30"]
    assert main(command) == 1
    assert main([*command, "--resume"]) == 1
    assert "diverged" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--task", "poetry"], "task = 'poetry'"),
        (["--task", "gsm8k"], "train-file = None"),
        (["--method", "lora", "--tau", "0.9"], "knob of GRIT"),
        (["--tau", "1.5"], r"tau \(rank_adaptation_threshold\) = 1.5"),
        (["--set", "colour=red"], "setting = 'colour'"),
        (["--resume"], "holds no run to resume"),
        (["--probes", "arc_challenge=/no/file"], "cannot be read"),
        (["--set", "temperature=-1"], "temperature = -1"),
        (["--set", "top_p=0"], "top_p = 0"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, capsys, arguments, said):
    assert main(["train", "--output", str(tmp_path / "run"), *arguments]) == 2
    errors = capsys.readouterr().err.strip()
    assert __import__("re").search(said, errors)
    assert "\n" not in errors
    assert not (tmp_path / "run").exists()


def test_a_run_may_not_change_what_was_trained(trained, capsys):
    assert main(["eval", str(trained), "--set", "rank=4"]) == 2
    assert "cannot be changed after training" in capsys.readouterr().err
    assert main(["train", "--output", str(trained), "--tau", "0.8", "--T", "5", *SHORT, "--resume"]) == 2
    refused = capsys.readouterr().err
    assert "holds another run (tau 0.9 there, 0.8 here); choose another folder" in refused


def test_options_become_the_configuration():
    given = [
        "train",
        "--output",
        "x",
        "--T",
        "none",
        "--lambda",
        "0.1",
        "--seed",
        "7",
        "--budget-seconds",
        "3",
    ]
    config = run_configuration(parser().parse_args(given))
    assert (config.grit.T, config.grit.lambda_, config.seed, config.budget.regime, config.budget.amount) == (
        None,
        0.1,
        7,
        "time",
        3,
    )


@pytest.mark.parametrize("rest", [(), ("--output", "there")])
def test_a_misspelt_option_comes_before_a_missing_one(rest, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["train", "--tuo", "0.9", *rest])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: unrecognized arguments: --tuo")
    with pytest.raises(SystemExit):
        main(["train", "--tua", "0.9"])
    assert "did you mean --tau?" in capsys.readouterr().err
