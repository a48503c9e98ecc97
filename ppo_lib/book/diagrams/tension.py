"""What pulls on the policy: the rubber band that holds it, and what it says where nobody does."""

from typing import NamedTuple

from ppo_lib.book.diagrams.canvas import BAD, JUDGE, NOTE, PLAIN, POLICY, REFERENCE, Drawing
from ppo_lib.book.diagrams.icons import card, peg, robot
from ppo_lib.book.diagrams.letters import wrapped
from ppo_lib.book.drawing import number
from ppo_lib.book.recordings import load_recorded

HELD, FREE = "pocket/beta_0.1/seed_0", "pocket/beta_0.0/seed_0"  # the same run with the band and without
QUESTION = "What is the capital of Uganda?"
MOMENTS = (0, 5, 30)  # iterations of FREE at which the policy is asked QUESTION


class Answer(NamedTuple):
    """A recorded answer, what the judge and the gold score say of it, and how far the policy had gone by then."""

    iteration: int
    text: str
    score: float
    gold: float
    kl: float


def recorded_answers(name: str, question: str | None = None) -> list[Answer]:
    """The answers to ``question`` over a recorded run, or all of its last iteration; KL in nats, mean of the batch."""
    run = load_recorded(name)
    kl = {0: 0.0} | {int(row["iteration"]): float(row["kl_k1"]) for row in run.metrics}
    last = max(row["iteration"] for row in run.samples)
    rows = [row for row in run.samples if row["prompt"] == question or (question is None and row["iteration"] == last)]
    return [
        Answer(
            row["iteration"],
            row["response"],
            row["score"],
            row["gold"],
            kl[max(k for k in kl if k <= row["iteration"])],
        )
        for row in rows
    ]


def rubber_band() -> Drawing:
    """The KL term as a rubber band between the policy and the reference: slack, stretched, cut."""
    free = {answer.iteration: answer for answer in recorded_answers(FREE, QUESTION)}
    start, lost, held = free[MOMENTS[0]], free[MOMENTS[-1]], recorded_answers(HELD)[0]
    drawing = Drawing(
        "The rubber band: the judge pulls the policy forward, the band pulls it back. Cut it, and the policy is gone.",
        "Three rows. In each the reference, a peg, stands at the left and never moves; the policy, a robot, stands "
        f"to its right. Row 1, the start: the band, beta times KL, hangs loose. The policy says “{start.text}"
        f"” Row 2, with the band (beta = 0.1): the judge’s score pulls the robot to the right, the stretched "
        f"band pulls it back; it has gone {number(round(held.kl, 1))} nats and says “{held.text}” Row 3, no band "
        f"(beta = 0): it has gone {number(round(lost.kl, 1))} nats, is dizzy and says “{lost.text}”",
        height=452,
    )
    rows = (
        ("At the start", "no stretch, no pull", start, 104.0, "smile"),
        ("With the band", "the further, the harder it pulls", held, 206.0, "smile"),
        ("Band cut: β = 0", "nothing pulls back", lost, 318.0, "dizzy"),
    )
    for row, (name, remark, answer, x, mood) in enumerate(rows):
        top = 8 + row * 156
        ground, middle = top + 98, top + 78
        drawing.write(10, top + 12, name, size=14, bold=True, anchor="start")
        drawing.write(10, top + 30, remark, faint=True, anchor="start")
        drawing.write(350, top + 12, f"KL {number(round(answer.kl, 1))} nats", anchor="end", tone=REFERENCE, bold=True)
        drawing.stroke((8, ground), (352, ground), width=1.2)
        peg(drawing, 34, middle + 13.5, 34)
        robot(drawing, x, middle + 4, 36, mood)
        if row == 0:
            drawing.curve(f"M44 {middle - 6}Q66 {middle + 26} {x - 17} {middle + 4}", REFERENCE, 3)
            drawing.write(34, middle - 22, "reference", tone=REFERENCE)
            drawing.write(x, middle - 22, "policy", tone=POLICY)
            drawing.write(x + 30, middle + 10, "the band between: β × KL", tone=REFERENCE, anchor="start")
        elif row == 1:
            for aside in (-5, 5):
                drawing.curve(f"M40 {middle + aside * 0.6}L{x - 18} {middle + 4 + aside}", REFERENCE, 2.2)
            drawing.arrow((x + 24, middle + 4), (x + 62, middle + 4), tone=JUDGE, width=3)
            card(drawing, 330, middle + 4, 34)
            drawing.write(x + 26, middle - 12, "score pulls", tone=JUDGE, anchor="start")
        else:
            drawing.curve(f"M40 {middle}q14 -14 22 4t18 6", REFERENCE, 2.2)
            drawing.curve(f"M{x - 20} {middle + 8}q-12 10 -20 -2t-14 4", REFERENCE, 2.2)
            for line in (0, 9, 18):
                drawing.curve(f"M{x - 66 - line} {middle - 8 + line}h22", PLAIN, 1.4)
        said = wrapped(f"“{answer.text}”", 340, NOTE)
        drawing.write(180, ground + 20, *said, tone=BAD if mood == "dizzy" else POLICY)
    return drawing
