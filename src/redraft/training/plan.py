"""What a training run will take, said before time is spent: `redraft train METHOD ... --plan`.

Memory comes from the model's configuration alone, so that a run on many large devices can be
planned on a laptop: weights, gradients and AdamW's moments are counted, and what a row keeps for
its backward pass is measured on the same architecture with one layer and with two. Time comes from
a short measurement: the run's first step on a few problems, which leaves nothing behind.
"""

import copy
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from redraft.config import flag
from redraft.engines.base import ENGINES
from redraft.engines.endpoints import is_endpoint
from redraft.engines.template import ChatTemplate
from redraft.errors import UserError
from redraft.learning.config import LearnerConfig
from redraft.learning.frozen import narrow_frozen
from redraft.learning.imitation import Example
from redraft.learning.logprobs import CHUNK_ELEMENTS, TokenScorer
from redraft.learning.memory import LOGIT_BYTES, Footprint, choose, measure, most_tokens
from redraft.learning.sharding import bytes_for_each
from redraft.models import load_tokenizer, model_config, prepare_training, torch_device
from redraft.progress import Longer, Phase, Silent
from redraft.storage import read_jsonl
from redraft.system import free_memory, has_bf16
from redraft.training.launch import RUNS, TRAIN
from redraft.training.method import Method
from redraft.training.settings import OnPolicyConfig, SupervisedConfig, TrainConfig
from redraft.training.supervised import SupervisedRun

PROBLEMS = 16
"""How many problems the measured step has."""
SLOW_PROBLEMS = 4
"""The same of a model that takes minutes for more: of over 50 million weights, on a CPU."""
_VOCABULARY = 256
"""Of the models that are measured; logits are counted."""
_MICRO_BATCH = "a micro-batch"


