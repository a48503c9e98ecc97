"""The assembly line of chapters 6 to 9, with a marker for the station where the reader stands."""

from ppo_lib.book.diagrams.canvas import BAD, CRITIC, JUDGE, PLAIN, POLICY, Drawing
from ppo_lib.errors import BadInput

STATIONS = (
    ("rewards", "of each token", ("the judge’s score,", "the band’s pull"), JUDGE),
    ("advantages", "of each token", ("better or worse", "than foreseen?"), CRITIC),
    ("loss", "one number", ("which way", "to step"), POLICY),
)


def assembly_line(here: int) -> Drawing:
    """Rewards of tokens, advantages, loss: the three steps, and which one this chapter builds.

    Args:
        here: 1, 2 or 3.

    Raises:
        BadInput: another station.
    """
    if here not in (1, 2, 3):
        raise BadInput(f"here is {here!r}; the assembly line has the stations 1, 2 and 3")
    names = [name for name, *_ in STATIONS]
    drawing = Drawing(
        f"The assembly line. You are here: step {here}, {names[here - 1]}.",
        "A conveyor belt with three stations. Step 1 makes the rewards of the tokens, from the judge’s score and the "
        "pull of the band. Step 2 makes advantages of them: was a token better than foreseen? Step 3 makes the loss, "
        f"one number that says which way to step. A marker says “you are here” at step {here}.",
        height=164,
    )
    wide, gap = 106.0, 15.0
    for i, (name, what, why, tone) in enumerate(STATIONS):
        x, present = 6 + i * (wide + gap), i + 1 == here
        middle = x + wide / 2
        drawing.box(x, 34, wide, 58, name, what, tone=tone if present else PLAIN, strong=present)
        if present:
            drawing.shape([(middle - 7, 20), (middle + 7, 20), (middle, 30)], BAD)
            drawing.write(middle, 14, "you are here", bold=True, tone=BAD)
        else:
            drawing.write(middle, 26, f"step {i + 1}", faint=True)
        if i:
            drawing.arrow((x - gap, 63), (x, 63))
        drawing.write(middle, 132, *why, faint=not present)
    for height in (98, 110):
        drawing.stroke((6, height), (354, height), width=2)
    for i in range(15):
        drawing.dot(12 + i * 24, 104, 4, PLAIN, hollow=True)
    return drawing
