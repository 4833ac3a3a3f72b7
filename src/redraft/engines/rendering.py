"""Chat templates, rendered in a worker process; only `grading.worker` imports this module.

A template is a program of whoever made the model. Its sandbox keeps it from files and from Python;
it does not keep it from looping without end, or from making a text that fills the memory. So it is
rendered by a process that has a limit of both, and that may be killed.
"""

import os
import sys
from importlib.metadata import version
from importlib.util import find_spec, module_from_spec
from typing import Any

os.environ["TRANSFORMERS_VERBOSITY"] = "error"
sys.modules.setdefault("torch", None)  # type: ignore[arg-type]  # not needed, and slow to import

# The package's own __init__ takes half of this process's start, and rendering needs nothing of it.
_found = find_spec("transformers")
assert _found is not None
sys.modules["transformers"] = module_from_spec(_found)
sys.modules["transformers"].__version__ = version("transformers")  # type: ignore[attr-defined]

from jinja2 import TemplateError  # noqa: E402
from transformers.utils.chat_template_utils import render_jinja_template  # noqa: E402

from redraft.grading.worker import limit_memory  # noqa: E402

MEMORY = 2**30
"""Bytes of address space of the process."""

LONGEST = 2_000_000
"""Characters that a template may add to what it is given."""

limit_memory(MEMORY)


def render(
    source: str, conversation: list[dict[str, str]], prompt: bool, variables: dict[str, Any]
) -> dict[str, str]:
    """The conversation as `text`, or why the template has `refused` it."""
    try:
        rendered: Any = render_jinja_template(
            [conversation], chat_template=source, add_generation_prompt=prompt, **variables
        )
        text = str(rendered[0][0])
    except TemplateError as error:
        return {"refused": str(error)[:500] or type(error).__name__}
    except Exception as error:
        return {"refused": f"{type(error).__name__}: {error}"[:500]}
    if len(text) > LONGEST + 4 * sum(len(message["content"]) for message in conversation):
        return {"refused": f"it adds more than {LONGEST:,} characters"}
    return {"text": text}
