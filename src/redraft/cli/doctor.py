"""`redraft doctor`: what this machine offers, and what is missing for what."""

import shutil
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from redraft.cli.terminal import console, print_json
from redraft.errors import UserError
from redraft.models import MODELS
from redraft.system import environment

LIBRARIES = ("transformers", "accelerate", "peft", "datasets", "safetensors", "math-verify")


@dataclass(frozen=True)
class Finding:
    """One thing looked for. `ok` None: not there, and only some uses want it."""

    name: str
    ok: bool | None
    found: str
    remedy: str = ""


def doctor(*, json: bool = False) -> None:
    """Show what this machine offers, and what is missing for what.

    Parameters
    ----------
    json
        Print one JSON document: the environment, and the findings.
    """
    facts = environment()
    findings = [*_machine(facts), *_software(facts), *_models(), _sandbox()]
    if json:
        print_json({"environment": facts, "findings": [asdict(finding) for finding in findings]})
        return
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    signs = {True: ("✓", "green"), False: ("✗", "red"), None: ("–", "yellow")}
    for finding in findings:
        found = Text(finding.found)
        if finding.remedy:
            found.append(f"\n{finding.remedy}", "dim")
        table.add_row(Text(*signs[finding.ok]), Text(finding.name, "bold"), found)
    console().print(table)


def _machine(facts: dict[str, Any]) -> list[Finding]:
    findings = [
        Finding("python", True, facts["python"]),
        Finding(
            "cpu", True, f"{facts['cpu']}, {facts['cores']} cores, torch uses {facts['threads']}"
        ),
    ]
    for index, gpu in enumerate(facts["gpus"]):
        kind = "bfloat16" if gpu["bf16"] else "no bfloat16: use --dtype float32 or float16"
        found = f"{gpu['name']}, {gpu['memory_gib']} GiB, {kind}"
        findings.append(Finding(f"gpu {index}", True, found))
    if facts["gpus"]:
        return findings
    if shutil.which("nvidia-smi") and facts["cuda"] is None:
        remedy = "There is an NVIDIA driver, but this torch is a CPU build: install a CUDA build."
        return [*findings, Finding("gpu", False, "not usable", remedy)]
    remedy = "Everything runs on the CPU, which is enough for the demo and for small models."
    return [*findings, Finding("gpu", None, "none", remedy)]


def _software(facts: dict[str, Any]) -> list[Finding]:
    packages = facts["packages"]
    build = f"CUDA {facts['cuda']}" if facts["cuda"] else "CPU build"
    libraries = [
        Finding(name, name in packages, packages.get(name, "missing"), _install(name, packages))
        for name in LIBRARIES
    ]
    vllm = Finding(
        "vllm",
        True if "vllm" in packages else None,
        packages.get("vllm", "not installed"),
        "Not used yet: rollout runs on transformers.",
    )
    return [Finding("torch", True, f"{packages['torch']}, {build}"), *libraries, vllm]


def _install(name: str, packages: dict[str, str]) -> str:
    return "" if name in packages else f"pip install {name}"


def _models() -> list[Finding]:
    findings = []
    for name, model in MODELS.items():
        folder = model.folder()
        there = (folder / "config.json").is_file()
        remedy = "" if there else f"{model.remedy[:1].upper()}{model.remedy[1:]}."
        found = str(folder) if there else "missing"
        findings.append(Finding(f"model {name}", there, found, remedy))
    return findings


def _sandbox() -> Finding:
    from redraft.sandbox import level

    try:
        found = level()
    except UserError as error:
        return Finding("sandbox", False, "missing", str(error))
    gaps = f"A program could {', '.join(found.gaps)}." if found.gaps else ""
    strict = "satisfies" if found.strict else "does not satisfy"
    layers = f"{found.mechanisms}; {strict} `strict`"
    return Finding("sandbox", True if found.strict else None, layers, gaps)
