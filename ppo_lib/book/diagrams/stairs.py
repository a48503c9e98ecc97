"""The critic's forecasts as a staircase: the surprises are its steps, an advantage is a fading sum of them."""

from collections.abc import Sequence

import torch

from ppo_lib.book.diagrams.canvas import CRITIC, JUDGE, NORMAL, NOTE, PLAIN, POLICY, Drawing
from ppo_lib.book.diagrams.icons import card, crystal_ball, robot
from ppo_lib.book.diagrams.letters import width_of
from ppo_lib.book.drawing import number, rounded
from ppo_lib.errors import BadInput
from ppo_lib.formulas.advantages import gae, td_errors

# An answer to "48 clips in April, half as many in May: how many in all?", and forecasts such as a critic might give.
TOKENS = ("To", "find", "out", ":", "48", "+", "24", "=", "72")
VALUES = (0.4, 0.4, 0.5, 0.5, 0.7, 0.4, 0.8, 0.8, 0.9)
MOST = 24  # tokens that find room
UP, DOWN = "blue", "orange"  # above and below zero, as on the token strips
LEFT, RIGHT = 38.0, 350.0


def staircase(
    tokens: Sequence[str] = TOKENS,
    values: Sequence[float] = VALUES,
    reward: float | Sequence[float] = 1.0,
    gamma: float = 1.0,
    lam: float = 0.8,
) -> Drawing:
    """The forecasts over an answer, their steps, and the advantages that the library's GAE makes of them.

    Args:
        tokens: the answer.
        values: the critic's forecast before each token, ``V(s_t)``.
        reward: of the whole answer, on its last token; or one for each token.
        gamma: discount per token.
        lam: mixing of long and short horizons.

    Raises:
        BadInput: more tokens than find room, or another number of values or rewards than of tokens.
    """
    forecasts = rounded(values)
    rewards = rounded(reward) if isinstance(reward, Sequence) else [0.0] * (len(tokens) - 1) + rounded([reward])
    if not 1 <= len(tokens) <= MOST:
        raise BadInput(f"there are {len(tokens)} tokens; a staircase shows 1 to {MOST}, so choose another answer")
    for name, given in (("values", forecasts), ("rewards", rewards)):
        if len(given) != len(tokens):
            raise BadInput(f"there are {len(tokens)} tokens and {len(given)} {name}; give one for each token")
    r, v = (torch.tensor([row], dtype=torch.float64) for row in (rewards, forecasts))
    deltas = rounded(td_errors(r, v, torch.ones_like(v), gamma)[0])
    advantages = rounded(gae(r, v, torch.ones_like(v), gamma, lam).advantages[0])

    told = "; ".join(
        f"{token.strip()}: forecast {number(f)}, step {signed(d)}, advantage {signed(a)}"
        for token, f, d, a in zip(tokens, forecasts, deltas, advantages, strict=True)
    )
    upright = any(width_of(token.strip(), 12) > (RIGHT - LEFT) / len(tokens) - 3 for token in tokens)
    head = max(34.0, 12 + max(width_of(token.strip(), 12) for token in tokens)) if upright else 34.0
    drawing = Drawing(
        "The staircase of forecasts: each token’s surprise is a step, its advantage adds up the steps that follow.",
        "Above, the critic’s forecast before each token, a staircase that ends at what the judge really gave. The "
        "step at the end of a token is its surprise, up (blue) or down (orange). In the middle, how the advantage of "
        f"the first token is made: all the steps, shrunk by {number(gamma * lam)} for each token in between. "
        f"Below, the advantages of all tokens. {told}. The reward is {number(sum(rewards))}.",
        height=head + 518,
    )
    columns = [LEFT + (RIGHT - LEFT) * i / len(tokens) for i in range(len(tokens) + 1)]
    drawing.write(10, 20, "The answer", size=NORMAL, bold=True, anchor="start")
    for i, token in enumerate(tokens):
        middle = (columns[i] + columns[i + 1]) / 2
        if upright:
            drawing.write(middle, 28 + head, token.strip(), upright=True)
        else:
            drawing.token(columns[i] + 1, 30, token.strip(), POLICY, columns[i + 1] - columns[i] - 2)
    _stairs(drawing, head + 56, columns, forecasts, rewards, deltas)
    _fading(drawing, head + 262, columns, deltas, gamma * lam, advantages[0])
    _credit(drawing, head + 396, columns, advantages)
    return drawing


