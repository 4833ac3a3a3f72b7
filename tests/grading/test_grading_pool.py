"""Verdicts from worker processes: limits, replacement, threads, clean ends."""

import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from redraft.errors import UserError
from redraft.grading import FunctionGrader, MathGrader, grade_all, grade_attempt, named_grader
from redraft.grading.pool import Pool
from redraft.types import Grade, Problem
from redraft.workers import set_workers

GRADERS = """
import os, sys, time
from redraft.types import Grade

def hangs_on_x(question, gold, attempt):
    while attempt == "x":
        time.sleep(1)
    return attempt == gold

def spins(question, gold, attempt):
    while attempt == "x":
        pass
    return 1.0

def burns(question, gold, attempt):
    end = time.process_time() + float(attempt)
    while time.process_time() < end:
        pass
    return True

def spins_at_first(question, gold, attempt):
    if os.path.exists(question):
        return True
    open(question, "w").close()
    while True:
        pass

def marks_and_hangs(question, gold, attempt):
    open(question, "w").close()
    time.sleep(600)

def dies(question, gold, attempt):
    if attempt == "x":
        os._exit(7)
    print("a grader may print")
    return True

def detailed(question, gold, attempt):
    return Grade(score=0.25, answer=question, decided_by="mine", reason=attempt)

def broken(question, gold, attempt):
    raise ValueError("no such thing")

def vague(question, gold, attempt):
    return "yes"

def partial(question, gold, attempt):
    return float(attempt)

def process(question, gold, attempt):
    return Grade(score="torch" not in sys.modules, decided_by=str(os.getpid()))

number = 3
"""


def problem(gold: str = "1", id: str = "p") -> Problem:
    return Problem(id=id, task="t", question="q", gold=gold)


@pytest.fixture
def graders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module of graders, new for each test so that no pool is shared."""
    name = f"graders_{os.getpid()}_{time.monotonic_ns()}"
    (tmp_path / f"{name}.py").write_text(GRADERS)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def children() -> set[str]:
    """Id of each child process of this one, zombies among them."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            found.add(stat.parent.name)
    return found


@pytest.mark.parametrize("function", ["hangs_on_x", "spins"])
def test_a_hang_costs_one_verdict(graders: str, function: str) -> None:
    grader = FunctionGrader(f"{graders}:{function}", limit_s=2.0)
    attempts = ["1", "x", "1", "1", "1"]
    grades = grade_all(grader, [(problem(), attempt) for attempt in attempts])
    assert [grade.correct for grade in grades] == [True, False, True, True, True]
    assert [grade.status for grade in grades] == ["graded", "timeout", *["graded"] * 3]
    assert "2 s" in grades[1].reason
    assert grader(problem(), "1").correct, "the pool goes on after a hang"


