"""The benchmarks of cost and of GPUs: formulas, what they keep, and what they refuse."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from redraft.errors import UserError

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _beside_the_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A script finds its neighbours."""
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])


def refusal(script: ModuleType, words: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> str:
    """The last line of what a script says that takes no such arguments."""
    monkeypatch.setattr(sys, "argv", ["script", *words.split()])
    with pytest.raises(SystemExit) as refused:
        script.main()
    assert refused.value.code == 2
    return str(capsys.readouterr().err.splitlines()[-1])


def small_llama() -> LlamaForCausalLM:
    """A layer of width 8 with 2 heads, 1 of them of keys, and a vocabulary of 16."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=16, hidden_size=8, intermediate_size=32, num_hidden_layers=1,
            num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=True,
        )
    )  # fmt: skip


def test_operations_of_an_update_are_those_worked_by_hand() -> None:
    from learner import model_flops

    model = small_llama()
    layer = 8 * 8 + 2 * 8 * 4 + 8 * 8 + 3 * 8 * 32  # queries, keys and values, output, MLP
    products, attention = model_flops(model, [10, 4], learned=5)
    assert products == 6 * (14 * layer + 5 * 16 * 8)
    assert attention == 6 * 8 * (10**2 + 4**2)
    model.model.requires_grad_(False)  # and with it the head, whose weights are the embedding's
    assert model_flops(model, [10, 4], 5) == (4 * (14 * layer + 5 * 16 * 8), attention)


def test_the_peak_is_what_was_told_or_the_data_sheets(monkeypatch: pytest.MonkeyPatch) -> None:
    from learner import peak_flops

    gpu = torch.device("cuda")
    assert peak_flops(gpu, 500.0) == 500e12
    assert peak_flops(torch.device("cpu"), None) is None
    for name, rate in {
        "NVIDIA H200": 989,
        "NVIDIA H100 80GB HBM3": 989,
        "NVIDIA H100 PCIe": 756,
        "NVIDIA A100-SXM4-80GB": 312,
        "NVIDIA L40S": 362,
        "NVIDIA L4": 121,
        "NVIDIA GeForce RTX 4090": 165,
    }.items():
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _, name=name: name)
        assert peak_flops(gpu, None) == rate * 1e12, name
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA L40")
    with pytest.raises(UserError, match=r"NVIDIA L40: .* give --peak-tflops"):
        peak_flops(gpu, None)


def test_an_exchange_of_all_weights_sends_its_share_of_them() -> None:
    from cost_page import weight_bytes

    assert [weight_bytes(1000, count) for count in (1, 2, 4)] == [0, 2000, 3000]


def test_parts_of_a_step_add_up_to_it() -> None:
    from cost import seconds
    from timed_steps import Step

    parts = {"rollout": 3.0, "grading": 1.0, "reference": 0.5, "update": 2.0}
    assert seconds(Step(6.0, parts, 0, [], 0, 0.0)) == {
        "rollout": 2.0,
        "grading": 1.0,
        "reference": 0.5,
        "update": 2.0,
        "other": 0.5,
    }


def test_the_faster_of_two_measurements_is_kept() -> None:
    from cost import faster

    slow, fast = ({"found": [found(1, 1.0), found(1, update)]} for update in (3.0, 2.0))
    assert faster(slow, None) == slow
    assert faster(slow, fast) == faster(fast, slow) == fast


def found(tokens: int, update: float) -> dict[str, Any]:
    """What a process found whose step took 1 second more than its update."""
    parts = {"rollout": 0.5, "grading": 0.1, "reference": 0.4, "update": update, "other": 0.0}
    return {
        "seconds": parts, "step": update + 1, "sampled": tokens, "rows": 4, "row_tokens": tokens,
        "written": 0, "attention": 0.1, "operations": 1e9, "held": 1e8, "peak": 2e8,
        "parameters": 5_000_000,
    }  # fmt: skip


def test_points_are_kept_as_they_are_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import cost

    one, eight = cost.Point(attempts=1), cost.Point(attempts=8)
    monkeypatch.setattr(cost, "AXES", {"turns": [one, eight]})
    measured: list[cost.Point] = []

    def run_point(point: cost.Point, _: Any) -> dict[str, Any]:
        if point == eight and not resumed:
            raise KeyboardInterrupt
        measured.append(point)
        return {"clock": "cpu", "cores": 1, "found": [found(100 * point.attempts, 1.0)]}

    resumed = False
    monkeypatch.setattr(cost, "run_point", run_point)
    points, page = tmp_path / "cost.json", tmp_path / "results" / "cost.md"
    for folder in ("results", "images"):
        (tmp_path / folder).mkdir()
    monkeypatch.setattr(sys, "argv", ["cost", "--points", str(points), "--page", str(page)])
    with pytest.raises(KeyboardInterrupt):
        cost.main()
    assert [*json.loads(points.read_text())] == ["attempts=1", "machine"]
    resumed = True
    cost.main()
    assert measured == [one, eight]
    text = page.read_text()
    kept = points.read_text()
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--again"])
    cost.main()  # as fast as before
    assert measured == [one, eight, one, eight]
    assert json.loads(points.read_text()) == json.loads(kept)
    assert "sampled tokens grow 8.0 times" in text
    assert "the step's seconds 1.0 times" in text
    assert "the update 10,000 and 1,250 µs per row token (-87.5%)" in text
    assert (tmp_path / "images" / "cost-turns.svg").read_text().startswith("<svg ")


def test_seconds_of_several_processes_need_a_core_for_each() -> None:
    from cost import Point
    from cost_page import processes

    both = [found(100, 1.0), found(200, 2.0)]
    point = Point(processes=2, sharding="none")
    for cores, clock in ((1, "wall"), (2, "cpu"), (2, "wall")):
        kept = {"clock": clock, "cores": cores, "found": both}
        _, said, _, table = processes([(point, kept)])
        quiet = (cores, clock) == (2, "wall")
        assert "| 2 | none | 100 to 200 | 0.0 | 0.0 | 0.10 |" in table
        assert ("step, s" in table) == table.endswith(" 3.0 |") == quiet
        assert ("up to 2 processes shared" in said) != quiet


def test_wrong_arguments_are_refused_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    import cost
    import gpu
    import rollout_real

    said = refusal(cost, "turns size speed", monkeypatch, capsys)
    assert said.endswith("speed: no such axis; choose from turns, samples, size, processes")
    said = refusal(rollout_real, "--vllm --clock cpu", monkeypatch, capsys)
    assert "--vllm: works in processes of its own" in said
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "PyTorch sees no GPU; --small tries" in refusal(gpu, "", monkeypatch, capsys)


def test_a_gpus_parts_are_not_measured_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One part is there, one works, one fails; the page names all three."""
    import gpu

    folder, page = tmp_path / "gpu", tmp_path / "gpu.md"
    folder.mkdir()
    (folder / "learner-tiny.md").write_text("# The learner\n")
    scripts = {
        "rollout.py": "sys.exit('no vLLM')",
        "step.py": "open(sys.argv[-1], 'w').write('# A step')",
    }
    for name, code in scripts.items():
        (tmp_path / name).write_text(f"import sys\n{code}\n")
    monkeypatch.setattr(gpu, "HERE", tmp_path)
    parts = {"learner": "missing.py", "rollout": "rollout.py {model}", "step": "step.py {model}"}
    monkeypatch.setattr(gpu, "PARTS", parts)
    words = ["gpu", "--small", "--models", "tiny", "--folder", str(folder), "--page", str(page)]
    monkeypatch.setattr(sys, "argv", [*words, "--parts", *parts])
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    assert ended.value.code == 1
    text = page.read_text()
    assert "no GPU figures exist yet" in text
    order = [text.index(p) for p in ("## The learner", "Not measured: rollout-tiny", "## A step")]
    assert order == sorted(order)
    assert gpu.run("rollout", "tiny", True, folder) == "no vLLM"
