"""The command line: thin commands over the library, each imported only when it is called.

`main` is the one place where exceptions become lines and exit codes: a user's mistake is one line
and 2, Ctrl-C 130, SIGTERM 143, a closed pipe silence.
"""

import difflib
import errno
import os
import sys
import warnings
from collections.abc import Sequence
from typing import TextIO

from cyclopts import (
    CoercionError,
    CycloptsError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)

from redraft.cli.app import redraft_app
from redraft.errors import UserError, printable
from redraft.interruption import Terminated, heed_signals

USER_ERROR = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells have it
TERMINATED = 143  # 128 + SIGTERM
BROKEN_PIPE = 141  # 128 + SIGPIPE

# What the machine or the user's choice of path is to blame for, whichever call meets it.
_PATH_ERRORS = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EXDEV,  # a folder of a run that is a mount of its own
    errno.ENOSPC,
    errno.EDQUOT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `redraft` with these arguments (the process's own by default) and exit."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # between libraries, no user's business
        warnings.showwarning = _show_warning
        heed_signals()
        sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    try:
        code = redraft_app()(
            arguments, print_error=False, exit_on_error=False, result_action="return_value"
        )
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except UserError as error:
        return _fail(str(error))
    except UnknownCommandError as error:
        return _fail(_unknown_command(error))
    except UnknownOptionError as error:
        return _fail(_unknown_flag(error))
    except UnusedCliTokensError as error:
        return _fail(f"unexpected argument {(error.unused_tokens or [''])[0]!r}; see --help")
    except CoercionError as error:
        flag = error.argument.name if error.argument else ""
        if "http." in flag:  # what was given for an endpoint may be a key
            return _fail(f"{flag}: no such value is taken (it is not shown); see --help")
        return _fail(" ".join(str(error).split()))
    except CycloptsError as error:
        return _fail(" ".join(str(error).split()))
    except KeyboardInterrupt as interruption:
        remedy = f"; {interruption}" if interruption.args else ""
        ended = isinstance(interruption, Terminated)
        word = "ended by SIGTERM" if ended else "interrupted"
        print(f"redraft: {word}{remedy}", file=sys.stderr)
        return TERMINATED if ended else INTERRUPTED
    except BrokenPipeError:
        # Python flushes stdout once more at exit; that must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except OSError as error:
        if error.errno not in _PATH_ERRORS:
            raise
        return _fail(f"{error.filename or 'cannot write'}: {error.strerror}")


def _fail(line: str) -> int:
    print(f"redraft: error: {printable(line)}", file=sys.stderr)
    return USER_ERROR


def _unknown_command(error: UnknownCommandError) -> str:
    """Cyclopts' own text would import every command to see which ones to name."""
    parent = error.app or redraft_app()
    word = error.unused_tokens[0] if error.unused_tokens else ""
    commands = [name for name in parent if not name.startswith("-")]
    close = difflib.get_close_matches(word, commands, n=1)
    remedy = f"did you mean {close[0]}?" if close else f"there is: {', '.join(commands)}"
    return f"unknown command {word!r} of {' '.join(parent.name)}; {remedy}"


_MEANT = {
    "--temperature": "temp",
    "--learning-rate": "lr",
    "--max-tokens": "max-new-tokens max-length max-completion-length max-response-length",
    "--samples": "n k num-samples num-generations num-return-sequences rollouts",
    "--problems-per-step": "batch-size bs train-batch-size per-device-train-batch-size",
    "--batch-size": "bs train-batch-size per-device-train-batch-size",
    "--stage-one-steps": "steps max-steps num-steps total-steps",
    "--stage-two-steps": "steps max-steps num-steps total-steps",
    "--steps": "max-steps num-steps total-steps",
    "--epochs": "steps max-steps num-train-epochs",
    "--attempts": "turns rounds",
    "--turns": "attempts rounds",
    "--limit": "n-problems num-problems num-examples max-samples subset",
    "--task": "dataset dataset-name benchmark",
    "--data": "dataset file path input",
    "--model": "model-name model-path model-name-or-path checkpoint pretrained base-model",
    "--out": "output output-dir output-path save-dir",
    "--prompts": "prompt system-prompt prompt-template",
    "--precision": "bf16 fp16 dtype torch-dtype",
    "--dtype": "bf16 fp16 precision torch-dtype",
    "--evaluate-every": "eval-every eval-steps eval-interval",
    "--checkpoint-every": "save-every save-steps save-interval",
    "--track": "report-to wandb tensorboard log-with logger",
    "--reward": "reward-function reward-func reward-funcs",
    "--lora-rank": "lora lora-r rank",
    "--beta1": "beta kl kl-coef",
    "--beta": "kl kl-coef",
}
"""Flags, and what other tools call what they mean."""


def _unknown_flag(error: UnknownOptionError) -> str:
    """Flags of the same meaning, else those that are spelled alike."""
    given = (error.token.keyword or error.token.value).partition("=")[0]
    if given == "--reward":
        return (
            "--reward belongs to reinforcement learning, train score and train oracle-retry; "
            "elsewhere the grade's score counts: for one of your own, --task jsonl --grader "
            "module:function"
        )
    flags = [name for one in error.argument_collection for name in one.names]
    close = [name for name in flags if given.lstrip("-") in _MEANT.get(name, "").split()]
    close = close or difflib.get_close_matches(given, flags, n=1, cutoff=0.7)
    remedy = f"did you mean {' or '.join(close)}?" if close else "see --help"
    return f"unknown option {given}; {remedy}"


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    print("redraft: warning:", printable(str(message)), file=sys.stderr)
