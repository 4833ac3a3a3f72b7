"""The few numbers of a step or an evaluation that are worth watching while it goes on."""

from collections.abc import Mapping

from redraft.system import used_memory

_SHOWN = {
    "accuracy": "accuracy",
    "Δ": "delta_t1_t2",
    "reward": "reward",
    "KL": "kl",
    "held out": "held_out/accuracy",
    "tokens/s": "tokens_per_second/rollout",
}


def headline(metrics: Mapping[str, float]) -> dict[str, str]:
    """Accuracy by turn, Δ(t1,t2), KL by turn, ... of metrics by flat name, as far as there are
    any, else the loss; and the memory of this process."""
    shown: dict[str, str] = {}
    for title, name in _SHOWN.items():
        by_turn = [value for key, value in metrics.items() if key.startswith(f"{name}/turn")]
        values = by_turn or [metrics[name]] if by_turn or name in metrics else []
        if values:
            form = {"Δ": "+.3f", "tokens/s": ",.0f"}.get(title, ".3g")
            shown[title] = " ".join(format(value, form) for value in values)
    if not shown and "loss" in metrics:
        shown["loss"] = f"{metrics['loss']:.3g}"
    return {**shown, "memory": f"{used_memory() / 2**30:.1f} GiB"}
