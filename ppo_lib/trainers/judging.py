"""Who judges a response: a reward model, or any function of texts. One finite number per response, or a refusal."""

import math
import os
import reprlib
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ppo_lib.errors import BadInput
from ppo_lib.models.backbone import Backbone
from ppo_lib.models.reward_model import RewardModel
from ppo_lib.models.tokens import TokenBatch
from ppo_lib.models.world import ALONE, World

LARGEST = 1e12  # of a score: its square still has a gradient in float32
RewardFunction = Callable[[list[str], list[str]], list[float]]  # (prompts, responses) -> one score each


def judge(
    reward: RewardModel | RewardFunction,
    backbone: Backbone,
    prompts: list[str],
    texts: list[str],
    batch: TokenBatch,
    microbatch: int = 64,
    normalize: bool = True,
    world: World = ALONE,
    finished: Tensor | None = None,
) -> Tensor:
    """Scores ``(B,)`` of rollouts.

    A reward model on the policy's own backbone, and of its form of prompts, reads the very tokens that were sampled.
    Any other reads the text, with its own tokenizer and in its own form.

    Args:
        reward: who judges.
        backbone: the policy's.
        prompts, texts, batch: the rollouts, as text and as tokens.
        microbatch: responses per forward pass.
        normalize: a reward model's scores in units of its calibration, not raw.
        world: each judges its share.
        finished: ``(B,)`` boolean, which responses came to their end; all, if not given. One that was cut off has no
            EOS among its tokens, and gets none in the text either.

    Raises:
        ValueError: a reward function that does not return one finite number per response.
    """
    if isinstance(reward, RewardModel) and reads_tokens(reward, backbone):
        own = reward.score_batch(batch.select(world.share(range(len(batch)))), microbatch)
        scores = own.new_tensor(world.gather(own.tolist()))
    else:
        scores = ask(reward, prompts, texts, world, finished).to(backbone.device, backbone.head_dtype)
    if isinstance(reward, RewardModel) and not normalize:
        scores = scores * reward.std + reward.mean
    return scores


def watch(
    monitors: Mapping[str, RewardModel | RewardFunction],
    backbone: Backbone,
    prompts: list[str],
    texts: list[str],
    batch: TokenBatch,
    finished: Tensor,
    microbatch: int = 64,
    world: World = ALONE,
) -> dict[str, Tensor]:
    """Scores ``(B,)`` of judges that are measured and never trained on, by name: ``heldout``, ``gold``.

    Args:
        monitors: those judges; a reward model reads what :func:`judge` gives it, truncated responses without an EOS.
        backbone, prompts, texts, batch, finished, microbatch, world: as :func:`judge` takes them.

    Nothing that such a judge does ends a training: where it fails, or gives something else than one finite number per
    response, its scores are NaN, and a warning says why.
    """
    seen = {}
    for name, monitor in monitors.items():
        if isinstance(monitor, RewardModel) and reads_tokens(monitor, backbone):
            seen[name] = judge(monitor, backbone, prompts, texts, batch, microbatch, True, world, finished)
            continue
        try:
            own = own_scores(monitor, prompts, texts, world, finished if isinstance(monitor, RewardModel) else None)
            bad = next((i for i, score in enumerate(own) if not abs(score) <= LARGEST), None)
            why = None if bad is None else f"its score of response {bad} is {own[bad]}"
        except Exception as error:
            why, own = " ".join(f"{type(error).__name__}: {error}".split()), [math.nan] * len(world.share(texts))
        if why is not None:
            own = [score if abs(score) <= LARGEST else math.nan for score in own]
            warnings.warn(f"the judge {name!r}, which only watches, failed: {why}; the training goes on", stacklevel=2)
        seen[name] = torch.tensor(world.gather(own), dtype=torch.float64)
    return seen


def reads_tokens(reward: RewardModel, backbone: Backbone) -> bool:
    """Whether a reward model reads the very tokens that the policy sampled: it shares backbone and form of prompts."""
    return reward.backbone is backbone and reward.reads_as_sampled