def _stairs(
    drawing: Drawing,
    top: float,
    columns: Sequence[float],
    forecasts: Sequence[float],
    rewards: Sequence[float],
    deltas: Sequence[float],
) -> None:
    """The forecasts as treads, the surprises as risers, and the reward at the end; 180 units high."""
    drawing.write(10, top, "What the critic foresees", size=NORMAL, bold=True, anchor="start")
    drawing.write(350, top, f"and then: {number(rewards[-1])}", anchor="end", faint=True)
    ends = [value + delta for value, delta in zip(forecasts, deltas, strict=True)]
    low, high = min(0.0, *forecasts, *ends), max(*forecasts, *ends)
    floor, ceiling = top + 160, top + 30

    def height(value: float) -> float:
        return floor - (floor - ceiling) * (value - low) / ((high - low) or 1.0)

    for value in sorted({low, high}):
        drawing.write(LEFT - 8, height(value) + 4, number(round(value, 1)), anchor="end", faint=True)
        drawing.stroke((LEFT - 4, height(value)), (LEFT, height(value)), tone=PLAIN)
    hill = [(x, height(v)) for i, v in enumerate(forecasts) for x in (columns[i], columns[i + 1])]
    drawing.shape([(LEFT, floor + 8), *hill, (RIGHT, floor + 8)], CRITIC, tint=0.2)
    steps = fitting(deltas, columns[1] - columns[0] - 3)
    for i, (value, end, delta) in enumerate(zip(forecasts, ends, deltas, strict=True)):
        left, right = columns[i], columns[i + 1]
        drawing.stroke((left, height(value)), (right, height(value)), tone=CRITIC, width=3)
        if abs(height(end) - height(value)) > 3:
            drawing.arrow((right, height(value)), (right, height(end)), tone=UP if delta > 0 else DOWN, width=2.4)
        if steps:
            drawing.write((left + right) / 2, height(value) - 6, steps[i])


def _fading(
    drawing: Drawing, top: float, columns: Sequence[float], deltas: Sequence[float], decay: float, total: float
) -> None:
    """How the first token's advantage adds up; 115 units high."""
    title = "Â of the first token: all steps, fading"
    drawing.write(10, top, title, size=NORMAL, bold=True, anchor="start")
    weights = [decay**i for i in range(len(deltas))]
    scale, zero = 32 / (max(map(abs, deltas)) or 1.0), top + 46
    drawing.stroke((LEFT, zero), (RIGHT, zero), width=1.2)
    for i, (delta, weight) in enumerate(zip(deltas, weights, strict=True)):
        wide = columns[i + 1] - columns[i]
        for share, hollow in ((weight, False), (1.0, True)):
            tall = abs(delta) * share * scale
            if tall > 0.5:
                y = zero - tall if delta > 0 else zero
                drawing.bar(columns[i] + wide * 0.2, y, wide * 0.6, tall, UP if delta > 0 else DOWN, hollow=hollow)
    drawing.write(LEFT, top + 96, f"filled: × {number(decay)} for each token in between", anchor="start", faint=True)
    drawing.write(LEFT, top + 112, f"their sum is Â = {signed(round(total, 2))}", anchor="start", faint=True)


