"""The scripts of the page on launchers, with stand-ins for the commands that need a cluster."""

import os
import re
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from redraft.config import to_yaml
from redraft.training.method import METHODS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "scale.md").read_text("utf-8")
SLURM = re.findall(r"^```bash\n(#!.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
IN_YAML = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)

STAND_INS = {
    "scontrol": 'if [ $1 = show ]; then printf "node-%s\\n" 1 2 3; else echo "scontrol $*"; fi',
    "srun": (
        'trap "[ -z $FINISHES ] || touch $RUN/summary.json; exit 143" TERM\n'
        'echo "srun $*"\n'
        'case "$*" in *"vllm serve"*) exec sleep 60;; esac\n'
        "[ -z $FAILS ] || exit 2\n"
        "sleep 60 & wait"
    ),
    "curl": "exit 0",
}
"""By command what it does in the tests; `srun` says what it starts, and waits to be ended."""


def scripts_in_yaml() -> list[str]:
    """What the pods of Kubernetes and the machines of SkyPilot run."""
    kubernetes, skypilot = (yaml.safe_load(text) for text in IN_YAML)
    master = kubernetes["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]
    return [master["containers"][0]["args"][0], skypilot["run"]]


def catches(process: int, number: signal.Signals) -> bool:
    """Whether a process has a handler of its own for a signal."""
    status = Path(f"/proc/{process}/status").read_text()
    found = re.search(r"^SigCgt:\s*(\w+)", status, re.MULTILINE)
    return found is not None and bool(int(found[1], 16) >> (number - 1) & 1)


def run_job(
    script: str, folder: Path, *, ask: bool = True, **environment: str
) -> tuple[int, list[str]]:
    """Exit code of a job and the commands it gave but for starting a server; `ask` it to end, as
    Slurm does before its time is over."""
    place = folder / "bin"
    place.mkdir(exist_ok=True)
    for name, does in STAND_INS.items():
        (place / name).write_text(f"#!/bin/bash\n{does}\n")
        (place / name).chmod(0o755)
    told = {"SLURM_JOB_NODELIST": "node-[1-3]", "SLURM_NNODES": "2", "SLURM_JOB_ID": "7"}
    told |= {"SLURM_CPUS_PER_TASK": "64", "FAILS": "", "FINISHES": "", **environment}
    said = folder / "said"
    with said.open("w") as file:
        job = subprocess.Popen(
            ["bash", "-c", script.replace("/shared", str(folder)).replace("RUN=", "export RUN=")],
            env={"PATH": f"{place}:{os.environ['PATH']}", **told},
            stdout=file,
            start_new_session=True,
        )
    try:
        if ask:
            until = time.monotonic() + 60
            while not (catches(job.pid, signal.SIGUSR1) and "-m redraft" in said.read_text()):
                assert time.monotonic() < until, said.read_text()
                time.sleep(0.05)
            job.send_signal(signal.SIGUSR1)
        code, lines = job.wait(timeout=60), said.read_text().splitlines()
        return code, [line for line in lines if "vllm serve" not in line]
    finally:
        with suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)  # what it has left


def test_the_scripts_are_found() -> None:
    assert len(SLURM) == 2
    assert len(scripts_in_yaml()) == 2


@pytest.mark.parametrize("script", [*SLURM, *scripts_in_yaml()])
def test_a_script_is_bash(script: str) -> None:
    done = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("script", SLURM, ids=["vllm-beside", "vllm-server"])
def test_a_slurm_job_whose_time_ends_comes_back_and_resumes(script: str, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "score"
    _, [started, requeued] = run_job(script, tmp_path)
    assert "-m redraft train score" in started
    assert requeued == "scontrol requeue 7"
    run.mkdir(parents=True)
    (run / "environment.json").touch()
    given = {"out": run, "vllm.url": "http://node-9:8000", "vllm.folder": tmp_path}
    config = METHODS["score"].configure(
        file=ROOT / "recipes" / "score-llama3.1-8b-math.yaml", overrides=given
    )
    (run / "config.yaml").write_text(to_yaml(config, "train score"))
    _, [started, requeued] = run_job(script, tmp_path)
    assert started.endswith(f"-m redraft resume {run}")
    assert requeued == "scontrol requeue 7"
    host = "node-3" if "vllm serve" in script else "node-9"
    told = yaml.safe_load((run / "config.yaml").read_text())
    assert told == config.model_dump(mode="json") | {
        "vllm": {**config.vllm.model_dump(mode="json"), "url": f"http://{host}:8000"}
    }


@pytest.mark.parametrize("script", SLURM, ids=["vllm-beside", "vllm-server"])
def test_a_slurm_job_that_is_done_or_fails_does_not_come_back(script: str, tmp_path: Path) -> None:
    (tmp_path / "runs" / "score").mkdir(parents=True)
    _, [started] = run_job(script, tmp_path, FINISHES="yes")
    assert "-m redraft train score" in started
    (tmp_path / "runs" / "score" / "summary.json").unlink()
    code, [started] = run_job(script, tmp_path, ask=False, FAILS="yes")
    assert code == 2
    assert "-m redraft train score" in started