@dataclass(frozen=True)
class DeviceMemory:
    """What one device holds, in bytes, by what it is for.

    Attributes:
        parameters: of the model.
        trained: how many of them are trained.
        parts: bytes by name.
        problem: why it does not fit, with what would; None where it does.
    """

    parameters: int
    trained: int
    parts: dict[str, float]
    problem: str | None = None

    @property
    def total(self) -> float:
        """Bytes of all parts."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class Pace:
    """What a few problems took, in seconds, and what that makes for a step of the run.

    Attributes:
        parts: seconds of a whole step (or of one iteration's collecting) by part.
        tokens: sampled, and learned from, in a step.
        peak: bytes that the process held at most.
        measured: on how many problems.
        collecting: seconds for each problem of an iteration, before it has any steps.
    """

    parts: dict[str, float]
    tokens: dict[str, float]
    peak: int
    measured: int
    collecting: float | None = None


@dataclass(frozen=True)
class Plan:
    """A run's memory for each device and, where it could be measured, its time."""

    method: str
    model: str
    processes: int
    longest: int
    free: int
    memory: DeviceMemory
    pace: Pace | None = None
    steps: int | None = None
    notes: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """What to print."""
        memory, share = self.memory, f" each of {self.processes} devices" * (self.processes > 1)
        yield (
            f"{self.method}, {self.model}: {_count(memory.parameters)} weights, "
            f"{_count(memory.trained)} trained; rows of up to {self.longest:,} tokens"
        )
        parts = ", ".join(f"{name} {size / 1e9:.2f}" for name, size in memory.parts.items())
        yield f"memory{share}: {memory.total / 1e9:.1f} GB = {parts}; {self.free / 1e9:.1f} GB free"
        if memory.problem is not None:
            yield f"does not fit: {memory.problem}"
        if self.pace is not None:
            pace = self.pace
            told = ", ".join(f"{name} {count:,.0f}" for name, count in pace.tokens.items())
            yield f"tokens a step: {told}"
            if pace.collecting is not None:
                yield f"collecting: about {pace.collecting:,.1f} seconds a problem"
            took = " + ".join(f"{name} {spent:,.1f}" for name, spent in pace.parts.items())
            total = sum(pace.parts.values())
            yield f"seconds a step: about {total:,.1f} = {took} (from {pace.measured} problems)"
            if self.steps is not None:
                yield f"{self.steps} steps: about {_hours(total * self.steps)}"
            yield f"peak of the measured step: {pace.peak / 1e9:.1f} GB"
        yield from self.notes

    def as_json(self) -> dict[str, Any]:
        """The same as values."""
        memory = {
            "parameters": self.memory.parameters,
            "trained": self.memory.trained,
            "bytes": self.memory.parts,
            "problem": self.memory.problem,
        }
        told: dict[str, Any] = {
            "method": self.method,
            "model": self.model,
            "processes": self.processes,
            "longest_row": self.longest,
            "free_bytes": self.free,
            "memory": memory,
            "notes": self.notes,
        }
        if self.pace is not None:
            told["tokens_per_step"] = self.pace.tokens
            told["seconds_per_step"] = self.pace.parts
            told["peak_bytes"] = self.pace.peak
            told["collecting_seconds_per_problem"] = self.pace.collecting
            told["steps"] = self.steps
        return told


def plan_training(method: Method, config: TrainConfig, processes: int = 1) -> Plan:
    """What a run will take on each of so many devices; with one process, also how long.

    Raises:
        UserError: anything in the configuration, the model or the data that cannot work.
    """
    device = torch_device(config.device)
    bf16 = config.precision == "bfloat16" or (config.precision == "auto" and has_bf16(device))
    shape, longest = model_config(config.model), longest_row(config)
    free = free_memory(device)
    memory = memory_of(shape, config, device, longest, free, processes=processes, bf16=bf16)
    plan = Plan(method.name, config.model, processes, longest, free, memory)
    asked = [getattr(config, "teacher", None) or "", *getattr(config, "source_names", ())]
    if processes > 1:
        note = "no time: it is measured on one process, without torchrun and --processes"
        return replace(plan, notes=[note])
    if memory.problem is not None:
        return plan
    if any(map(is_endpoint, asked)):
        return replace(plan, notes=["no time: the run asks an endpoint, which may cost money"])
    slow = device.type == "cpu" and memory.parameters > 50_000_000
    pace, steps = _pace(method, config, SLOW_PROBLEMS if slow else PROBLEMS)
    notes = []
    if isinstance(config, OnPolicyConfig) and config.overlap:
        others = sum(spent for part, spent in pace.parts.items() if part != "rollout")
        longer = max(pace.parts["rollout"], others)
        notes = [
            f"with overlap, by a server on devices of its own: about {longer:,.1f} seconds a step"
            if ENGINES[config.engine].own_weights
            else "overlap is not in the time: sampling and learning have the same device"
        ]
    return replace(plan, pace=pace, steps=steps, notes=notes)


def longest_row(config: TrainConfig) -> int:
    """Tokens of the longest row that is learned from, at most: the longest opening of a problem and
    as many responses of the greatest length as an episode has."""
    template = ChatTemplate(
        load_tokenizer(config.model), chat_template_kwargs=config.template_values
    )
    prompts, responses = config.open_prompts(), config.responses
    problems = config.open_task().load("train", config.limit, config.seed).problems
    opening = max(problems, key=lambda problem: len(problem.question), default=None)
    if opening is None:
        raise UserError(f"{flag('task')} {config.task}: no problem is left to train on")
    messages = [message.model_dump() for message in prompts.opening(opening)]
    return len(template.start(messages)) + responses * config.max_tokens


def memory_of(
    shape: Any,
    config: TrainConfig,
    device: torch.device,
    longest: int,
    free: int,
    *,
    processes: int = 1,
    bf16: bool = False,
) -> DeviceMemory:
    """What each device holds in a step of a run.

    Args:
        shape: configuration of the transformers model.
        config: of the run.
        device: where such a device's micro-batches are measured.
        longest: tokens of the longest row.
        free: bytes that a device has.
        processes: how many devices there are.
        bf16: whether they compute in bfloat16.
    """
    with torch.device("meta"):
        whole = _trained_as(config, AutoModelForCausalLM.from_config(shape), torch.device("meta"))
    counts = [(weight.numel(), weight.requires_grad) for weight in whole.parameters()]
    trained = sum(count for count, learns in counts if learns)
    frozen = sum(count for count, learns in counts if not learns)
    each, beside = bytes_for_each(config.sharding, processes)
    shares = processes if each < 4 else 1
    width = 2 if bf16 else 4
    parts: dict[str, float] = {"weights": each * trained + width * frozen / shares}
    parts["gradients and AdamW"] = beside * trained
    if isinstance(config, OnPolicyConfig) and config.lora_rank == 0:
        parts["reference"] = width * trained / shares
    overlap = isinstance(config, OnPolicyConfig) and config.overlap
    # One process shares frozen weights, which are narrow already, with its copy.
    copied = width * (trained + frozen) if shares > 1 else (4 * overlap + 2 * bf16) * trained
    if copied and not ENGINES[config.engine].own_weights:
        parts["a copy to decode with"] = copied
    if config.engine == "vllm" and config.vllm.url is None:
        parts["vLLM"] = config.vllm.memory * free
    footprint = _footprint(shape, config, device, beside * trained, bf16)
    left = free - sum(parts.values()) + footprint.missing
    problem = None
    try:
        settings = LearnerConfig(
            tokens_per_microbatch=config.tokens_per_microbatch,
            gradient_checkpointing=config.gradient_checkpointing,
        )
        size = choose(footprint, left, longest, settings, most_tokens(device, bf16=bf16))
        tokens, checkpointing = max(size.tokens, longest), size.checkpointing
    except UserError as error:
        problem, tokens, checkpointing = str(error), longest, True
    kept = tokens * footprint.of_token(longest, checkpointing)
    how = f"{_MICRO_BATCH} of {tokens:,} tokens" + ", recomputed" * checkpointing
    parts[how] = footprint.fixed + kept
    return DeviceMemory(trained + frozen, trained, parts, problem)


def _footprint(
    shape: Any, config: TrainConfig, device: torch.device, missing: float, bf16: bool
) -> Footprint:
    """That of the whole model, from those of its first layer and its first two."""
    most = most_tokens(device, bf16=bf16)
    dtype = torch.bfloat16 if bf16 else None
    found = []
    for layers in (1, 2):
        model = AutoModelForCausalLM.from_config(_shortened(shape, layers)).to(device)
        model = _trained_as(config, model, device)
        narrow_frozen(model, dtype)
        scorer = TokenScorer(model, 1.0, config.logit_chunk)
        with torch.autocast(device.type, dtype, enabled=bf16):
            found.append(measure(scorer, missing, device, most))
    one, two = found
    text = shape.get_text_config()
    more = text.num_hidden_layers - 1
    chunk = min(config.logit_chunk or max(1, CHUNK_ELEMENTS // text.vocab_size), most)
    least = min(CHUNK_ELEMENTS // _VOCABULARY, most) if config.logit_chunk is None else chunk
    return replace(
        one,
        fixed=one.fixed + LOGIT_BYTES * (chunk * text.vocab_size - least * _VOCABULARY),
        linear=one.linear + more * (two.linear - one.linear),
        square=one.square + more * (two.square - one.square),
        inputs=4.0 * text.hidden_size * text.num_hidden_layers,
        layers=text.num_hidden_layers,
    )


def _shortened(shape: Any, layers: int) -> Any:
    """The same configuration with so many layers and a small vocabulary."""
    small = copy.deepcopy(shape)
    text = small.get_text_config()
    text.num_hidden_layers, text.vocab_size = layers, _VOCABULARY
    text.pad_token_id = text.bos_token_id = text.eos_token_id = None
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:layers]
    return small


def _trained_as(config: TrainConfig, model: Any, device: torch.device) -> Any:
    """A model with the adapters that the run would train."""
    return prepare_training(
        model, device, config.lora_rank, config.lora_alpha, config.lora_target_modules
    )


class _EnoughError(Exception):
    """The first step is done."""


@dataclass
class _FirstStep(Silent):
    """Ends a run after its first step, and keeps what it took until then."""

    run: Any = None
    began: float = field(default_factory=time.monotonic)
    phases: list[tuple[str, int | None]] = field(default_factory=list)
    collected: float = 0.0

    @contextmanager
    def phase(
        self,
        name: str,
        total: int | None = None,
        max_tokens: int | None = None,
        longer: Longer | None = None,
    ) -> Iterator[Phase]:
        """Keeps names and lengths."""
        self.phases.append((name, total))
        yield self

    def advance(self, n: int = 1, **metrics: float | str) -> None:
        """Raises once there was a step."""
        if self.run is None or self.run.step == 0:
            self.collected = time.monotonic() - self.began
        else:
            raise _EnoughError


def _pace(method: Method, config: TrainConfig, problems: int) -> tuple[Pace, int | None]:
    """The time of a step, from one with so many problems at most; and how many steps there are,
    where that is known before anything is collected."""
    few: dict[str, Any] = {"checkpoint_every": 10**9, "evaluate_every": 0, "track": None}
    if isinstance(config, OnPolicyConfig):
        whole, problems = config.problems_per_step, min(problems, config.problems_per_step)
        few |= {"problems_per_step": problems, "keep_going": True, "overlap": False}
    else:
        assert isinstance(config, SupervisedConfig)
        whole = config.batch_size
        few |= {"problems_per_iteration": problems, "collect_at_once": problems}
    existing = next(folder for folder in config.out.parents if folder.exists())
    with tempfile.TemporaryDirectory(prefix=".plan-", dir=existing) as folder:
        small = config.model_copy(update={**few, "out": Path(folder) / "run"})
        progress = _FirstStep()
        run = RUNS[method.run].create(small, TRAIN + method.name, progress)
        progress.run, progress.began = run, time.monotonic()
        with suppress(_EnoughError):
            method.train(run)
        [line, *_] = run.directory.metrics()
        learned = whole
        if isinstance(run, SupervisedRun):
            learned = len(read_jsonl(run.folder() / "examples.jsonl", Example))
    seconds = {
        name.removeprefix("seconds/"): spent
        for name, spent in line.items()
        if name.startswith("seconds/")
    }
    tokens = {"learned from": float(line["tokens"])}
    collecting, total = None, None
    if isinstance(config, OnPolicyConfig):
        scale = whole / problems
        tokens["sampled"] = line["seconds/rollout"] * line["tokens_per_second/rollout"]
        total = next(count for name, count in progress.phases if name == "training")
    else:
        scale, collecting = whole / min(whole, learned), progress.collected / problems
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if torch.cuda.is_initialized():
        peak = torch.cuda.max_memory_allocated()
    pace = Pace(
        {name: spent * scale for name, spent in seconds.items()},
        {name: count * scale for name, count in tokens.items()},
        peak,
        problems,
        collecting,
    )
    return pace, total


def _count(number: int) -> str:
    return f"{number / 1e6:,.1f} million" if number >= 1e6 else f"{number:,}"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds >= 5400 else f"{seconds / 60:.0f} minutes"
