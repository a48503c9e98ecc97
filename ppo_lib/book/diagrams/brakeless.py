"""A run without brakes, as it was recorded: what the judge saw, what it was worth, and what the policy said."""

from ppo_lib.book.diagrams.canvas import BAD, JUDGE, NORMAL, NOTE, PLAIN, POLICY, Drawing
from ppo_lib.book.diagrams.icons import engine
from ppo_lib.book.diagrams.letters import wrapped
from ppo_lib.book.diagrams.tension import FREE, MOMENTS, QUESTION, recorded_answers
from ppo_lib.book.drawing import number
from ppo_lib.book.recordings import load_recorded

WIDTH_OF_MEAN = 5  # iterations, since a single batch is noisy


def changes(name: str, metric: str) -> list[float]:
    """How far a metric is from its first value, as means over some iterations around each."""
    values = load_recorded(name).column(metric)
    half = WIDTH_OF_MEAN // 2
    means = [sum(part) / len(part) for part in (values[max(0, i - half) : i + half + 1] for i in range(len(values)))]
    return [mean - values[0] for mean in means]


def runaway() -> Drawing:
    """Score up, gold down, and three answers that decay on the way."""
    score, gold = changes(FREE, "score_mean"), changes(FREE, "gold_mean")
    answers = [answer for answer in recorded_answers(FREE, QUESTION) if answer.iteration in MOMENTS]
    quoted = " ".join(
        f"Iteration {a.iteration}: “{a.text}” The judge gives {number(round(a.score, 2))}, it is worth "
        f"{number(round(a.gold, 2))}."
        for a in answers
    )
    drawing = Drawing(
        "An engine and no brakes: the judge’s score climbs, and what the answers are worth falls.",
        f"A recorded run without any brake (beta = 0), {len(score)} iterations. Both lines start at one point. The "
        f"judge’s score climbs by {number(round(score[-1], 1))}, a locomotive at its end. The gold score, which is the "
        f"truth and which nobody trains on, falls by {number(round(-gold[-1], 1))}. Below, what the policy answered to "
        f"“{QUESTION}” on the way. {quoted}",
        height=466,
    )
    left, right, top, floor = 14.0, 322.0, 64.0, 226.0
    low, high = min(*score, *gold), max(*score, *gold)

    def place(iteration: int, value: float) -> tuple[float, float]:
        """Iterations count from 1; what was asked at 0 stands at the start as well."""
        along = max(0, iteration - 1) / (len(score) - 1)
        return left + (right - left) * along, floor - (floor - top) * (value - low) / (high - low)

    drawing.write(10, 22, "β = 0: nothing holds the policy", size=NORMAL, bold=True, anchor="start")
    drawing.write(10, 40, "change since the start, in points", anchor="start", faint=True)
    drawing.trace([place(1, 0.0), place(len(score), 0.0)], PLAIN, 1.2)
    drawing.trace([place(i + 1, value) for i, value in enumerate(score)], JUDGE, 3)
    drawing.trace([place(i + 1, value) for i, value in enumerate(gold)], BAD, 3)
    x, y = place(len(score), score[-1])
    engine(drawing, x + 6, y - 19, 40)
    drawing.write(right, 118, "what the judge says", tone=JUDGE, bold=True, anchor="end")
    drawing.write(right, 176, "what it is worth", tone=BAD, bold=True, anchor="end")
    drawing.arrow((right - 40, floor + 14), (right, floor + 14))
    drawing.write(right - 46, floor + 18, "time", anchor="end", faint=True)

    row = floor + 70
    drawing.write(10, row - 12, f"“{QUESTION}”", anchor="start", bold=True)
    for mark, answer in zip("123", answers, strict=True):
        x, _ = place(answer.iteration, 0.0)
        drawing.token(x - 9 if answer.iteration else x - 4, floor + 2, mark, PLAIN, 18)
        drawing.token(10, row, mark, PLAIN, 18)
        told = f"score {number(round(answer.score, 2))}, worth {number(round(answer.gold, 2))}"
        said = wrapped(f"“{answer.text}”", 312, NOTE)
        drawing.write(38, row + 16, *said, anchor="start", tone=BAD if answer.gold < 0 else POLICY)
        drawing.write(38, row + 16 + 15.6 * len(said), told, anchor="start", faint=True)
        row += 16 + 15.6 * (len(said) + 1)
    return drawing
