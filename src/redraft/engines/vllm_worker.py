"""The part of the vLLM engine that runs inside vLLM: weights are taken from a folder.

vLLM finds `register` as a plugin (entry point `vllm.general_plugins`) in every process that it
starts, so the package must be installed where vLLM is. With `--weight-transfer-config
'{"backend": "redraft"}'` vLLM's own requests for weight updates are then carried out here. The
folder is in Hugging Face format, so it needs neither NCCL nor CUDA.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.reload import (
    finalize_layerwise_reload,
    initialize_layerwise_reload,
)


def register() -> None:
    """Make the back end known to this process under the name `redraft`."""
    if "redraft" not in WeightTransferEngineFactory._registry:  # vLLM may call this twice
        WeightTransferEngineFactory.register_engine("redraft", FolderTransfer)


@dataclass
class Shape(WeightTransferInitInfo):
    """The learner's model: `model` has fields of its configuration."""

    model: dict[str, Any]


@dataclass
class Push(WeightTransferUpdateInfo):
    """A folder of safetensors that this worker can read."""

    folder: str


class FolderTransfer(WeightTransferEngine[Shape, Push]):
    """Loads all weights of the model from a folder."""

    init_info_cls = Shape
    update_info_cls = Push

    def init_transfer_engine(self, init_info: Shape) -> None:
        """Compare the learner's model with the one that is served.

        Raises:
            ValueError: they differ; names each field with both values.
        """
        served = self.model_config.hf_text_config
        differ = [
            f"{name} {getattr(served, name)!r}, not {value!r}"
            for name, value in init_info.model.items()
            if value is not None and getattr(served, name, value) not in (value, None)
        ]
        if differ:
            raise ValueError(f"redraft: it serves a model with {', '.join(differ)}")

    def start_weight_update(self) -> None:
        """Expect all weights anew, in the format of a checkpoint."""
        names = (name for name, _ in self.model.named_parameters())  # tied weights once
        self._expected = {name.replace(".base_layer.", ".") for name in names}
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Load the weights; unlike the base class's, without an accelerator too."""
        self.receive_weights(self.parse_update_info(update_info))
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: Push) -> None:
        """Load the weights of a folder.

        Raises:
            ValueError: some of the model's weights are not in it. The model then has old and new
                weights, until an update succeeds.
        """
        try:
            loaded = self.model.load_weights(_tensors(Path(update_info.folder)))
            if missing := sorted(self._expected - (loaded or self._expected)):
                raise ValueError(f"redraft: {len(missing)} weights are missing, first {missing[0]}")
        except BaseException:
            self.finish_weight_update()  # or the next update would go on from here
            raise

    def finish_weight_update(self) -> None:
        """Bring the loaded weights into the form that vLLM computes with."""
        finalize_layerwise_reload(self.model, self.model_config)
        if getattr(self.model_config.hf_text_config, "tie_word_embeddings", False):
            for layer in self.model.modules():  # on a CPU it computes with a copy of the embedding,
                if isinstance(layer, ParallelLMHead):  # which vLLM (0.32) does not renew
                    layer.quant_method.process_weights_after_loading(layer)

    def shutdown(self) -> None:
        """Nothing to release."""


def _tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"redraft: {folder} holds no weights; is it on this machine too?")
    opened = [safe_open(file, "pt") for file in files]  # a file that was cut raises here
    for file in opened:
        for name in file.keys():  # noqa: SIM118
            yield name, file.get_tensor(name)
