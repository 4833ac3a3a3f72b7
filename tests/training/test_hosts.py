"""SCoRe by `torchrun`: on two hosts, played by two network namespaces that share no folder but the
run's, and with a process that is killed."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch

from redraft.config import to_yaml
from redraft.training.launch import train
from score_runs import metrics, settings, weights

LIMIT = 600
"""Seconds that a run may take: all its processes may share a core."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3 * LIMIT)]

HOSTS = ("redraft-a", "redraft-b")


def launched(*arguments: str, nodes: int = 1, node: int = 0, port: int | None = None) -> list[str]:
    """The command line of `torchrun` for `redraft`: two processes, on one host or on two."""
    address = "10.213.77.1" if nodes > 1 else "127.0.0.1"
    flags = {
        "nnodes": nodes,
        "node-rank": node,
        "nproc-per-node": 2 // nodes,
        "master-addr": address,
        "master-port": port or free_port(),
    }
    given = [f"--{name}={value}" for name, value in flags.items()]
    return [sys.executable, "-m", "torch.distributed.run", *given, "-m", "redraft", *arguments]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with log.open("w") as said:
        return subprocess.Popen(command, env=environment, stdout=said, stderr=said)


def write_config(world: Path, out: Path, file: Path, **fields: object) -> None:
    """Settings of a run as `--config` reads them."""
    config = settings(world, out, checkpoint_every=1, sharding="fsdp2", **fields)
    file.write_text(to_yaml(config, "redraft train score"))


def assert_as_alone(run: Path, world: Path, alone: Path, **fields: object) -> None:
    """A run ended with the weights that it has on one process."""
    train("score", settings(world, alone, checkpoint_every=1, **fields))
    ours, theirs = weights(alone / "model"), weights(run / "model")
    for name, value in theirs.items():
        torch.testing.assert_close(value, ours[name], rtol=1e-3, atol=1e-4)


def test_a_killed_process_is_named_and_the_run_resumes(world: Path, tmp_path: Path) -> None:
    run, config, log = tmp_path / "run", tmp_path / "config.yaml", tmp_path / "log"
    steps = {"stage_one_steps": 3, "stage_two_steps": 3}
    write_config(world, run, config, **steps)
    launcher = start(launched("train", "score", "--config", str(config)), log)
    end = time.monotonic() + LIMIT
    while not (run / "metrics.jsonl").exists() or len(metrics(run)) < 2:
        assert launcher.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.05)
    ranks = psutil.Process(launcher.pid).children(recursive=True)
    [second] = [
        one for one in ranks if one.environ().get("RANK") == "1" and "redraft" in one.cmdline()
    ]
    second.kill()
    assert launcher.wait(LIMIT) != 0
    said = log.read_text()
    assert (
        f"redraft: error: process 1 (of 2, on {socket.gethostname()}, process id {second.pid})"
        in said
    )
    assert f"`redraft resume {run}`" in said
    assert "Traceback" not in said.partition("torch/distributed/elastic")[0]
    assert len(metrics(run)) < 6
    resumed = start(launched("resume", str(run)), log)
    assert resumed.wait(LIMIT) == 0, log.read_text()
    assert len(metrics(run)) == 6
    assert_as_alone(run, world, tmp_path / "alone", **steps)


@pytest.fixture(scope="module")
def hosts() -> Iterator[None]:
    """Two network namespaces with a cable between them."""
    a, b = HOSTS
    try:
        for name in HOSTS:
            ip("netns", "add", name)
        ip("link", "add", "redraft", "netns", a, "type", "veth", "peer", "redraft", "netns", b)
        for number, name in enumerate(HOSTS, start=1):
            ip("-n", name, "address", "add", f"10.213.77.{number}/30", "dev", "redraft")
            ip("-n", name, "link", "set", "redraft", "up")
            ip("-n", name, "link", "set", "lo", "up")
    except (OSError, subprocess.CalledProcessError) as error:
        remove_hosts()
        pytest.skip(f"network namespaces cannot be made here: {error}")
    yield
    remove_hosts()


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def remove_hosts() -> None:
    for name in HOSTS:
        if shutil.which("ip"):
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def on_hosts(folder: Path, world: Path, config: Path) -> list[str]:
    """What `redraft train score` says on each of two hosts, each of which has a `local` folder of
    its own with the model and the problems."""
    (folder / "local").mkdir()
    names = [f"10.213.77.{number} {name}\n" for number, name in enumerate(HOSTS, start=1)]
    (folder / "hosts").write_text("".join(["127.0.0.1 localhost\n", *names]))
    launchers, logs, port = [], [], free_port()
    for node, name in enumerate(HOSTS):
        shutil.copytree(world, folder / name)
        command = launched("train", "score", "--config", str(config), nodes=2, node=node, port=port)
        mounts = {folder / name: folder / "local", folder / "hosts": "/etc/hosts"}
        binds = " && ".join(f"mount --bind {one} {other}" for one, other in mounts.items())
        shell = f'{binds} && hostname {name} && export GLOO_SOCKET_IFNAME=redraft && exec "$@"'
        entered = ["ip", "netns", "exec", name, "unshare", "--uts", "sh", "-c", shell, "sh"]
        logs.append(folder / f"log-{node}")
        launchers.append(start([*entered, *command], logs[node]))
    try:
        for launcher in launchers:
            launcher.wait(LIMIT)
    finally:
        for launcher in launchers:
            launcher.kill()
    return [log.read_text() for log in logs]


def test_two_hosts_train_one_model(hosts: None, world: Path, tmp_path: Path) -> None:
    run, config = tmp_path / "run", tmp_path / "config.yaml"
    write_config(tmp_path / "local", run, config)
    said = on_hosts(tmp_path, world, config)
    assert (run / "summary.json").exists(), said
    assert not any((tmp_path / "local").iterdir()), "each host saw its own"
    assert len(metrics(run)) == 2
    assert {path.name for path in (run / "episodes").iterdir()} == {
        f"{part}-00000{step}.jsonl" for part in ("train", "train-process1") for step in (1, 2)
    }
    assert_as_alone(run, world, tmp_path / "alone")


def test_a_run_directory_that_hosts_do_not_share_is_refused(
    hosts: None, world: Path, tmp_path: Path
) -> None:
    config = tmp_path / "config.yaml"
    write_config(tmp_path / "local", tmp_path / "local" / "run", config)
    for said in on_hosts(tmp_path, world, config):
        assert "on redraft-b this is not the folder that the main process writes to" in said
    assert not list((tmp_path / HOSTS[0] / "run").glob("checkpoints"))
