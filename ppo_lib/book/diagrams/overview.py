"""The whole in one picture: where the models come from, and the loop that one answer runs through."""

from ppo_lib.book.diagrams.canvas import (
    CRITIC,
    HEAD,
    JUDGE,
    PLAIN,
    POLICY,
    REFERENCE,
    Drawing,
)
from ppo_lib.book.diagrams.icons import card, crystal_ball, peg, robot


def pipeline() -> Drawing:
    """From the base model through SFT and the reward model to PPO with its four models."""
    drawing = Drawing(
        "Three stages, four models: two of them learn, two stay frozen.",
        "From top to bottom. The base model has read a lot and continues any text. Demonstrations turn it into the "
        "SFT model, which answers. People rank its answers, and from the rankings a reward model learns to judge. "
        "Then PPO starts with four models. The policy (the student) writes answers and learns. The reward model "
        "(the judge) scores them and is frozen. The reference (the peg) is a frozen copy of the SFT model that "
        "says how far the policy has drifted. The critic (the forecaster) foretells the score and learns. "
        "Out comes the aligned model.",
        height=640,
    )
    base = drawing.box(62, 22, 236, 58, "Base model", "goes on, like a parrot", left=46)
    robot(drawing, 88, 54, 28, "talk", PLAIN)
    sft = drawing.box(62, 126, 236, 58, "SFT model", "answers, like an apprentice", tone=POLICY, left=46)
    robot(drawing, 88, 158, 28)
    drawing.arrow(base.bottom, sft.top)
    drawing.write(190, 100, "stage 1: it imitates", "good answers", anchor="start", faint=True)
    judge = drawing.box(176, 252, 176, 58, "Reward model", "learns what they like", tone=JUDGE, left=38)
    card(drawing, 199, 275, 24)
    drawing.arrow((264, sft.bottom[1]), (264, judge.y))
    drawing.write(256, 212, "stage 2: people rank", "two answers at a time", anchor="end", faint=True)

    frame = drawing.box(6, 366, 348, 208)
    drawing.write(frame.x + 12, frame.y + 24, "Stage 3: PPO", size=HEAD, bold=True, anchor="start", holder=frame)
    drawing.arrow((84, sft.bottom[1]), (84, frame.y))
    drawing.write(92, 342, "copies", anchor="start", faint=True)
    drawing.arrow((264, judge.bottom[1]), (264, frame.y))
    drawing.write(256, 342, "moves in", anchor="end", faint=True)
    rows, wide = (frame.y + 38, frame.y + 120), 164
    drawing.box(14, rows[0], wide, 72, "Policy", "the student", "writes, and learns", tone=POLICY, left=40)
    robot(drawing, 40, rows[0] + 38, 26)
    drawing.box(182, rows[0], wide, 72, "Reward model", "the judge", "gives scores", tone=JUDGE, dashed=True, left=36)
    card(drawing, 203, rows[0] + 30, 24)
    drawing.box(14, rows[1], wide, 72, "Reference", "the peg", "says: too far!", tone=REFERENCE, dashed=True, left=40)
    peg(drawing, 40, rows[1] + 37, 28)
    drawing.box(182, rows[1], wide, 72, "Critic", "the forecaster", "learns to foresee", tone=CRITIC, left=36)
    crystal_ball(drawing, 204, rows[1] + 34, 26)

    drawing.arrow((110, frame.bottom[1]), (110, 598))
    drawing.write(122, 592, "out comes the", anchor="start", faint=True)
    drawing.write(216, 592, "aligned model", anchor="start", bold=True)
    drawing.stroke((20, 618), (52, 618), tone=POLICY, width=2)
    drawing.write(58, 622, "learns", anchor="start", faint=True)
    drawing.stroke((130, 618), (162, 618), tone=REFERENCE, width=2, dashed=True)
    drawing.write(168, 622, "frozen: never changes again", anchor="start", faint=True)
    return drawing


def loop() -> Drawing:
    """One turn of the loop: prompt, policy, tokens, judge, update."""
    drawing = Drawing(
        "The loop: the model answers, the judge scores, the model changes a little. Then the next prompt.",
        "A circle. A prompt, “What is the capital of France?”, goes to the policy, which is the language "
        "model. It writes an answer, one token after the other: The, capital, is, Paris, full stop. Only when the "
        "answer is finished does the judge give a score, a single number for all of it. An arrow leads from the score "
        "back to the policy: update the weights, more of what scored well, less of what did not. Then the next "
        "prompt comes.",
        height=494,
    )
    x, wide = 96, 256
    prompt = drawing.box(x, 8, wide, 54, "Prompt", "“What is the capital of France?”")
    policy = drawing.box(
        x, 104, wide, 64, "Policy", "the language model", "that is being trained", tone=POLICY, left=56
    )
    robot(drawing, x + 32, 138, 38, "talk")
    drawing.arrow(prompt.bottom, policy.top)
    drawing.arrow((224, policy.bottom[1]), (224, 222))
    drawing.write(232, 200, "one token at a time", anchor="start", faint=True)
    drawing.token_row(224, 226, ("The", "capital", "is", "Paris", "."), POLICY)
    judge = drawing.box(
        x, 300, wide, 64, "Judge", "reads the finished answer,", "gives it a single score", tone=JUDGE, left=56
    )
    card(drawing, x + 32, 332, 40)
    drawing.arrow((224, 254), judge.top)
    update = drawing.box(
        x, 418, wide, 64, "Update", "good score: more of this", "bad score: less of it", tone=POLICY, strong=True
    )
    drawing.arrow(judge.bottom, update.top)
    drawing.write(232, 395, "one number", anchor="start", faint=True)
    drawing.arrow(update.left, (60, update.left[1]), (60, policy.left[1]), policy.left, tone=POLICY, width=2.4)
    drawing.write(54, 298, "again", anchor="end", bold=True, tone=POLICY)
    return drawing
