"""The lab: generated problems and a tiny real model, to see the whole system work on a laptop.

Nothing elsewhere knows about it: its problems are tasks and its model is a Hugging Face model like
any other. `docs/lab.md` says what the base model saw and why.
"""

from pathlib import Path


def model_path() -> Path:
    """The folder of the model that ships with the package."""
    return Path(__file__).parent / "model"