@pytest.fixture
def one_busy_core() -> Iterator[Callable[[], None]]:
    """Confines this thread and the processes it starts to one core; called, it makes that busy."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    burners: list[subprocess.Popen[bytes]] = []

    def make_busy() -> None:
        burners.extend(
            subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4)
        )

    yield make_busy
    for burner in burners:
        burner.kill()
        burner.wait()
    os.sched_setaffinity(0, cores)


def test_waiting_for_a_processor_does_not_count(
    graders: str, one_busy_core: Callable[[], None]
) -> None:
    with Pool(f"{graders}:burns", workers=1, limit_s=1.0) as pool:
        pool.start()
        one_busy_core()
        began = time.monotonic()
        assert pool.call("q", "1", "0.5").status == "ok"
        assert time.monotonic() - began > 1.0, "the machine was not busy enough to tell"


def test_on_a_busy_machine_a_call_has_a_second_try(
    graders: str, one_busy_core: Callable[[], None], tmp_path: Path
) -> None:
    with Pool(f"{graders}:spins_at_first", workers=1, limit_s=0.3) as pool:
        pool.start()
        one_busy_core()
        assert pool.call(str(tmp_path / "tried"), "1", "x").status == "ok"


def test_a_worker_that_dies_costs_one_verdict(graders: str) -> None:
    grader = FunctionGrader(f"{graders}:dies")
    grades = grade_all(grader, [(problem(), attempt) for attempt in "axb"])
    assert [grade.correct for grade in grades] == [True, False, True]
    assert "exit status 7" in grades[1].reason


def test_verdicts_off_the_main_thread() -> None:
    grader = MathGrader()
    expected = [(r"\sqrt{8}", r"\boxed{2\sqrt{2}}", True), (r"x^2-1", r"\boxed{x^2+1}", False)] * 4

    with ThreadPoolExecutor(4) as threads:
        grades = list(threads.map(lambda case: grader(problem(case[0]), case[1]), expected))
    assert [grade.correct for grade in grades] == [case[2] for case in expected]
    assert {grade.decided_by for grade in grades} == {"expression"}

    found: list[Grade] = []
    pairs = [(problem(gold), attempt) for gold, attempt, _ in expected]
    thread = threading.Thread(target=lambda: found.extend(grade_all(grader, pairs)))
    thread.start()
    thread.join()
    assert found == grades


def test_a_closed_pool_leaves_no_process_behind(graders: str) -> None:
    before = children()
    with Pool(f"{graders}:hangs_on_x", workers=2, limit_s=2.0) as pool:
        statuses = [
            reply.status for reply in pool.call_all([("q", "1", a) for a in ("1", "x", "x")])
        ]
        assert statuses == ["ok", "timeout", "timeout"]
        assert pool.call("q", "1", "1").status == "ok"
        assert children() - before, "the pool has a worker"
    assert children() <= before
    with pytest.raises(RuntimeError, match="closed"):
        pool.call("q", "1", "1")


def test_closing_a_pool_frees_the_threads_that_wait_for_it(graders: str, tmp_path: Path) -> None:
    pool = Pool(f"{graders}:marks_and_hangs", workers=1, limit_s=600)
    pool.start()
    taken = tmp_path / "taken"
    replies: list[str] = []
    thread = threading.Thread(target=lambda: replies.append(pool.call(str(taken), "1", "x").status))
    thread.start()
    deadline = time.monotonic() + 60
    while not taken.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    pool.close()
    thread.join(60)
    assert replies == ["died"]


def test_a_pool_where_the_system_tells_no_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    for cores, workers in ((3, 3), (64, 64), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        assert Pool("a:b").workers == workers
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert Pool("a:b").workers == 8


def test_the_number_of_workers_is_a_setting(graders: str) -> None:
    try:
        set_workers(3)
        with Pool(f"{graders}:process", limit_s=30) as pool, Pool("a:b", workers=1) as told:
            assert (pool.workers, told.workers) == (3, 1)
            pool.call_all([("q", "1", "x")] * 24)
            assert len(pool._running) <= 3
    finally:
        set_workers(None)
    with pytest.raises(ValueError, match="workers 0: expected at least 1"):
        set_workers(0)


def test_workers_are_started_as_they_are_needed(graders: str) -> None:
    with Pool(f"{graders}:process", workers=64, limit_s=30) as pool:
        decided = {pool.call("q", "1", "x").value["decided_by"] for _ in range(20)}
    assert len(decided) == 1


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_forked_process_has_workers_of_its_own(graders: str) -> None:
    with Pool(f"{graders}:process", workers=1, limit_s=30) as pool:
        ours = pool.call("q", "1", "x").value["decided_by"]
        told, tells = os.pipe()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.write(tells, pool.call("q", "1", "x").value["decided_by"].encode())
                pool.close()
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        assert os.read(told, 99).decode() not in ("", ours)
        assert pool.call("q", "1", "x").value["decided_by"] == ours, "the parent's goes on"
    os.close(told)
    os.close(tells)


def test_workers_are_gone_when_the_interpreter_has_exited() -> None:
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from redraft.grading.pool import shared_pool\n"
        "from redraft.sandbox import run\n"
        "assert shared_pool('builtins:len', 9.0).call('ab').value == 2\n"
        "assert run('1').finished\n"
        "child = os.fork()\n"
        "if child == 0: sys.exit()\n"
        "os.waitpid(child, 0)\n"
        "for file in Path('/proc/self/task').glob('*/children'):\n"
        "    print(file.read_text())\n"
    )
    command = [
        sys.executable,
        *("-W", "ignore::DeprecationWarning", "-W", "always::ResourceWarning"),
        "-c",
        script,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    workers = done.stdout.split()
    assert len(workers) == 2, "the script saw its workers"
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]


def test_importing_grading_is_light() -> None:
    script = (
        "import redraft.grading, sys; print([m for m in ('torch', 'sympy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_a_function_runs_in_another_process_without_torch(graders: str) -> None:
    grade = FunctionGrader(f"{graders}:process")(problem(), "1")
    assert grade.correct
    assert int(grade.decided_by) != os.getpid()


def test_results_of_functions(graders: str) -> None:
    assert FunctionGrader(f"{graders}:spins")(problem(), "1").correct
    assert FunctionGrader(f"{graders}:detailed")(problem(), "why") == Grade(
        score=0.25, answer="q", decided_by="mine", reason="why"
    )
    with pytest.raises(UserError, match=r"broken' failed on problem p: ValueError: no such thing"):
        FunctionGrader(f"{graders}:broken")(problem(), "1")
    assert FunctionGrader(f"{graders}:partial")(problem(), "0.5").score == 0.5
    for attempt in ("1.5", "-1", "nan"):
        with pytest.raises(
            UserError, match=f"returned '{attempt}.*' on problem p; expected a bool"
        ):
            FunctionGrader(f"{graders}:partial")(problem(), attempt)
    with pytest.raises(UserError, match="returned 'yes' on problem p; expected a bool"):
        FunctionGrader(f"{graders}:vague")(problem(), "1")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nonexistent_module:f", "No module named 'nonexistent_module'"),
        ("{graders}:missing", "no attribute 'missing'"),
        ("{graders}:number", "'number' is not a function"),
        (
            "fuzzy",
            "unknown grader 'fuzzy'; expected exact, number, math, choice or module:function",
        ),
    ],
)
def test_graders_that_do_not_exist(graders: str, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        named_grader(name.format(graders=graders))


def test_truncated_attempts_are_wrong_whatever_they_say(graders: str) -> None:
    grader = MathGrader()
    whole, cut = grade_all(grader, [(problem(), r"\boxed{1}")] * 2, truncated=[False, True])
    assert (whole.correct, whole.decided_by) == (True, "number")
    assert (cut.correct, cut.status) == (False, "truncated")
    assert grade_attempt(grader, problem(), r"\boxed{1}", truncated=True) == cut
    assert grade_attempt(grader, problem(), r"\boxed{1}", truncated=False) == whole


def test_equal_questions_are_asked_once_and_progress_counts_all(graders: str) -> None:
    grader = FunctionGrader(f"{graders}:process")
    counts: list[int] = []
    grades = grade_all(grader, [(problem(), "1")] * 50, progress=counts.append)
    assert len({grade.decided_by for grade in grades}) == 1
    assert sum(counts) == 50


def test_graders_can_be_pickled() -> None:
    assert pickle.loads(pickle.dumps(MathGrader(False))) == MathGrader(False)
    assert pickle.loads(pickle.dumps(FunctionGrader("a:b"))) == FunctionGrader("a:b")
