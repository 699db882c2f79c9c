"""Bad input gets one clear line and exit code 2 before anything is launched; a dry run launches nothing."""

import importlib
import re
import subprocess
import sys

import pytest

from grit.config.overrides import parse_setting
from grit.config.run_config import RUN_SECTIONS
from grit.config.settings import declared
from ray_jobs.design.study_spec import read_spec
from sweeps.common.request import resolve
from sweeps.tau_T_lambda import SCRIPT


def _main(*argv):
    """Runs the script's own main in this process: fast, and Ray must not be touched."""
    return SCRIPT.main(argv)


def _request(*argv):
    """What a command line asks for."""
    return resolve(SCRIPT.read(argv)[0], SCRIPT.presets, SCRIPT.regimes)


@pytest.fixture
def rows(tmp_path):
    good = tmp_path / "good.jsonl"
    good.write_text('{"question": "q", "answer": "#### 1"}\n')
    general = tmp_path / "general.txt"
    general.write_text("some text")
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"question": "q", "answer": "#### 1"}\n{"question"\n')
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    (tmp_path / "nomodel").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    return tmp_path


CASES = [
    (["--tau", "1.2"], "tau .*= 1.2"),
    (["--tau", "0"], "tau .*= 0"),
    (["--T", "0"], "T .*= 0"),
    (["--T", "often"], "T .*= 'often'"),
    (["--lambda", "0"], "lambda .*= 0"),
    (["--lambda", "-1"], "lambda"),
    (["--lambda", "nan"], "lambda .*nan"),
    (["--set", "Tau=0.5"], "setting = 'Tau'"),
    (["--set", "preconditioner=adam"], "preconditioner = 'adam'"),
    (["--set", "rank"], "field=value"),
    (["--set", 'targets=["q_proj"]', "rank=0"], "rank = 0"),
    (["--task", "poetry"], "task = 'poetry'"),
    (["--task", "gsm8k"], "train-file = None"),
    (
        ["--task", "gsm8k", "--train-file", "{}/none.jsonl", "--eval-file", "{}/good.jsonl"],
        "train-file = .*cannot be read",
    ),
    (
        ["--task", "gsm8k", "--train-file", "{}/good.jsonl", "--eval-file", "{}/bad.jsonl"],
        "eval-file = .*line 2 is not JSON",
    ),
    (
        ["--task", "gsm8k", "--train-file", "{}/empty.jsonl", "--eval-file", "{}/good.jsonl"],
        "train-file = .*is empty",
    ),
    (
        ["--task", "gsm8k", "--train-file", "{}/good.jsonl", "--eval-file", "{}/good.jsonl"],
        "retention-file = None",
    ),
    (["--model", "{}/nomodel"], "model = .*no config.json"),
    (["--model", "./nowhere"], "model = './nowhere'"),
    (["--budget-steps", "0"], "budget-steps = 0"),
    (["--budget-seconds", "-1"], "budget-seconds = -1"),
    (["--budget-seconds", "0.001"], "budget-seconds = 0.001: is far less than a step"),
    (["--seeds", "-3"], "seeds = -3"),
    (["--max-concurrent", "0"], "max-concurrent = 0"),
    (["--max-concurrent", "999"], "max-concurrent = 999.*core"),
    (["--resume"], "resume = True.*needs --output"),
    (["--output", "{}/full"], "output = .*is not empty"),
    (["--address", "127.0.0.1:1", "--output", "{}/new"], "address = '127.0.0.1:1'.*no Ray answers"),
    (["--address", "127.0.0.1:1"], "output = None.*every node"),
    (["--set", "threads=2"], "threads = 2.*at most the 1 core"),
    (["--resume", "--output", "{}/new"], "no study to resume"),
    (["--output", "{}/general.txt"], "is a file"),
    (["--tracking-uri", "ftp://x"], "tracking-uri = .ftp://x.: must begin with one of http"),
    (["--preset", "llama-3.2-3b"], "preset = .*needs 1 GPU"),
    (["--space", "rank=9:4"], "space = 'rank=9:4'.*low < high"),
    (["--space", "nothing=1:2"], "setting = 'nothing'"),
    (["--space", "tau=0.5:2"], "tau"),
    (["--max-overhead", "-1"], "max-overhead = -1"),
    (["--max-overhead", "3"], r"max-overhead = 3.0: must lie in \(0, 1\]"),
    (["--seeds", "41", "42", "41"], "seeds = 41: is named twice"),
    (["--set", "rnk=4"], "setting = 'rnk': did you mean 'rank'.*--help-fields"),
    (["--task", "arithmetik"], "task = 'arithmetik': did you mean 'arithmetic'.*must be one of"),
    (["--point", "tau=0.9,T=5"], "separated by blanks: --point tau=0.9 T=5"),
    (["--max-footprint", "0"], "max-footprint = 0"),
    (["--point", "tau=3"], "tau .*= 3"),
    (["--small-batch", "0"], "small-batch = 0"),
    (["--workers-per-trial", "2"], "workers-per-trial = 2.*must divide accumulation = 1"),
    (["--optuna-storage", "nonsense"], "optuna-storage = .nonsense."),
    (["--optuna-storage", "foo://x"], "optuna-storage = .foo://x.: must begin with one of sqlite"),
    (["--set", "micro_batch=1000000"], "micro_batch = 1000000.* GB"),
    (["--set", "lambda_r=0.1", "--T", "none"], "lambda_r = 0.1: must be 0 with T = none"),
    (["--set", "preconditioner=none", "--lambda", "0.1"], "lambda = 0.1: changes nothing: .*acts only with"),
    (["--set", "T=none", "--tau", "0.9"], "tau = 0.9: changes nothing: reprojection acts after inf steps"),
    (["--point", "reprojection_k=4"], "reprojection_k = 4: changes nothing: .*rank_adaptation = False"),
    (
        ["--set", "rank_adaptation=false", "--space", "tau=0.9:0.99"],
        "space = 'tau': changes nothing: .*acts only with",
    ),
]


@pytest.mark.parametrize("argv, words", CASES, ids=[" ".join(argv)[:40] for argv, _ in CASES])
def test_bad_input_is_one_line_and_two(rows, capsys, monkeypatch, argv, words):
    monkeypatch.chdir(rows)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    import ray

    monkeypatch.setattr(ray, "init", lambda *a, **k: pytest.fail("Ray was started"))
    before = sorted(rows.rglob("*"))
    assert _main(*(text.replace("{}", str(rows)) for text in argv)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert re.search(words, error), error
    assert [p for p in sorted(rows.rglob("*")) if p not in before and p.name != "results"] == []


#: Refuses a command line in a process of its own, and says whether torch was imported for that.
REFUSES = """import sys
{program}
code = command.main(sys.argv[1:])
sys.exit(9 if "torch" in sys.modules else code)
"""


@pytest.mark.parametrize(
    ("program", "argv"),
    [
        ("from sweeps.tau_T_lambda import SCRIPT as command", ["--preset", "smoke", "--task", "poetry"]),
        ("from sweeps.baselines import SCRIPT as command", ["--preset", "smoke", "--set", "rnak=3"]),
        ("from grit.cli import main as command", ["train", "--output", "x", "--task", "poetry"]),
        ("from grit.cli import main as command", ["train", "--output", "x", "--budget-steps", "0"]),
        ("from grit.cli import main as command", ["show", "nowhere"]),
        ("from grit.cli import main as command", ["train", "--output", "occupied"]),
        (
            "from grit.cli import main as command",
            ["train", "--preset", "smollm2-135m", "--output", "x", "--set", "rnak=3"],
        ),
    ],
)
def test_what_cannot_be_used_is_refused_before_torch_is_imported(program, argv, tmp_path):
    (tmp_path / "occupied").mkdir()
    (tmp_path / "occupied" / "something.txt").touch()
    refused = subprocess.run(
        [sys.executable, "-c", REFUSES.format(program=program), *argv],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert refused.returncode == 2, refused.stderr
    assert refused.stderr.count("\n") == 1


def test_a_misspelt_option_is_told_of_its_neighbour(capsys):
    with pytest.raises(SystemExit):
        _main("--outptu", "x")
    assert "unrecognized arguments: --outptu x; did you mean --output?" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        _main("--preset", "smokee")
    refused = capsys.readouterr().err
    assert refused.startswith("error: argument --preset: 'smokee': did you mean 'smoke'? must be one of ")
    assert refused.count("\n") == 1


def test_a_setting_that_cannot_act_within_the_budget_is_named(rows, capsys, monkeypatch):
    monkeypatch.chdir(rows)
    assert _main("--preset", "smoke", "--regimes", "step", "--T", "4", "500", "--dry-run") == 0
    error = capsys.readouterr().err
    assert "T = 500: the first reprojection comes in step 500, and the budget is 40\n" in error
    assert error.count("the first reprojection") == 1


@pytest.mark.parametrize(
    "argv",
    [["--preset", "huge"], ["--regimes", "calendar"], ["--method", "sgd"], ["--nonsense"], ["--seed", "41"]],
)
def test_unknown_options_are_one_line_too(capsys, argv):
    with pytest.raises(SystemExit) as left:
        _main(*argv)
    said = capsys.readouterr().err
    assert left.value.code == 2
    assert said.startswith("error: ")
    assert said.count("\n") == 1


def test_peft_metamath_plans_their_cell_and_says_where_it_departs(rows, capsys, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    train = rows / "metamathqa.jsonl"
    train.write_text('{"query": "q", "response": "It is 1. The answer is: 1", "type": "GSM_SV"}\n')
    files = ("--train-file", str(train), "--eval-file", str(rows / "good.jsonl"))
    general = ("--retention-file", str(rows / "general.txt"))
    options = ("--preset", "peft-metamath", "--regimes", "step", "--dry-run", "--no-measure")
    assert _main(*options, *files, *general) == 0
    shown = capsys.readouterr().out
    assert "5000 steps" in shown or "5,000" in shown
    assert "HuggingFaceFW/finewiki" in shown
    assert _main(*options, "--task", "gsm8k", *files, *general) == 2
    assert "must be metamathqa with preset peft-metamath" in capsys.readouterr().err


def test_help_names_every_promised_option(capsys):
    with pytest.raises(SystemExit):
        _main("--help")
    text = capsys.readouterr().out
    assert len(re.findall(r"^  --", text, re.MULTILINE)) > 30
    for option in (
        "preset",
        "model",
        "task",
        "train-file",
        "eval-file",
        "retention-file",
        "method",
        "regimes",
        "budget-steps",
        "budget-seconds",
        "seeds",
        "max-concurrent",
        "output",
        "address",
        "resume",
        "dry-run",
        "tracking-uri",
    ):
        assert f"--{option}" in text


@pytest.mark.parametrize(
    "text, setting",
    [
        ("rank=8", ("rank", 8)),
        ("basis=balanced", ("basis", "balanced")),
        ("ema_decay=none", ("ema_decay", None)),
        ("preconditioner=none", ("preconditioner", "none")),
        ("two_sided=false", ("two_sided", False)),
        ('targets=["q_proj"]', ("targets", ("q_proj",))),
    ],
)
def test_settings_are_read_as_json_or_text(text, setting):
    assert parse_setting(text) == setting


def test_the_word_none_is_a_word_where_the_setting_has_it():
    request = _request("--set", "preconditioner=none", "ema_decay=none", "--point", "preconditioner=none")
    assert request.base.grit.preconditioner == "none"
    assert request.base.grit.ema_decay is None
    assert request.listed == ({"preconditioner": "none"},)


def test_budget_steps_scales_what_is_a_share_of_the_run():
    request = _request("--budget-steps", "320")
    assert request.budget_steps == 320
    assert request.budget_seconds == pytest.approx(14.0)
    assert request.base.grit.reprojection_freq == 32
    assert request.preset.oat["T"] == (16, 128)


def test_the_address_of_a_job_comes_from_its_environment(monkeypatch, capsys):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert SCRIPT.main([]) == 2  # a job must say where every node can write
    assert "every node" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name, options",
    [
        ("tau_T_lambda", []),
        ("tau_T_lambda", ["--point", "T=none", "tau=0.9", "--space", "rank=4:32:int", "tau=0.8:0.999"]),
        (
            "tau_T_lambda",
            ["--method", "qgrit", "--set", 'targets=["q_proj", "v_proj"]', "--small-batch", "2"],
        ),
        ("ablation", []),
        ("baselines", []),
        ("compression", []),
        ("overhead", []),
        ("small_batch", []),
        ("forgetting_law", []),
    ],
)
def test_a_study_is_the_same_study_after_it_was_a_file(name, options, tmp_path, capsys):
    """So that `--study` of a result folder's own file resumes the study of that folder."""
    script = importlib.import_module(f"sweeps.{name}").SCRIPT
    options = ["--preset", "smoke", *options]
    file = tmp_path / "study.yaml"
    assert script.main([*options, "--save-study", str(file)]) == 0, capsys.readouterr().err
    asked = script.study(options)
    read = read_spec(file).study(asked.content)
    assert read.fingerprint() == asked.fingerprint()
    assert [trial.trial_id for trial in read.trials] == [trial.trial_id for trial in asked.trials]
    assert script.main(["--study", str(file), "--dry-run", "--no-measure"]) == 0


def test_every_setting_is_listed(capsys):
    with pytest.raises(SystemExit) as ended:
        _main("--help-fields")
    assert ended.value.code == 0
    listed = capsys.readouterr().out
    names = [item.name for kind in RUN_SECTIONS.values() for item, _ in declared(kind)]
    assert [name for name in names if f"  {name}" not in listed] == []
    assert "rank_adaptation_threshold (tau) = 0.99" in listed


@pytest.mark.parametrize(
    "option", [("--sampler", "gp"), ("--search-points", "9"), ("--seeds", "1"), ("--set", "rank=4")]
)
def test_what_a_study_file_has_is_refused_beside_it(option, tmp_path, capsys):
    file = tmp_path / "study.yaml"
    assert _main("--preset", "smoke", "--save-study", str(file)) == 0
    assert _main("--study", str(file), *option, "--dry-run", "--no-measure") == 2
    assert "cannot be given beside --study" in capsys.readouterr().err


def test_a_method_that_is_none_is_refused_in_a_study_file(tmp_path, capsys):
    file = tmp_path / "study.yaml"
    assert _main("--preset", "smoke", "--save-study", str(file)) == 0
    file.write_text(file.read_text().replace("method: null", "method: lroa", 1))
    assert _main("--study", str(file), "--dry-run", "--no-measure") == 2
    assert "error: method = 'lroa': did you mean 'lora'?" in capsys.readouterr().err


def test_a_search_range_is_finite(capsys):
    assert _main("--preset", "smoke", "--space", "T=1:inf:int", "--dry-run", "--no-measure") == 2
    assert "space = inf: must have finite bounds" in capsys.readouterr().err


def test_a_knob_of_the_preset_that_cannot_act_is_left_out_and_said(capsys):
    assert _main("--preset", "smoke", "--set", "preconditioner=none", "--dry-run", "--no-measure") == 0
    said = capsys.readouterr()
    assert said.err.startswith("lambda is not swept: kfac_damping acts only with preconditioner")
    rows = [line.split() for line in said.out.splitlines() if re.match(r"[0-9a-f]{16} ", line)]
    assert {row[7] for row in rows} == {"-", "0.001"}
    assert "0.9" in {row[5] for row in rows}


def test_where_ranks_grow_the_sweep_over_tau_moves_the_growth_threshold():
    study = SCRIPT.study(["--preset", "smoke", "--set", "rank_policy=growth"])
    thresholds = {trial.config.grit.tau: trial.config.grit.rank_growth_threshold for trial in study.trials}
    assert thresholds == {0.99: 0.01, 0.9: 0.1}
