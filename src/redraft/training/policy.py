"""The policy: the model being trained, how it is prompted and sampled, and what KL is measured to.

It knows nothing of run directories, steps or methods; `run.TrainingRun` owns one.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from peft import PeftModel

from redraft.chat.protocols import Protocol
from redraft.chat.rollout import rollout
from redraft.engines.base import ENGINES, Engine, Sampling, Watch, WeightsLostError
from redraft.engines.local import LocalEngine
from redraft.engines.template import ChatTemplate
from redraft.errors import UserError
from redraft.grading import Grader
from redraft.learning import zero
from redraft.learning.frozen import narrow_frozen
from redraft.learning.parallel import processes_of
from redraft.learning.sharding import (
    bytes_for_each,
    copy_of_trained,
    copy_trained,
    is_sharded,
    load_whole,
    shard,
    whole_copy,
    write_model,
)
from redraft.models import Dtype, check_window, is_adapter, load_model, parameter_count
from redraft.system import free_memory
from redraft.training.settings import OnPolicyConfig, TrainConfig
from redraft.types import Episode, Problem, Turn


class Policy:
    """Weights, tokenizer, chat template, engine and reference.

    Attributes:
        model: in float32 master weights, or a PEFT model whose frozen base is stored in the
            precision of training; changed by the learner. With `sharding` each process has a part
            of it, and with that or with `overlap` a copy to decode with, unless the engine has
            weights of its own.
        tokenizer: the model's.
        digest: of the weights as they were loaded.
        template: the tokenizer's chat template as appendable tokens.
        engine: generates responses; `updated` tells it of new weights.
        reference: a frozen copy that KL is measured to, or None: none, or with LoRA the policy
            itself with its adapter switched off.
        zero: stage of DeepSpeed's ZeRO that it is trained by, or None.
    """

    def __init__(self, config: TrainConfig, accelerator: Accelerator, weights: str | Path) -> None:
        """Load `weights`: the run's model, or a checkpoint of it.

        Raises:
            UserError: see `models.load_model`; or there is too little memory to train it.
        """
        self._config, self._device = config, str(accelerator.device)
        self._accelerator = accelerator
        several = accelerator.num_processes > 1
        self._sharded = config.sharding in ("fsdp2", "zero3") and several
        self.zero: zero.Stage | None = None
        if config.sharding in ("zero2", "zero3") and several:
            zero.check_installed(accelerator.device)
            self.zero = 2 if config.sharding == "zero2" else 3
        overlap = isinstance(config, OnPolicyConfig) and config.overlap
        engine = ENGINES[config.engine]
        self._copies = (self._sharded or overlap) and not engine.own_weights
        self._dtype = torch.bfloat16 if accelerator.mixed_precision == "bf16" else None
        check_window(weights, config.max_tokens)
        self._check_memory(weights)
        torch.manual_seed(config.seed)  # new LoRA adapters start at random weights
        self.model, self.tokenizer = self._load(
            weights,
            lora_rank=config.lora_rank if str(weights) == config.model else 0,
            lora_alpha=config.lora_alpha,
            lora_targets=config.lora_target_modules,
        )
        sums = [weight.detach().sum(dtype=torch.float64) for weight in self.model.parameters()]
        self.digest = blake2b(repr(torch.stack(sums).tolist()).encode(), digest_size=8).hexdigest()
        self.template = ChatTemplate(
            self.tokenizer,
            generation_config=self.model.generation_config,
            chat_template_kwargs=config.template_values,
        )
        self._decoded = self.model
        if self._copies and self._sharded:  # which computes wholly in the precision of training
            self._decoded = whole_copy(self.model, accelerator.device, self._dtype)
        self._distribute(self.model)
        if self._copies and not self._sharded:
            self._decoded = copy_of_trained(self.model)
        self._version = "start"
        self.engine: Engine = engine.open(
            self._decoded,
            self.template,
            max_rows=config.max_rows,
            dtype=None if self._copies and self._sharded else self._dtype,
            settings=config,
            processes=processes_of(accelerator),
        )
        self.reference: Any = None
        self._reference_of: str | None = None
        self._whole_reference: Any = None

    def sample(
        self,
        problems: Sequence[Problem],
        protocol: Protocol,
        grader: Grader,
        sampling: Sampling,
        *,
        samples: int = 1,
        name: str = "",
        given: Sequence[Sequence[Turn]] | None = None,
        history_turns: int | None = None,
        watch: Watch | None = None,
        ahead: bool = False,
    ) -> list[Episode]:
        """Episodes of the policy with its weights as they are; see `rollout`.

        Where the engine got other weights meanwhile it is given these again and the call repeated,
        but not `ahead`, when the learner is changing them, and not of several processes, which
        would have to do so together.

        Raises:
            UserError: see `Engine.generate`.
            WeightsLostError: the engine got other weights, and the call is not repeated or was.
        """
        if ahead and self._accelerator.device.type == "cuda":
            torch.cuda.set_device(self._accelerator.device)  # a thread begins with the first one
        sample = partial(
            rollout,
            problems,
            protocol,
            self.engine,
            grader,
            sampling,
            samples=samples,
            policy=name,
            given=given,
            history_turns=history_turns,
            watch=watch,
        )
        try:
            return sample()
        except WeightsLostError:
            if ahead or self._accelerator.num_processes > 1:
                raise
            self.engine.sync_weights(self._version)
            return sample()

    def sample_reference(
        self,
        problems: Sequence[Problem],
        protocol: Protocol,
        grader: Grader,
        sampling: Sampling,
        samples: int,
    ) -> list[Episode]:
        """Episodes of the reference, or with LoRA of the policy without its adapter.

        Raises:
            UserError: that is the policy, and this process has only its part of it.
        """
        model = self._decoded if self.reference is None else self._decoded_reference()
        if is_sharded(model):
            raise UserError(
                "with --sharding, LoRA and a serving engine no process can decode without the "
                "adapter; leave --offline-share out, or take --engine local"
            )
        off = model.disable_adapter() if isinstance(model, PeftModel) else nullcontext()
        with off:
            dtype = None if self._sharded else self._dtype  # whose copies are in it already
            engine = LocalEngine(model, self.template, max_rows=self._config.max_rows, dtype=dtype)
            return rollout(problems, protocol, engine, grader, sampling, samples=samples)

    def updated(self, version: str) -> None:
        """Tell the engine that the weights have changed; `version` names them. All processes must
        call this."""
        if self._decoded is not self.model:
            copy_trained(self.model, self._decoded)
        self._version = version
        self.engine.sync_weights(version)

    def anchor(self, weights: str | Path | None) -> None:
        """Measure KL to these weights from now on: a folder, or None for the start of the run.

        With new LoRA adapters the start is the policy without them and takes no memory. A frozen
        copy is computed as the policy is: another precision or another attention would show as a
        KL between equal weights, and be trained on. Its matrices are stored in the precision that
        they are multiplied in.
        """
        start = weights is None
        if start and isinstance(self.model, PeftModel) and not is_adapter(self._config.model):
            self.reference, self._reference_of, self._whole_reference = None, None, None
            return
        name = self._config.model if weights is None else str(weights)
        if self._reference_of != name:
            self.reference = self._whole_reference = None  # freed before the next is loaded
            self._check_memory(name, frozen=True)
            frozen, _ = self._load(name)
            self._distribute(frozen.requires_grad_(False))
            self.reference, self._reference_of = frozen, name

    def take_weights(self, weights: str | Path) -> None:
        """Give the policy the weights of another copy of its model, in place; LoRA adapters that
        the copy does not have begin anew, as the run's seed has them."""
        config = self._config
        torch.manual_seed(config.seed)
        other, _ = self._load(
            weights,
            lora_rank=0 if is_adapter(weights) else config.lora_rank,
            lora_alpha=config.lora_alpha,
            lora_targets=config.lora_target_modules,
        )
        load_whole(self.model, other.state_dict())

    def save(self, folder: Path) -> None:
        """Write model and tokenizer in Hugging Face format, from the main process. All processes
        must call this."""
        write_model(self.model, folder, main=self._accelerator.is_main_process)
        if self._accelerator.is_main_process:
            self.tokenizer.save_pretrained(folder)

    def _load(self, weights: str | Path, **lora: Any) -> tuple[Any, Any]:
        """A model to train or to measure KL to, with its tokenizer: in main memory if it is going
        to be sharded, as it may not fit on one device."""
        place = "cpu" if self._sharded else self._device
        model, tokenizer = load_model(weights, training=True, device=place, **lora)
        if self._sharded and self._accelerator.device.type != "cpu":
            model.set_attn_implementation("sdpa")  # that of the device where it will be
        return model, tokenizer

    def _distribute(self, model: Any) -> None:
        """Store a model's frozen weights in the precision of training, and share it out."""
        if self._sharded and self.zero is None:
            shard(model, self._accelerator.device, self._dtype)
        else:
            narrow_frozen(model, self._dtype)
        if self.zero == 3:
            zero.partition(model, self._accelerator.device)

    def _decoded_reference(self) -> Any:
        """The reference to decode with: a copy of its own where it is sharded."""
        if not self._sharded:
            return self.reference
        if self._whole_reference is None:
            assert self._reference_of is not None
            dtype: Dtype = "float32" if self._dtype is None else "bfloat16"
            self._whole_reference, _ = load_model(
                self._reference_of, dtype=dtype, device=self._device
            )
        return self._whole_reference

    def _check_memory(self, weights: str | Path, *, frozen: bool = False) -> None:
        """Refuse, before they are loaded, weights that free memory does not hold.

        Weights take 4 bytes each, and those that are trained 12 more for gradients and the
        optimiser's moments; of sharded ones each process has its part and a whole copy to decode
        with. What activations take the learner knows at its first step.

        Raises:
            UserError: too little memory; says what would fit.
        """
        count = parameter_count(weights)
        adapters = self._config.lora_rank > 0 or is_adapter(weights)
        if count is None:
            return
        itself, beside = bytes_for_each(self._config.sharding, self._accelerator.num_processes)
        each = itself if frozen or adapters else itself + beside
        if self._copies and not frozen:
            if self._sharded:
                each += 4 if self._dtype is None else self._dtype.itemsize
            elif not adapters:  # what is frozen is not copied
                each += 4
        needed = count * each
        free = free_memory(torch.device(self._device))
        if needed <= free:
            return
        use = "for the reference, which KL is measured to" if frozen else "to be trained"
        remedy = "choose a smaller model"
        if self._accelerator.num_processes > 1 and not self._sharded:
            remedy = f"share it out (--sharding fsdp2), or {remedy}"
        if not adapters and 4 * count <= free:
            remedy = f"train adapters (--lora-rank 16, about {4 * count / 1e9:.1f} GB), or {remedy}"
        raise UserError(
            f"--model {weights}: its {count / 1e6:,.0f} million weights need {needed / 1e9:.1f} GB "
            f"{use}, and {free / 1e9:.1f} GB of memory are free; {remedy}"
        )
