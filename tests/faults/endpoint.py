"""An evaluation by an endpoint of which 30 % of the requests fail, 5 % stall and 5 % are garbage.

    .venv/bin/python tests/faults/endpoint.py --problems 300 --out runs/faults

The evaluation must end in bounded time, with every problem answered or listed, and resumed until
none is listed, with every problem answered once. Results go to `endpoint.json`.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from endpoints import Asked, Handler, completion, serving
from redraft.cli import run as redraft
from redraft.evaluation.result import read_episodes

TIMEOUT_S = 2.0

GARBAGE = [
    b"",
    b"{",
    b"\xff\xfe\x00" * 1000,
    b"null",
    b"[" * 100_000,
    b'{"choices": [{"message": {"content": 5}}]}',
    b'{"choices": []}',
    b'{"choices": [{"message": {"content": "\\ud800"}}]}',
]


class Weather:
    """Decides at random, by its own seed, what becomes of each request."""

    def __init__(self) -> None:
        self.rng, self.seen = random.Random(16), Counter[str]()

    def behave(self, handler: Handler, asked: Asked) -> None:
        if asked.method == "GET":
            handler.send(200, {"object": "list", "data": [{"id": "tiny", "object": "model"}]})
            return
        drawn = self.rng.random()
        if drawn < 0.30:
            self.seen["failed"] += 1
            match self.rng.randrange(4):
                case 0:
                    handler.send(500, {"error": {"message": "boom \x1b[31m"}})
                case 1:
                    handler.send(429, {"error": {"message": "slow down"}}, Retry_After="0")
                case 2:
                    handler.send(400, {"error": {"message": "not today"}})
                case 3:
                    handler.connection.close()
                    handler.close_connection = True
        elif drawn < 0.35:
            self.seen["stalled"] += 1
            time.sleep(3 * TIMEOUT_S)
        elif drawn < 0.40:
            self.seen["garbage"] += 1
            handler.send(200, self.rng.choice(GARBAGE))
        else:
            self.seen["answered"] += 1
            handler.send(200, completion(self.rng.choice("12")))


def state(run: Path, problems: int) -> dict[str, Any]:
    """How many problems are answered, listed, there twice, and lost."""
    episodes = Counter(one.problem.id for one in read_episodes(run) if one.outcome != "failed")
    summary = json.loads((run / "summary.json").read_text())
    listed = {one["id"] for one in summary["failed"]}
    answered = {name for name, count in episodes.items() if name not in listed}
    return {
        "answered": len(answered),
        "listed": len(listed),
        "twice": sum(count > 1 for count in episodes.values()),
        "lost": problems - len(answered | listed),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", type=int, default=300)
    parser.add_argument("--out", type=Path, default=Path("runs/faults"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    weather, rounds = Weather(), []
    with (
        tempfile.TemporaryDirectory(prefix="redraft-endpoint-") as folder,
        serving(weather.behave) as endpoint,
    ):
        data, run = Path(folder) / "problems.jsonl", Path(folder) / "run"
        rows = ({"question": f"{n}?", "gold": "1"} for n in range(arguments.problems))
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        told = f"eval --task jsonl --data {data} --grader exact --prompts plain --turns 2"
        told += f" --model {endpoint.model} --out {run} --http.timeout {TIMEOUT_S} --http.retries 2"
        command = told.split()
        while not rounds or rounds[-1]["listed"]:
            began = time.monotonic()
            code = redraft(command)
            seconds = round(time.monotonic() - began, 1)
            rounds.append({"code": code, "seconds": seconds, **state(run, arguments.problems)})
            print(json.dumps(rounds[-1]), flush=True)
            command = ["resume", str(run)]
            if len(rounds) > 50:
                break
    result = {"problems": arguments.problems, "requests": weather.seen, "rounds": rounds}
    (arguments.out / "endpoint.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
