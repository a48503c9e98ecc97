"""The cast in small pictures: the model, the judge's card, the critic's crystal ball, the reference's peg.

Each is drawn around the middle of a square of 24 units and then moved and scaled to where it is wanted.
"""

from ppo_lib.book.diagrams.canvas import (
    BAD,
    CRITIC,
    JUDGE,
    PLAIN,
    POLICY,
    REFERENCE,
    TEXT,
    Area,
    Drawing,
    color,
    number,
)

HEAD_OF_ROBOT = "M-8 -7H8Q11 -7 11 -4V5Q11 8 8 8H-8Q-11 8 -11 5V-4Q-11 -7 -8 -7Z"
EYES = "M-4.6 -2v.1M4.6 -2v.1"  # of no length: round ends make dots of them
CROSSED_EYES = "M-6.4 -3.8l3.6 3.6m0 -3.6l-3.6 3.6M2.8 -3.8l3.6 3.6m0 -3.6l-3.6 3.6"
MOUTHS = {
    "smile": "M-4 3Q0 6.4 4 3",
    "flat": "M-4 4H4",
    "sad": "M-4 5Q0 1.8 4 5",
    "talk": "M-3 3Q0 7 3 3Z",
    "dizzy": "M-4.5 4.5q1.5 -2.4 3 0t3 0t3 0",
}
BALL = "M-10 -2A10 10 0 1 1 10 -2A10 10 0 1 1 -10 -2Z"
STAR = "M0 -10L2.6 -3.6L9.5 -3.1L4.2 1.4L5.9 8.1L0 4.4L-5.9 8.1L-4.2 1.4L-9.5 -3.1L-2.6 -3.6Z"


def glyph(drawing: Drawing, x: float, y: float, size: float, *pieces: str) -> None:
    """Pieces of SVG on a square of 24 units, moved so that its middle is at ``(x, y)`` and scaled to ``size``."""
    place = f"translate({number(x)} {number(y)}) scale({size / 24:.3f})"
    look = 'fill="none" stroke-width="1.6" stroke-linecap="round" stroke-linejoin="round"'
    drawing.glyphs.append(Area(x - 0.45 * size, y - 0.45 * size, 0.9 * size, 0.9 * size))
    drawing.parts.append(f'<g transform="{place}" {look}>{"".join(pieces)}</g>')


def piece(path: str, tone: str, width: float = 1.6, tint: float = 0.0) -> str:
    """One path of a glyph: its line, and with a ``tint`` its area."""
    area = f' fill="{color(tone)}" fill-opacity="{tint:.2f}"' if tint else ""
    return f'<path d="{path}" stroke="{color(tone)}" stroke-width="{number(width)}"{area}/>'


def robot(drawing: Drawing, x: float, y: float, size: float = 30, mood: str = "smile", tone: str = POLICY) -> None:
    """A language model, seen from the front.

    Args:
        drawing: where to draw.
        x, y: the middle of its head.
        size: its width.
        mood: one of :data:`MOUTHS`; a ``"dizzy"`` one has crosses for eyes.
        tone: its color.
    """
    eyes = piece(CROSSED_EYES, TEXT, 1.4) if mood == "dizzy" else piece(EYES, TEXT, 3)
    antenna = piece("M0 -7V-10.5", tone) + piece("M0 -11.5v.1", tone, 3.4)
    glyph(drawing, x, y, size, antenna, piece(HEAD_OF_ROBOT, tone, tint=0.2), eyes, piece(MOUTHS[mood], TEXT, 1.4))


def card(drawing: Drawing, x: float, y: float, size: float = 30) -> None:
    """The judge: a card with a star on a stick, held up as at a skating contest."""
    disc = piece("M-8.5 -3.5A8.5 8.5 0 1 1 8.5 -3.5A8.5 8.5 0 1 1 -8.5 -3.5Z", JUDGE, tint=0.2)
    star = f'<path transform="translate(0 -3.2) scale(.52)" d="{STAR}" fill="{color(JUDGE)}"/>'
    glyph(drawing, x, y, size, piece("M0 5V12", JUDGE, 2.6), disc, star)


def crystal_ball(drawing: Drawing, x: float, y: float, size: float = 30) -> None:
    """The critic: it looks into the future of an answer."""
    foot = piece("M-5.5 8.5H5.5L8 12H-8Z", CRITIC, tint=0.9)
    glyph(drawing, x, y, size, foot, piece(BALL, CRITIC, tint=0.2), piece("M-5.5 -3Q-5 -7.5 -.5 -8", CRITIC))


def peg(drawing: Drawing, x: float, y: float, size: float = 30) -> None:
    """The reference: a peg in the ground, to which the policy's rubber band is tied."""
    stake = piece("M-3.5 -10H3.5V3L0 11L-3.5 3Z", REFERENCE, tint=0.2)
    knot, earth = piece("M-5 -4.5H5", REFERENCE, 2.6), piece("M-11 4.5H-6M6 4.5H11", REFERENCE, 2)
    glyph(drawing, x, y, size, stake, knot, earth)


def cross(drawing: Drawing, x: float, y: float, size: float = 20, tone: str = BAD) -> None:
    """What is refused or missing."""
    glyph(drawing, x, y, size, piece("M-7 -7L7 7M7 -7L-7 7", tone, 3))


def tick(drawing: Drawing, x: float, y: float, size: float = 20, tone: str = REFERENCE) -> None:
    """What is right."""
    glyph(drawing, x, y, size, piece("M-8 0L-2.5 6L8 -7", tone, 3))


def person(drawing: Drawing, x: float, y: float, size: float = 30) -> None:
    """Somebody who is asked what they prefer."""
    head = "M-4.2 -5.5A4.2 4.2 0 1 1 4.2 -5.5A4.2 4.2 0 1 1 -4.2 -5.5Z"
    glyph(drawing, x, y, size, piece(head, TEXT), piece("M-8.5 11Q-8.5 1.5 0 1.5Q8.5 1.5 8.5 11Z", TEXT))


def engine(drawing: Drawing, x: float, y: float, size: float = 36) -> None:
    """A locomotive under full steam, to the right."""
    body = piece("M-11 6V-7H-3V-1H8Q10 -1 10 1V6Z", JUDGE, tint=0.3)
    chimney, smoke = piece("M4 -1V-5H8V-1", JUDGE), piece("M5 -8q-3 -3 -6 -1M2 -11q-4 -2 -7 0", PLAIN, 1.4)
    wheels = "".join(
        piece(f"M{at - 2.4} 8A2.4 2.4 0 1 1 {at + 2.4} 8A2.4 2.4 0 1 1 {at - 2.4} 8Z", TEXT) for at in (-7, 0, 7)
    )
    glyph(drawing, x, y, size, smoke, body, chimney, piece("M-9 -4.5h3.5", TEXT), wheels)


def dog(drawing: Drawing, x: float, y: float, size: float = 36) -> None:
    """The pupil of the oldest school of reinforcement learning."""
    head = piece("M-7 -5Q0 -9 7 -5V3Q5 10 0 10Q-5 10 -7 3Z", JUDGE, tint=0.2)
    ears = piece("M-7 -5Q-12 -4 -11 4Q-8 4 -7 0M7 -5Q12 -4 11 4Q8 4 7 0", JUDGE, tint=0.4)
    face = piece("M-3 -1v.1M3 -1v.1", TEXT, 2.6) + piece(
        "M-1.2 3.5H1.2L0 5ZM0 5V6.5Q-2 8 -3.2 6.8M0 6.5Q2 8 3.2 6.8", TEXT, 1.2
    )
    glyph(drawing, x, y, size, head, ears, face)
