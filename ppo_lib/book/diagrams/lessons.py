"""What the first models learn from: the shifted labels of SFT, two answers and a verdict, a change of heads."""

import torch

from ppo_lib.book.diagrams.canvas import BAD, HEAD, JUDGE, NORMAL, PLAIN, POLICY, REFERENCE, Drawing
from ppo_lib.book.diagrams.icons import card, cross, person, robot, tick
from ppo_lib.book.drawing import number
from ppo_lib.formulas.losses import bradley_terry_loss

PROMPT, ANSWER = ("Where", "is", "Lima", "?"), ("Peru", ".", "<eos>")
FORECASTS = ((0.5, 0.9, 0.4), (0.6, 0.3, 0.8), (0.9, 0.5, 0.4), (0.4, 0.9, 0.3), (0.8, 0.3, 0.5), (0.3, 0.4, 0.9))
BETTER, WORSE = "Apia.", "Nukualofa."  # answers to "What is the capital of Samoa?"
SCORES = (1.2, -0.3)  # what the reward model says of them before this step


def sft_shift() -> Drawing:
    """Tokens above, the forecast made at each below, an arrow to the token that it has to meet."""
    tokens = (*PROMPT, *ANSWER)
    taught = range(len(PROMPT) - 1, len(tokens) - 1)
    told = "; ".join(f"at “{tokens[i]}” it must foresee “{tokens[i + 1]}”" for i in taught)
    drawing = Drawing(
        "At every token the model foresees the next one. Only the forecasts of the answer are taught.",
        f"A row of tokens, the prompt {' '.join(PROMPT)} and the answer {' '.join(ANSWER)}. Below each token stands "
        "the forecast that the model makes after reading it, and an arrow leads from the forecast up to the token one "
        f"step further right, which it has to meet. The {len(taught)} forecasts of the answer are colored, they are "
        f"taught: {told}. The forecasts inside the prompt are gray: nobody marks them.",
        height=312,
    )
    pitch, left = 49.4, 7.0
    drawing.write(left, 22, "The text", size=NORMAL, bold=True, anchor="start")
    drawing.write(354, 150, "the", "model’s", "forecast", anchor="end")
    for i, token in enumerate(tokens):
        x = left + pitch * i
        drawing.token(x, 34, token, POLICY if i >= len(PROMPT) else PLAIN, pitch - 3, strong=i >= len(PROMPT))
        if i == len(tokens) - 1:
            continue
        area = drawing.box(x, 136, pitch - 3, 50, tone=REFERENCE if i in taught else PLAIN, strong=i in taught)
        for column, share in enumerate(FORECASTS[i]):
            tone = REFERENCE if i in taught else PLAIN
            drawing.bar(x + 7.5 + 11 * column, area.bottom[1] - 7 - 34 * share, 8, 34 * share, tone)
    for i in range(len(tokens) - 1):
        low = (left + pitch * i + pitch / 2 + 8, 134.0)
        high = (left + pitch * (i + 1) + pitch / 2 - 8, 61.0)
        drawing.arrow(low, high, tone=REFERENCE if i in taught else PLAIN, width=2.2 if i in taught else 1.2)
    first, last = left + pitch * taught[0], left + pitch * taught[-1] + pitch - 3
    for begin, end, words, tone in (
        (left, first - 4, ("the prompt:", "read, not taught"), PLAIN),
        (first, last, ("the answer: taught,", "loss = −log p of the", "token at the arrow’s tip"), REFERENCE),
    ):
        drawing.stroke((begin, 196), (begin, 202), (end, 202), (end, 196), tone=tone, width=1.8)
        drawing.write((begin + end) / 2, 222, *words)
    robot(drawing, 44, 284, 34)
    drawing.write(
        74,
        282,
        "Nothing else is new: this is the loss of",
        "pretraining, on better company.",
        anchor="start",
        faint=True,
    )
    return drawing


