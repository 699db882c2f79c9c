"""What README and docs say is so: commands run, paths exist, what is drawn or listed is current."""

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import test_benchmarks
from builders import study_folder, without_drawing
from conftest import ROOT

from analysis.report import main as report
from grit.backbone.__main__ import main as backbone
from grit.cli.main import main as grit
from sweeps.status import main as status

sys.path.insert(0, str(ROOT / "docs"))
import draw_architecture
import write_claims
import write_vocabulary

#: All but the changelog, which speaks of what is gone.
PAGES = sorted({*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")} - {ROOT / "CHANGELOG.md"})
STUDIES = ("tau_T_lambda", "ablation", "portability", "baselines", "compression", "overhead")
#: Commands that a test elsewhere runs for real, or that only set up somebody's own machine.
ELSEWHERE = {
    "ray get-auth-token --generate": "tests/sweeps/test_clusters.py",
    "export RAY_AUTH_MODE=token": "tests/sweeps/test_clusters.py",
    "export PATH=$PWD/.venv/bin:$PATH RAY_AUTH_MODE=token": "tests/sweeps/test_clusters.py",
    "ray start --head --dashboard-host=127.0.0.1 --num-cpus=2 --disable-usage-stats": (
        "tests/sweeps/test_clusters.py"
    ),
    "ray stop": "would stop others' Ray",
    "python -m grit show RUN": "tests/first_hour/test_walk.py",
    "python -m sweeps.status results/submitted": "tests/sweeps/test_status.py",
    "ray up cluster.yaml": "tests/ray_jobs/test_cluster.py: the file, against Ray's own schema",
    "ray dashboard cluster.yaml &": "needs the cloud",
    ".venv/bin/python -m pip install --constraint constraints.txt pre-commit": "changes the environment",
    ".venv/bin/pre-commit install": "changes the reader's own checkout",
    ".venv/bin/python sweeps/tau_T_lambda.py --preset smollm2-135m --regimes step --task boolq "
    "--train-file ... --eval-file ... --retention-file ...": "tests/grit/test_smollm2.py, where it is cached",
    ".venv/bin/python sweeps/ablation.py --preset smollm2-135m --regimes step --budget-steps 60 --task boolq "
    "--train-file ... --eval-file ... --retention-file ... --seeds 41 42 43": "hours on SmolLM2",
    ".venv/bin/python sweeps/compression.py --preset smollm2-135m --regimes step --budget-steps 60 "
    "--task boolq --train-file ... --eval-file ... --retention-file ... --ranks 4 --learning-rates 5e-4 "
    "--seeds 41 42": "half an hour on SmolLM2",
    ".venv/bin/python sweeps/baselines.py --preset smollm2-135m --regimes step --budget-steps 60 "
    "--task boolq --train-file ... --eval-file ... --retention-file ... "
    "--methods lora lora_attention lora_replay grit --learning-rates 2e-4 5e-4 --seeds 41 42": (
        "half an hour on SmolLM2"
    ),
    ".venv/bin/python sweeps/baselines.py --preset smollm2-135m --budget-steps 60 --task boolq "
    "--train-file ... --eval-file ... --retention-file ... "
    "--methods lora grit grit_soap grit_source lora_ewc --learning-rates 2.5e-4 5e-4 1e-3 --seeds 41 42": (
        "an hour on SmolLM2"
    ),
    ".venv/bin/python sweeps/baselines.py --budget-steps 100 --model PATH_OR_HUB_ID --task gsm8k "
    "--train-file ... --eval-file ... --retention-file ... --set quality=answer_logprob "
    "--methods lora grit grit_soap grit_source lora_ewc --learning-rates 2.5e-4 5e-4 1e-3 --seeds 41 42 43": (
        "half an hour"
    ),
    ".venv/bin/python sweeps/tau_T_lambda.py --preset peft-metamath --regimes step "
    "--retention-file finewiki100.jsonl --dry-run": "tests/sweeps/test_command_line.py, with files",
    ".venv/bin/python -m grit train --preset llama-3.2-3b --method qgrit --task gsm8k --budget-steps 20 "
    "--train-file train.jsonl --eval-file test.jsonl --retention-file general.txt --output results/one_gpu": (
        "needs a GPU and the hub"
    ),
    ".venv/bin/python -m grit eval results/.../adapters/TRIAL": "tests/grit/test_push.py",
    ".venv/bin/python -m grit export results/.../adapters/TRIAL --merged": "tests/grit/test_push.py",
    ".venv/bin/python -m grit push results/.../adapters/TRIAL --to OWNER/NAME --private": (
        "tests/grit/test_push.py"
    ),
    '.venv/bin/python -m pytest tests/grit/test_architectures.py -m "slow or not slow"': "make test-slow",
    ".venv/bin/python examples/plain_loop.py": "tests/test_examples.py",
    ".venv/bin/python examples/accelerate_loop.py": "tests/test_examples.py",
    ".venv/bin/python examples/huggingface_trainer.py": "tests/test_examples.py",
    "python -m ray_jobs.execution.drain": "tests/clusters/test_engine.py, on a fake node",
    ".venv/bin/python -m analysis.report peft results/DIR peft/method_comparison/MetaMathQA/results": (
        "tests/analysis/test_peft_comparison.py"
    ),
}
#: What stands for the reader's own, and what a test has instead.
OWN = {
    "PATH_OR_HUB_ID": "embedded",
    "DIR": "results/tau_T_lambda-20261124-100000",
    "DIR1": "results/tau_T_lambda-20261124-100000",
    "DIR2": "results/two",
}
FILES = {"--train-file": "train.jsonl", "--eval-file": "test.jsonl", "--retention-file": "general.txt"}


def _commands():
    """Every command that a page quotes: lines of shell blocks, and inline code that calls ours."""
    found = {}
    for page in PAGES:
        text = page.read_text(encoding="utf8")
        for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
            lines = block.replace("\\\n", " ").splitlines()
            found |= {" ".join(line.split(" #")[0].split()): page.name for line in lines if line.strip()}
        prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        inline = [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose)]
        found |= {code: page.name for code in inline if re.match(r"(python|make) \S", code)}
    return found


COMMANDS = _commands()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the files and studies that commands speak of."""
    folder = tmp_path_factory.mktemp("reader")
    rows = "".join(f'{{"question": "What is {n} + 1?", "answer": "#### {n + 1}"}}\n' for n in range(24))
    for name in ("train.jsonl", "test.jsonl"):
        (folder / name).write_text(rows)
    (folder / "general.txt").write_text("\n\n".join(f"Document {n} is about a town." for n in range(8)))
    for name in ("tau_T_lambda-20261124-100000", "two"):
        study_folder(folder / "results" / name)
    return folder


@pytest.fixture(scope="module")
def done():
    """What has run already."""
    return set()


def _arguments(words):
    """A command's words with the reader's own replaced."""
    replaced = []
    for word in words:
        before = replaced[-1] if replaced else ""
        if word == "...":
            if before in FILES:
                replaced.append(FILES[before])
        else:
            replaced.append(OWN.get(word, word))
    return replaced


def _run(words):
    """One of our commands, in this process and small; returns its exit code."""
    if words[:2] == ["-m", "grit"]:
        small = ["--budget-steps", "2"] if words[2:3] == ["train"] else []
        return grit([*words[2:], *small]) if words[2:] else 0  # named only
    if words[:2] == ["-m", "grit.backbone"]:
        return backbone([*words[2:], "--steps", "1"])
    if words[:2] == ["-m", "analysis.report"]:
        return report(words[2:])
    if words[:2] == ["-m", "sweeps.status"]:
        return status(words[2:])
    script = Path(words[0])
    assert (ROOT / script).exists()
    if script.parts[0] == "sweeps":
        module = importlib.import_module(f"sweeps.{script.stem}")
        main = module.SCRIPT.main if hasattr(module, "SCRIPT") else module.main
        return main([*words[1:], *([] if "--save-study" in words else ["--dry-run", "--no-measure"])])
    if script.parts[0] == "docs":
        return 0  # run below
    assert script.stem in {*test_benchmarks.SMALL, *test_benchmarks.ON_THEIR_OWN}
    options = (ROOT / script).read_text(encoding="utf8")
    assert all(f'"{word}"' in options for word in words if word.startswith("--"))
    return 0


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_runs(command, place, done, monkeypatch, capsys):
    if command in ELSEWHERE:
        return
    if command.startswith("make "):
        subprocess.run(["make", "-n", *command.split()[1:]], cwd=ROOT, check=True, capture_output=True)
        return
    monkeypatch.chdir(place)
    _, _, words = command.rpartition(" -- ")
    program, *rest = shlex.split(words)
    assert program in ("python", ".venv/bin/python")
    arguments = tuple(_arguments(rest))
    without_drawing(monkeypatch)
    if arguments not in done:  # pages quote some commands twice
        assert _run(list(arguments)) == 0, capsys.readouterr().err
        done.add(arguments)


def test_every_path_and_link_exists():
    missing = []
    for page in PAGES:
        text = page.read_text(encoding="utf8")
        links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
        missing += [f"{page.name}: {link}" for link in links if not (page.parent / link).exists()]
        named = re.findall(r"`((?:grit|ray_jobs|sweeps|analysis|tests|benchmarks|docs)/[\w/.]+)`", text)
        missing += [f"{page.name}: {name}" for name in named if not (ROOT / name).exists()]
    assert missing == []


def test_no_page_speaks_of_what_was_moved():
    for page in PAGES:
        text = page.read_text(encoding="utf8")
        assert "shared_prefix" not in text
        assert "analysis.audit" not in text


def test_the_picture_is_of_this_code():
    assert draw_architecture.PICTURE.read_text(encoding="utf8") == draw_architecture.picture()


def test_the_claims_ledger_is_whole():
    """Each claim has a known verdict; what is judged says what was measured and by which command."""
    claims = write_claims.ledger()
    assert len({claim["id"] for claim in claims}) == len(claims)
    assert {claim["verdict"] for claim in claims} <= set(write_claims.VERDICTS)
    for claim in claims:
        judged = claim["verdict"] in ("confirmed", "in part", "refuted", "not told")
        assert not judged or (claim["measured"] and claim["by"]), claim["id"]
    assert write_claims.PAGE.read_text(encoding="utf8") == write_claims.page()


def test_the_vocabulary_is_that_of_this_code():
    assert write_vocabulary.PAGE.read_text(encoding="utf8") == write_vocabulary.page()


def test_the_site_has_every_page():
    listed = (ROOT / "mkdocs.yml").read_text(encoding="utf8")
    pages = [page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")]
    assert [page for page in pages if f" {page}\n" not in listed] == []
