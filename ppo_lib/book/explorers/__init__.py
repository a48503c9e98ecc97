"""Explorers: sliders on the book's formulas, in the page without a kernel and in a notebook with one.

``from ppo_lib import explorers``, then ``explorers.clip()`` as the last line of a cell. With ``BOOK_STATIC=1`` in the
environment that gives the static form of the published book, otherwise the live widget.
"""

from ppo_lib.book.explorers.answers import beta_answers, three_answers
from ppo_lib.book.explorers.baselines import baseline
from ppo_lib.book.explorers.beta_sweep import beta_runs
from ppo_lib.book.explorers.bias_variance import gae_bias_variance
from ppo_lib.book.explorers.clipping import clip
from ppo_lib.book.explorers.comparing import compare_runs
from ppo_lib.book.explorers.computer import ppo_computer
from ppo_lib.book.explorers.controllers import adaptive_beta
from ppo_lib.book.explorers.core import Curve, Frame, Panel, Parameter, Strip
from ppo_lib.book.explorers.discounting import discount
from ppo_lib.book.explorers.distances import policy_distance
from ppo_lib.book.explorers.estimation import gae
from ppo_lib.book.explorers.estimators import kl_noise
from ppo_lib.book.explorers.explorer import Explorer
from ppo_lib.book.explorers.fitting import memory_plan
from ppo_lib.book.explorers.groups import group_size
from ppo_lib.book.explorers.optima import closed_form
from ppo_lib.book.explorers.preferences import dpo_beta
from ppo_lib.book.explorers.real_ratios import clip_batch
from ppo_lib.book.explorers.score_gaps import score_gap
from ppo_lib.book.explorers.scrubbing import scrubber
from ppo_lib.book.explorers.temperatures import temperature
from ppo_lib.book.explorers.token_rewards import beta_tokens
from ppo_lib.book.explorers.totals import total_loss

# Every explorer of the book, that of the start page first, then in the order of the chapters; the tests walk this list.
ALL = (
    beta_answers,
    discount,
    temperature,
    score_gap,
    baseline,
    policy_distance,
    scrubber,
    beta_tokens,
    beta_runs,
    kl_noise,
    adaptive_beta,
    gae,
    gae_bias_variance,
    clip,
    clip_batch,
    total_loss,
    compare_runs,
    closed_form,
    group_size,
    dpo_beta,
    memory_plan,
    ppo_computer,
)

__all__ = [
    "ALL",
    "Curve",
    "Explorer",
    "Frame",
    "Panel",
    "Parameter",
    "Strip",
    *sorted(function.__name__ for function in ALL),
    "three_answers",
]
