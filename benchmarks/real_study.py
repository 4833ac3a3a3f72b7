"""What studies on real models have in common: their options, and the figures that they keep.

What is finished is kept as JSON with the options that it was made with, and pages are made of that
alone, so that a page outlives the folders of its runs.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from page_parts import OF_A_CALL, common_facts, facts_part
from public_models import FOLDER, GIB, MODELS
from redraft.errors import UserError
from redraft.interruption import Terminated, heed_signals
from redraft.storage import write_json

Options = Mapping[str, Any]
"""What figures depend on, by name of the option: the model and the sizes."""


def parser_of(title: str, name: str, model: str, systems: list[str]) -> argparse.ArgumentParser:
    """The options of a study; those of its sizes are added by `add_sizes`."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--data", type=Path, help="folder with gsm8k/; else data come from the hub")
    parser.add_argument("--model", default=model, help="a name of public_models.py, or a folder")
    parser.add_argument("--models", type=Path, default=FOLDER, help="folder of public_models.py")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--systems", nargs="+", choices=systems, default=systems)
    parser.add_argument("--out", type=Path, default=Path(f"runs/{name}"))
    known = Path(__file__).parent / f"results/{name}.json"
    parser.add_argument("--known", type=Path, default=known, help="figures of finished systems")
    parser.add_argument("--page", type=Path, default=Path(f"docs/results/{name}.md"))
    parser.add_argument("--page-only", action="store_true")
    return parser


def add_sizes(parser: argparse.ArgumentParser, sizes: Mapping[str, tuple[float, str]]) -> None:
    """An option for each size, with its default and what it is."""
    for name, (value, said) in sizes.items():
        said += f" ({value:g})"
        parser.add_argument(f"--{name}", type=type(value), default=value, help=said)


def sizes_of(options: argparse.Namespace, sizes: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes that were asked for."""
    return {name: getattr(options, name.replace("-", "_")) for name in sizes}


def told_of(model: str) -> str:
    """What a page calls a model."""
    return f"{model} (4-bit weights, dequantised)" if model in MODELS else model


def folder_of(name: str, models: Path) -> Path:
    """The folder of a model: of public_models.py, or any other.

    Raises:
        UserError: it is not there; says how to get it.
    """
    for place in (models / name, Path(name)):
        if place.is_dir():
            return place
    if name not in MODELS:
        raise UserError(f"{name}: neither a folder nor one of {', '.join(MODELS)}")
    size, memory = (n / GIB for n in (MODELS[name].gguf_bytes, MODELS[name].memory))
    raise UserError(
        f"{models / name} is not there; `python benchmarks/public_models.py {name} --folder "
        f"{models}` makes it (a download of {size:.1f} GiB, {memory:.0f} GiB of memory)"
    )


def read(file: Path) -> dict[str, Any]:
    """A JSON document; empty where there is none."""
    found: dict[str, Any] = json.loads(file.read_text("utf-8")) if file.exists() else {}
    return found


def machine_of(run: Path) -> dict[str, Any]:
    """What a run was made on and with."""
    environment = read(run / "environment.json")
    return {name: environment[name] for name in environment if name not in OF_A_CALL}


def shown(settings: str) -> str:
    """A configuration, as a page shows it, without the places of model and data."""
    lines = settings.splitlines()
    return "\n".join(one for one in lines if not one.startswith(("model: ", "data: ")))


def machine_part(finished: Sequence[Mapping[str, Any]]) -> str:
    """How long finished systems took, and what they were made on and with."""
    each = ", ".join(f"{one['system']} (seed {one['seed']}) {one['hours']:.1f}" for one in finished)
    total = sum(one["hours"] for one in finished)
    facts = facts_part(common_facts(one["environment"] for one in finished))
    return f"{total:.1f} hours in all, without what was killed outright: {each}.\n\n{facts}"


def settings_parts(finished: Sequence[Mapping[str, Any]]) -> list[str]:
    """The settings of each system that was trained, those of one seed."""
    settings = {one["system"]: one["settings"] for one in finished if one["settings"]}
    parts = [f"{name}:\n\n{text}" for name, text in settings.items()]
    return ["## Configuration", *parts] if parts else []


def missing(options: argparse.Namespace, made_with: Options) -> Iterator[tuple[int, str]]:
    """The seeds and systems that are asked for and whose figures are not known.

    Raises:
        UserError: the known figures were made with other options.
    """
    if options.page_only:
        return
    for seed, name in product(options.seeds, options.systems):
        if key_of(name, seed) not in known_with(options.known, made_with)["finished"]:
            yield seed, name


def key_of(system: str, seed: int) -> str:
    """What a system's figures are called."""
    return f"{system}, seed {seed}"


def keep(file: Path, made_with: Options, figures: Mapping[str, Any]) -> None:
    """Add the figures of a finished `system` and `seed` to those that are known.

    Raises:
        UserError: those were made with other options.
    """
    known = known_with(file, made_with)
    known["finished"][key_of(figures["system"], figures["seed"])] = figures
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, known)


def in_order(known: Mapping[str, Any], systems: Sequence[str]) -> list[dict[str, Any]]:
    """The figures that are known, by seed and in the order of the systems."""
    finished: list[dict[str, Any]] = list(known.get("finished", {}).values())
    return sorted(finished, key=lambda one: (one["seed"], systems.index(one["system"])))


def known_with(file: Path, made_with: Options) -> dict[str, Any]:
    """The known figures, none yet if there is no file.

    Raises:
        UserError: they were made with other options.
    """
    known = read(file) or {"made_with": dict(made_with), "finished": {}}
    for name, value in made_with.items():
        if (was := known["made_with"].get(name)) != value:
            raise UserError(
                f"{file}: its figures were made with --{name} {was}, wanted is {value}; give "
                "another --known, --page and --out"
            )
    return known


def ending_in_one_line(name: str, work: Callable[[], None]) -> None:
    """Do the work; what the user can put right ends it with one line, and a signal in order: what
    has begun can be resumed, its hours are counted, and no server is left behind."""
    heed_signals()
    try:
        work()
    except UserError as error:
        sys.exit(f"{name}: {error}")
    except KeyboardInterrupt as asked:
        print(f"{name}: interrupted; the same command goes on with it", file=sys.stderr)
        sys.exit(143 if isinstance(asked, Terminated) else 130)