def ask(
    function: RewardModel | RewardFunction,
    prompts: list[str],
    texts: list[str],
    world: World = ALONE,
    finished: Tensor | None = None,
) -> Tensor:
    """Scores ``(B,)`` in float64 of a judge that reads texts; each process asks about its share.

    Args:
        function: a plain one; or a reward model, which is told what is truncated.
        prompts, texts: what to judge.
        world: who shares the work.
        finished: ``(B,)`` boolean, which responses came to their end; all, if not given.

    Raises:
        ValueError: it does not return one finite number per response. What the function itself raises is left as it
            is, so that its traceback names its own file and line.
    """
    scores = torch.tensor(world.gather(own_scores(function, prompts, texts, world, finished)), dtype=torch.float64)
    usable = scores.abs() <= LARGEST  # false for NaN, too
    if not bool(usable.all()):
        row = int((~usable).nonzero()[0])
        raise BadInput(
            f"the reward of response {row} ({texts[row][:40]!r}) is {float(scores[row])}; it must be finite, and at "
            f"most {LARGEST:g} in absolute value ({place_of(function)})"
        )
    return scores


def own_scores(
    function: RewardModel | RewardFunction, prompts: list[str], texts: list[str], world: World, finished: Tensor | None
) -> list[float]:
    """What a judge says of this process's share, one number for each, finite or not; arguments and errors as above."""
    own, asked = list(world.share(texts)), list(world.share(prompts))
    if isinstance(function, RewardModel):
        ended = None if finished is None else world.share(finished.tolist())
        function = partial(function.scores, finished=ended, cut=True)
    with theirs(function, own):
        given: Any = function(asked, list(own))  # its own lists: it may do with them what it likes
        if isinstance(given, Iterator):
            given = list(given)  # a generator runs here: its errors are its own
    return read_scores(given, function, own)


@contextmanager
def theirs(function: Any, responses: list[str]) -> Iterator[None]:
    """Around code of the user's own: what it raises keeps its traceback and gets a note, and the folder stays.

    Args:
        function: what is called.
        responses: what it is called with, to be named.

    Raises:
        RuntimeError: it has called ``sys.exit``; or the run would end here without a word.
    """
    about = f"{len(responses)} responses, the first of them {responses[0][:40]!r}" if responses else "no response"
    folder = os.getcwd()
    try:
        yield
    except SystemExit as error:
        raise RuntimeError(
            f"the reward function {name_of(function)} called sys.exit({error.code!r}) ({place_of(function, error)}) on "
            f"{about}; let it return scores"
        ) from error
    except BadInput:
        raise  # of a judge of the library's own
    except KeyboardInterrupt as error:
        error.add_note(f"in the reward function {name_of(function)} ({place_of(function, error)}), asked about {about}")
        raise
    except Exception as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())
        error.add_note(
            f"the reward function {name_of(function)} ({place_of(function, error)}) raised {said} on {about}; mend it, "
            "and go on with --resume"
        )
        raise
    finally:
        os.chdir(folder)  # or relative paths of the run would mean something else from here on


def read_scores(given: Any, function: Any, responses: list[str]) -> list[float]:
    """One number per response from what a function returned.

    Raises:
        BadInput: something else; names the function, its place and what it gave.
    """
    try:
        if isinstance(given, (str, bytes, Mapping, Set)):
            raise TypeError("no list of numbers")
        answer = [number(x) for x in given]
    except (TypeError, ValueError) as error:
        what = f"{reprlib.repr(given)} of type {type(given).__name__}"
        raise BadInput(
            f"the reward function {name_of(function)} ({place_of(function)}) returned {what} for {len(responses)} "
            "responses; return a list of one number per response"
        ) from error
    if len(answer) != len(responses):
        raise BadInput(
            f"the reward function {name_of(function)} ({place_of(function)}) returned {len(answer)} scores for "
            f"{len(responses)} responses; return one for each"
        )
    return answer


def number(x: Any) -> float:
    """A number, or a tensor or array of no dimension; texts and rows of one are none."""
    if isinstance(x, (str, bytes)) or getattr(x, "ndim", 0) != 0:
        raise TypeError("no number")
    return float(x)


def name_of(function: Any) -> str:
    """``module:function``, as a configuration names it."""
    return f"{getattr(function, '__module__', '?')}:{getattr(function, '__qualname__', type(function).__name__)}"


def place_of(function: Any, error: BaseException | None = None) -> str:
    """File and line of a function; of an error within it, the innermost line of that file."""
    code = getattr(function, "__code__", None) or getattr(type(function).__dict__.get("__call__"), "__code__", None)
    if code is None:
        return f"a {type(function).__name__}"
    line = code.co_firstlineno
    for frame, at in traceback.walk_tb(error.__traceback__ if error else None):
        if frame.f_code.co_filename == code.co_filename:
            line = at
    return f"{Path(code.co_filename).name}, line {line}"