def reward_training() -> Drawing:
    """Two answers, a person's choice, and a judge whose two scores are pushed apart."""
    chosen, rejected = (torch.tensor([score], dtype=torch.float64) for score in SCORES)
    chance = float((-bradley_terry_loss(chosen, rejected)).exp())
    gap = SCORES[0] - SCORES[1]
    drawing = Drawing(
        "The judge’s school: people say which of two answers is better, and its two scores are pushed apart.",
        "From top to bottom. The SFT model answers one question, “What is the capital of Samoa?”, twice: "
        f"“{BETTER}” and “{WORSE}” A person need not say how good they are, only which is better: the first. The "
        f"reward model reads both and gives each a score, {number(SCORES[0])} and {number(SCORES[1])}. The gap of "
        f"{number(gap)} says: the first wins with a chance of {number(round(100 * chance))} percent. Training pushes "
        "the score of the better answer up and that of the worse one down.",
        height=530,
    )
    drawing.box(60, 8, 240, 56, "SFT model", "“What is the capital of Samoa?”", tone=POLICY, left=44)
    robot(drawing, 84, 38, 30, "talk")
    better = drawing.box(20, 108, 140, 44, BETTER, tone=REFERENCE)
    worse = drawing.box(200, 108, 140, 44, WORSE, tone=BAD)
    drawing.arrow((130, 64), (90, 106))
    drawing.arrow((230, 64), (270, 106))
    drawing.write(180, 94, "answers", "twice", faint=True)
    person(drawing, 180, 204, 44)
    tick(drawing, 90, 176, 22)
    cross(drawing, 270, 176, 20)
    drawing.write(180, 246, "“The left one is better.”", bold=True)
    drawing.write(180, 263, "That is all that people have to say.", faint=True)
    judge = drawing.box(20, 300, 320, 52, "Reward model", "reads both, one after the other", tone=JUDGE, left=44)
    card(drawing, 50, 326, 34)
    for area in (better, worse):
        x = area.bottom[0] + (-50 if area is better else 50)
        drawing.arrow((x, area.bottom[1]), (x, judge.y), dashed=True)
    zero, scale = 180.0, 74.0
    line = 412.0
    drawing.stroke((14, line), (346, line), width=1.4)
    drawing.stroke((zero, line - 5), (zero, line + 5))
    drawing.write(zero, line + 20, "0")
    drawing.write(14, line + 20, "bad", anchor="start", faint=True)
    drawing.write(346, line + 20, "good", anchor="end", faint=True)
    for score, word, tone, way in ((SCORES[0], BETTER, REFERENCE, 1), (SCORES[1], WORSE, BAD, -1)):
        x = zero + scale * score
        drawing.dot(x, line, 7, tone)
        drawing.arrow((x + way * 11, line), (x + way * 46, line), tone=tone, width=3)
        drawing.write(x, line - 14, f"{word.rstrip('.')} {number(score)}", bold=True, tone=tone)
    drawing.write(180, 466, f"gap {number(gap)}: the left one wins with {number(round(100 * chance))} %", bold=True)
    drawing.write(
        180,
        486,
        "chance = σ(gap), loss = −log of it.",
        "Each step pulls the two further apart,",
        "the less, the surer the judge is.",
        faint=True,
    )
    return drawing


def brain_surgery() -> Drawing:
    """A GPT beside a reward model: the same body, another head."""
    drawing = Drawing(
        "Brain surgery: the body stays, the head that picks words comes off, a head with one number goes on.",
        "Two towers side by side. Left the language model: tokens go into the transformer’s body, every token gets a "
        "hidden state of H numbers, and a language-model head, Linear(H, V), turns each state into one number for each "
        "word of the vocabulary. Right the reward model: the same tokens, the same body, the same states. But the head "
        "is off; a scalar head, Linear(H, 1), sits on the last state alone, since it is the only one that has read "
        "everything, and gives one number, the score.",
        height=462,
    )
    for x, name, tone in ((8.0, "Language model", POLICY), (188.0, "Reward model", JUDGE)):
        middle, judging = x + 82, tone == JUDGE
        drawing.write(middle, 22, name, size=HEAD, bold=True)
        body = drawing.box(x, 272, 164, 84, "Body", "the transformer:", "the same weights", tone=PLAIN)
        for i in range(4):
            spot = x + 8 + 39 * i
            drawing.token(spot, 398, ("It", "is", "Lima", ".")[i], PLAIN, 35)
            drawing.arrow((spot + 17.5, 396), (spot + 17.5, body.bottom[1] + 1), width=1.2)
            seen = judging and i < 3
            drawing.bar(spot + 8, 214, 19, 30, PLAIN if seen else tone, faint=seen)
            drawing.stroke((spot + 17.5, body.y), (spot + 17.5, 248), width=1.2)
        if judging:
            head = drawing.box(x + 54, 128, 110, 48, "Linear(H, 1)", tone=JUDGE, strong=True)
            drawing.arrow((x + 142.5, 212), (x + 142.5, head.bottom[1] + 1), tone=JUDGE, width=2.4)
            drawing.arrow((x + 109, head.y), (x + 109, 92), tone=JUDGE, width=2.4)
            card(drawing, x + 109, 66, 44)
            drawing.write(x + 82, 62, "one", "score", bold=True, anchor="end")
            drawing.bar(x + 4, 132, 40, 40, POLICY, hollow=True)
            cross(drawing, x + 24, 152, 30)
            drawing.write(x + 24, 122, "off")
            drawing.write(x + 60, 200, "the last state", anchor="middle", faint=True)
        else:
            head = drawing.box(x, 128, 164, 48, "Linear(H, V)", tone=POLICY, strong=True)
            for i in range(4):
                spot = x + 25.5 + 39 * i
                drawing.arrow((spot, 212), (spot, head.bottom[1] + 1), tone=POLICY)
                for j, share in enumerate(((4, 9, 5), (8, 3, 6), (3, 5, 9), (9, 4, 2))[i]):
                    drawing.bar(spot - 14 + 10 * j, 118 - 4 * share, 8, 4 * share, POLICY, faint=True)
            drawing.write(middle, 50, "a chance for each word,", "at every token", faint=True)
    drawing.write(90, 448, "says what comes next", tone=POLICY, bold=True)
    drawing.write(270, 448, "says how good it was", tone=JUDGE, bold=True)
    return drawing
