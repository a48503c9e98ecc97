"""The command line.

    python -m ppo_lib train sft|reward|ppo|grpo|dpo --config FILE|--recipe NAME --out DIR [--set KEY=VALUE] [--resume]
    python -m ppo_lib rank --recipe NAME --out DIR          answers of a model, ranked: what a reward model learns from
    python -m ppo_lib align --recipe NAME --out DIR         a recipe's stages up to PPO; then a table and an HTML report
    python -m ppo_lib sample --model DIR --prompt TEXT      let a model answer
    python -m ppo_lib export openrlhf|verl --recipe NAME    PPO's configuration in another trainer's words
    python -m ppo_lib report DIR                            curves and samples of a run as one HTML file
    python -m ppo_lib pin OWNER/NAME [--dataset]            pin a model or data set of the hub to its commit

Exit codes: 0 done; 2 bad input, told in one line; 1 a fault, with its traceback; 130 stopped by Ctrl-C, 143 by SIGTERM.
"""

import argparse
import os
import select
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from ppo_lib.models.registry import TOY

# What others define is said again here, so that --help needs no torch; a test holds them together.
STAGES, TARGETS = ("sft", "reward", "ppo", "grpo", "dpo"), ("openrlhf", "verl")
TRACKERS = ("tensorboard", "wandb", "trackio")
RECIPES = sorted(path.stem for path in (Path(__file__).parents[1] / "recipes").glob("*.yaml"))


class Parser(argparse.ArgumentParser):
    """A parser that refuses in one line."""

    def error(self, message: str) -> NoReturn:
        """Print the message and where to find help; exit with 2."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def positive(text: str) -> int:
    """A whole number of 1 or more, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} must be 1 or more")
    return number


def is_text(argument: str) -> bool:
    """Whether an argument can be written down: Python passes bytes that are not UTF-8 as halves of letters."""
    try:
        argument.encode()
    except UnicodeEncodeError:
        return False
    return True


def make_parser() -> Parser:
    """Commands and options."""
    parser = Parser(prog="ppo_lib", description="PPO for language models.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="train|rank|align|sample|report|export|pin")
    configured = Parser(add_help=False)
    source = configured.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--config", metavar="FILE", help="a YAML file with the stage's keys, or with a section per stage"
    )
    source.add_argument(
        "--recipe", metavar="NAME", help=f"a configuration that comes with the package: {', '.join(RECIPES)}"
    )
    configured.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a key; may be repeated"
    )
    training = Parser(add_help=False, parents=[configured])
    training.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the run")
    training.add_argument("--resume", action="store_true", help="go on with the run that the folder holds")
    training.add_argument("--log", choices=TRACKERS, help="send the metrics there as well")
    training.add_argument(
        "--checkpoint-every",
        type=positive,
        metavar="N",
        help="iterations between checkpoints; default: about 20 seconds",
    )
    training.add_argument("--quiet", action="store_true", help="no progress bar")

    train = commands.add_parser("train", parents=[training], help="train one stage")
    train.add_argument("stage", choices=STAGES)
    train.set_defaults(run="run_train")
    rank = commands.add_parser("rank", parents=[training], help="let a model answer, and rank the answers")
    rank.set_defaults(run="run_rank")
    align = commands.add_parser("align", parents=[training], help="the stages of a recipe, one after the other")
    align.set_defaults(run="run_align")
    sample = commands.add_parser("sample", help="let a model answer")
    sample.add_argument("--model", required=True, metavar="DIR", help=f"a run folder, a model folder, or {TOY}:sft")
    sample.add_argument("--prompt", action="append", required=True, metavar="TEXT", help="may be repeated")
    sample.add_argument("--max-new-tokens", type=int, default=64, metavar="N", help="longest answer (64)")
    sample.add_argument("--temperature", type=float, default=0.0, help="0, the default, takes the likeliest token")
    sample.add_argument("--seed", type=int, default=0, help="of the sampling")
    sample.add_argument("--device", default="auto", help="auto, cpu or cuda")
    sample.add_argument(
        "--chat-template",
        action=argparse.BooleanOptionalAction,
        help="put prompts into the tokenizer's chat template (default: as the run that made the model did)",
    )
    sample.set_defaults(run="run_sample")
    report = commands.add_parser("report", help="curves and samples of a run as one HTML file")
    report.add_argument("folder", type=Path, metavar="DIR")
    report.set_defaults(run="run_report")
    export = commands.add_parser("export", parents=[configured], help="PPO's configuration for another trainer")
    export.add_argument("target", choices=TARGETS)
    export.set_defaults(run="run_export")
    pin = commands.add_parser("pin", help="the commit of a model or data set of the hub, to be written behind its name")
    pin.add_argument("name", metavar="OWNER/NAME")
    pin.add_argument("--dataset", action="store_true", help="it is a data set")
    pin.set_defaults(run="run_pin")
    return parser


def reader_is_gone() -> bool:
    """Whether nobody reads the output any more, as with ``| head``."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), select.POLLOUT)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    for argument in sys.argv[1:] if arguments is None else arguments:
        if not is_text(argument):
            parser.error(
                f"{argument!r} holds what is no text (half a letter, or bytes that are not UTF-8); write it anew"
            )
    import torch  # from here on it is worth the wait

    from ppo_lib.errors import BadInput, Diverged
    from ppo_lib.parallel.processes import ProcessLost, missing, of_an_exchange
    from ppo_lib.run import commands
    from ppo_lib.run.exhaustion import advice
    from ppo_lib.run.fitting import Interrupted

    rank = os.environ.get("RANK", "0")
    name = "ppo_lib" if rank == "0" else f"ppo_lib (process {rank})"
    try:
        getattr(commands, options.run)(options)
    except Interrupted as stop:
        print(f"{name}: {stop}", file=sys.stderr)
        return 128 + stop.signal
    except KeyboardInterrupt as error:
        print(f"{name}: stopped{told(error)}; a run can go on with --resume", file=sys.stderr)
        return 128 + signal.SIGINT
    except (ProcessLost, Diverged) as error:
        print(f"{name}: {error}", file=sys.stderr, flush=True)
        return 1
    except torch.OutOfMemoryError as error:
        first = str(error).splitlines()[0]
        print(f"{name}: out of memory ({first}) {advice(error)}", file=sys.stderr)
        return 1
    except RuntimeError as error:
        if not of_an_exchange(error):
            raise
        print(f"{name}: {missing(error)}", file=sys.stderr, flush=True)
        return 1
    except BrokenPipeError:
        if not reader_is_gone():  # another pipe broke, such as one of a user's reward function
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except BadInput as error:  # no other ValueError or OSError: those come from faults, and from users' own functions
        print(f"{name}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except Exception as error:
        if notes := told(error):  # of a user's own function: the sentence, and then its traceback
            error.__notes__ = []
            print(f"{name}: {notes.strip()}", file=sys.stderr, flush=True)
        raise
    return 0


def told(error: BaseException) -> str:
    """What the library has noted on an error that passed through it: where in a user's own function it arose."""
    return "".join(f" {note}" for note in getattr(error, "__notes__", ()))


if __name__ == "__main__":
    sys.exit(main())