def _credit(drawing: Drawing, top: float, columns: Sequence[float], advantages: Sequence[float]) -> None:
    """The advantage of each token, as bars; 120 units high."""
    drawing.write(10, top + 12, "Â of every token: who gets the credit", size=NORMAL, bold=True, anchor="start")
    reach = max(max(advantages), 0.0) + max(-min(advantages), 0.0)
    scale = 62 / (reach or 1.0)
    zero = top + 42 + max(max(advantages), 0.0) * scale
    drawing.stroke((LEFT, zero), (RIGHT, zero), width=1.2)
    wide = columns[1] - columns[0]
    texts = fitting(advantages, wide - 2)
    for i, advantage in enumerate(advantages):
        tall = abs(advantage) * scale
        drawing.bar(
            columns[i] + wide * 0.2,
            zero - tall if advantage > 0 else zero,
            wide * 0.6,
            tall,
            UP if advantage > 0 else DOWN,
        )
        if texts:
            drawing.write(columns[i] + wide / 2, zero - tall - 5 if advantage > 0 else zero + tall + 14, texts[i])


def fitting(values: Sequence[float], width: float) -> list[str]:
    """The values as texts that fit into ``width``: two digits, if need be without the zero before the point, or one.

    None at all where that does not help: the numbers stand in the description too.
    """
    for tried in (
        [signed(round(value, 2)) for value in values],
        [signed(round(value, 2)).replace("0.", ".", 1).lstrip("+") for value in values],
        [signed(round(value, 1)) for value in values],
    ):
        if all(width_of(text, NOTE) <= width for text in tried):
            return tried
    return []


def signed(value: float) -> str:
    """A number with its sign, a zero without."""
    return f"+{number(value)}" if value > 0 else number(value)


def actor_critic() -> Drawing:
    """Actor and critic over one text: the one picks the next token, the other says what to expect."""
    drawing = Drawing(
        "The actor picks the next token, the critic says how it will end; their difference with reality teaches both.",
        "A loop. The text so far goes to two models. The actor (the policy, a robot) picks the next token, which is "
        "appended to the text, and round it goes until the answer is finished. The critic (a crystal ball) looks at "
        "the same text and forecasts the score. The judge scores the finished answer. Score minus forecast is the "
        "surprise, the advantage. A pleasant surprise tells the actor to do this more often, a disappointment less "
        "often; and either corrects the critic’s forecast.",
        height=468,
    )
    drawing.box(80, 10, 200, 58, "The text so far", "prompt and tokens: the state")
    actor = drawing.box(10, 128, 160, 74, "Actor", "picks the", "next token", tone=POLICY, left=46)
    robot(drawing, 36, 166, 34, "talk")
    critic = drawing.box(190, 128, 160, 74, "Critic", "foresees", "the score", tone=CRITIC, left=46)
    crystal_ball(drawing, 217, 164, 32)
    drawing.arrow((130, 68), (130, 128))
    drawing.arrow((230, 68), (230, 128))
    drawing.arrow((44, 128), (44, 39), (80, 39), tone=POLICY, width=2.2)
    drawing.write(50, 98, "append it", anchor="start", tone=POLICY)
    judge = drawing.box(10, 258, 160, 58, "Judge", "scores it all", tone=JUDGE, left=46)
    card(drawing, 36, 286, 34)
    drawing.arrow(actor.bottom, judge.top)
    drawing.write(98, 236, "finished", anchor="start", faint=True)
    surprise = drawing.box(80, 378, 200, 74, "Surprise", "score minus forecast:", "the advantage", strong=True)
    drawing.arrow((90, judge.bottom[1]), (90, 348), (140, 348), (140, surprise.y))
    drawing.write(98, 338, "what came", anchor="start", faint=True)
    drawing.arrow((250, critic.bottom[1]), (250, surprise.y))
    drawing.write(258, 288, "what was", "foreseen", anchor="start", faint=True)
    drawing.arrow(surprise.left, (4, 415), (4, 165), actor.left, tone=POLICY, dashed=True)
    drawing.arrow(surprise.right, (356, 415), (356, 165), critic.right, tone=CRITIC, dashed=True)
    drawing.write(70, 440, "do it more,", "or less", anchor="end", tone=POLICY)
    drawing.write(290, 440, "foresee", "better", anchor="start", tone=CRITIC)
    return drawing
