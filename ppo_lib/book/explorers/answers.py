"""One question: its answers after SFT, after PPO, and from a run without the rubber band. The start page shows them."""

from dataclasses import dataclass
from html import escape
from typing import Any

from ppo_lib.book.explorers.core import Frame, Panel, Parameter, curve, short
from ppo_lib.book.explorers.explorer import Explorer
from ppo_lib.book.explorers.scrubbing import answer_at, answers

RUNS = {0.0: "β = 0, no rubber band", 0.05: "β = 0.05, the recipe", 0.5: "β = 0.5"}
RECIPE, QUESTION, STEP = 0.05, "What is the capital of Samoa?", 30
JUDGE, GOLD = "what the judge says", "what it is worth"


def said(row: dict[str, Any]) -> str:
    """A recorded answer on one line."""
    return " ".join(str(row["response"]).split())


def frame(beta: float, step: float, question: str) -> Frame:
    """The answer that the run with this β gave at this step, what the judge says of it, and what it is worth."""
    nearest = min(RUNS, key=lambda one: abs(one - beta))
    row = answer_at(RUNS[nearest], question, step)
    begun = answer_at(RUNS[nearest], question, 0)
    return Frame(
        curves=(curve("this answer", ("the judge", "the truth"), (row["score"], row["gold"]), "bars"),),
        rows=(
            ("answer", said(row)),
            (JUDGE, short(row["score"], 3)),
            (GOLD, short(row["gold"], 3)),
            ("drift from the SFT model", f"{short(sum(row['kl']), 3)} nats"),
        ),
        sentence=f"“{said(row)}” {in_words(row, begun)}",
    )


def in_words(row: dict[str, Any], begun: dict[str, Any]) -> str:
    """Both scores of an answer against those of the SFT model's, in a sentence."""
    if said(row) == said(begun):
        return "Word for word the SFT model's answer."
    judged, true = (comparison(row[one], begun[one]) for one in ("score", "gold"))
    joined = "and" if judged == true else "but"
    return f"Next to the SFT model's answer, the judge says {judged}, {joined} in truth it is {true}."


def comparison(now: float, then: float) -> str:
    """The word for a change."""
    return "better" if now > then else "worse" if now < then else "as good"


def beta_answers() -> Explorer:
    """β, the step and the question, over recorded runs: the answer, and what two judges say of it."""
    rows = answers(RUNS[RECIPE])
    steps = tuple(sorted({int(row["iteration"]) for row in rows}))
    questions = tuple(dict.fromkeys(row["prompt"] for row in rows))
    return Explorer(
        name="beta-answers",
        title="How strong should the rubber band be?",
        parameters=(
            # Runs that were recorded: there is nothing between them, in the live form either.
            Parameter("beta", "β, strength of the rubber band", tuple(RUNS), RECIPE, listed=True),
            Parameter("step", "training steps of PPO", steps, STEP, listed=True),
            Parameter("question", "question", questions, QUESTION),
        ),
        function=frame,
        panels=(Panel("One answer, two verdicts: only the first is seen by the training.", "verdict", "score"),),
    )


@dataclass(frozen=True)
class Cards:
    """Answers side by side: for each a title, the text and its two scores."""

    question: str
    cards: tuple[tuple[str, str, str, str], ...]

    def html(self) -> str:
        """A list of cards, readable without style or script."""
        items = "".join(
            f"<li><strong>{escape(title)}</strong><q>{escape(text)}</q>"
            f"<span>{JUDGE}: {score}</span><span>{GOLD}: {gold}</span></li>"
            for title, text, score, gold in self.cards
        )
        return f'<div class="answers"><p>{escape(self.question)}</p><ul>{items}</ul></div>'


def three_answers() -> Cards:
    """The question of the start page, answered after SFT, after PPO, and by a run without the rubber band."""
    shown = (
        ("After imitation (SFT)", RECIPE, 0),
        ("After PPO", RECIPE, STEP),
        ("After PPO without its rubber band", 0.0, STEP),
    )
    rows = [(title, answer_at(RUNS[beta], QUESTION, step)) for title, beta, step in shown]
    cards = tuple((title, said(row), short(row["score"], 3), short(row["gold"], 3)) for title, row in rows)
    return Cards(QUESTION, cards)
