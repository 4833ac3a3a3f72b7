"""`docs/results/faults.md` from what `make test-faults` has left in `runs/faults`."""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

HEAD = """# Faults

What `make test-faults` found. It goes on where it stopped; `KILLS=` and `INPUTS=` size it. This
page is written by `tests/faults/page.py`; a part that has not been run has no table.

What these runs found has been mended, and what had failed was run again; the figures below are of
the second time. Of 705 killed runs one left a file behind that was not needed any more. Of the
first 102,000 inputs four gave a traceback (a model's name too long for a file, a number for a
setting's name, nesting without end, half a surrogate pair in a list of checksums) and six took 2 to
5 seconds of processor time (a megabyte of brackets, of empty lines, of fences). A disk that was
full just when the tokenizer was written, and a folder of a run that was a mount of its own, gave a
traceback. All kills are of one commit, the second 102,000 inputs of a later one. At the commit
after vLLM and sharding had come, 155 further runs were killed, 11 of each command and one demo: all
ended alike. One Ctrl-C was lost there, with a traceback, because it came where Python can raise
nothing; such a signal is now sent again.

The last nine of the readers came later. The 20,400 inputs of theirs are of a later commit, too; two
batches of 200 were run again after them, at a still later one: a name too long for a path had given
a traceback, and one input had taken more than two seconds, which it did not do again. The tries
before had found that a verdict of a file of attempts that was a text, a tokenizer whose longest
length was one, and an end of a response that was no id gave a traceback. Looking at models' folders
by hand found that a `config.json` could name an attention for the libraries to fetch and run, or
a billion layers to be built, and that pipes and devices were read.

The damaged folders, most of those that `tests/faults/damage.py` makes of two commands, were tried
at several commits on the way. Two commands that had not ended within a minute, on a core that
twenty processes shared, ended when they were tried again with five.
"""

YES = ("no", "yes")


def kills(lines: list[dict[str, Any]]) -> list[str]:
    """The table of kills, by command."""
    rows = []
    for name in dict.fromkeys(line["system"] for line in lines):
        ours = [line for line in lines if line["system"] == name]
        faults = [fault for line in ours for fault in line["faults"]]
        kinds = Counter(fault.split()[0] for fault in faults)
        alike = sum(line["alike"] for line in ours)
        shown = [kinds[kind] for kind in ("file", "SIGKILL", "SIGTERM", "SIGINT")]
        cells = [name, len(ours), *shown, alike, sum(line["traceback"] for line in ours)]
        rows.append("| " + " | ".join(map(str, cells)) + " |")
    return [
        "## Kills",
        "",
        "Each run was ended at random once or twice and taken up again until it was done. *Alike*: "
        "weights to the bit, and metrics, episodes, examples and pairs but for times, are those of "
        "a run that nothing happened to. A signal that came after the end of a run is counted too.",
        "",
        "| command | runs | file operation | SIGKILL | SIGTERM | SIGINT | alike | tracebacks |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
        *rows,
        "",
    ]


def inputs(lines: list[dict[str, Any]]) -> list[str]:
    """The table of fuzzed inputs, by reader."""
    rows = []
    names = [*dict.fromkeys(line["reader"] for line in lines)]
    for name in names:
        ours = [line for line in lines if line["reader"] == name]
        cells = [
            name,
            f"{sum(line['inputs'] for line in ours):,}",
            sum(len(line["tracebacks"]) for line in ours),
            sum(len(line["hangs"]) for line in ours),
        ]
        rows.append("| " + " | ".join(map(str, cells)) + " |")
    total = sum(line["inputs"] for line in lines)
    return [
        "## Fuzzed inputs",
        "",
        f"{total:,} inputs, one in twenty of up to a million characters. A hang is more than 2 "
        "seconds of processor time.",
        "",
        "| what reads | inputs | tracebacks | hangs |",
        "|---|---:|---:|---:|",
        *rows,
        "",
    ]


def damage(lines: list[dict[str, Any]]) -> list[str]:
    """The table of damaged run folders, by command."""
    rows = []
    for name in dict.fromkeys(line["damage"][0] for line in lines):
        ours = [line for line in lines if line["damage"][0] == name]
        tried = [how for line in ours for told, how in line.items() if told != "damage"]
        codes = [sum(how["right"] and how["code"] == code for how in tried) for code in (0, 2)]
        cells = [name, len(ours), len(tried), *codes, sum(not how["right"] for how in tried)]
        rows.append("| " + " | ".join(map(str, cells)) + " |")
    return [
        "## Damaged run folders",
        "",
        "One file removed, emptied, cut, or replaced by something else (noise, JSON of other "
        "types, a folder, a pipe, a device, a link to itself); then `resume`, the command that "
        "began the run, `report`, `show` and `compare`.",
        "",
        "| command | damaged | tried | exit code 0 | exit code 2 and a line | anything else |",
        "|---|---:|---:|---:|---:|---:|",
        *rows,
        "",
    ]


def disk(results: list[dict[str, Any]]) -> list[str]:
    """The table of full disks and forbidden folders."""
    rows = [
        f"| {one['what']} | {one['code']} | {YES[one['traceback']]} | {one['then']} | "
        f"{YES[one['alike']]} |"
        for one in results
    ]
    return [
        "## Full disks and forbidden folders",
        "",
        "`train score` on a file system of that size, or with a folder that cannot be written to; "
        "then once more with room.",
        "",
        "| | exit code | traceback | exit code with room | alike |",
        "|---|---:|---|---:|---|",
        *rows,
        "",
    ]


def endpoint(result: dict[str, Any]) -> list[str]:
    """The rounds of the evaluation by a bad endpoint."""
    rows = [
        f"| {number} | {one['seconds']} | {one['answered']} | {one['listed']} | {one['twice']} | "
        f"{one['lost']} |"
        for number, one in enumerate(result["rounds"], 1)
    ]
    requests = ", ".join(f"{name} {count}" for name, count in sorted(result["requests"].items()))
    return [
        "## A bad endpoint",
        "",
        f"{result['problems']} problems of two turns; requests: {requests}. Each round but the "
        "first is a `redraft resume`.",
        "",
        "| round | seconds | answered | listed as failed | twice | lost |",
        "|---:|---:|---:|---:|---:|---:|",
        *rows,
        "",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/faults"))
    parser.add_argument("--page", type=Path, default=Path("docs/results/faults.md"))
    arguments = parser.parse_args()
    parts = [HEAD]
    for name, write in {
        "kills.jsonl": kills,
        "inputs.jsonl": inputs,
        "damage.jsonl": damage,
        "disk.json": disk,
        "endpoint.json": endpoint,
    }.items():
        file = arguments.out / name
        if file.exists():
            text = file.read_text()
            lines = name.endswith(".jsonl")
            parts += write([json.loads(one) for one in text.splitlines()] if lines else
                           json.loads(text))  # fmt: skip
    arguments.page.write_text("\n".join(parts).rstrip() + "\n")


if __name__ == "__main__":
    main()
