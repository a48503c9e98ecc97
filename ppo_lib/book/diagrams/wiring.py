"""Where the numbers run: from one rollout into the three terms of the loss, and through the eight steps of the loop."""

from itertools import pairwise

from ppo_lib.book.diagrams.canvas import CRITIC, JUDGE, PLAIN, POLICY, REFERENCE, Area, Drawing
from ppo_lib.book.diagrams.icons import robot

# The loop's steps as ppo_lib/trainers/ppo.py numbers them: name, what happens, color.
STEPS = (
    ("draw prompts", ("from the shuffled", "stack"), PLAIN),
    ("roll out", ("the policy answers,", "token by token"), POLICY),
    ("judge", ("one score for", "each answer"), JUDGE),
    ("look again", ("log-probs of policy and", "reference, values"), REFERENCE),
    ("augmented reward", ("−β · KL everywhere,", "the score at the end"), JUDGE),
    ("advantages", ("and value targets,", "by GAE"), CRITIC),
    ("update", ("a few epochs of", "minibatches, clipped"), POLICY),
    ("adapt beta", ("and report how", "it went"), PLAIN),
)


def three_terms() -> Drawing:
    """One rollout and two live heads flow into three terms and one loss; the gradient goes back to what learns."""
    drawing = Drawing(
        "Three departments, one number: what was stored meets what the live model says now.",
        "From top to bottom. One rollout has been stored: advantages, old log-probs and returns, numbers that no "
        "longer move. Below them the live model: the adapter, which is the policy, and the value head, which "
        "reads its hidden states. The policy loss takes the advantages, the old log-probs and the adapter’s new "
        "ones. The entropy takes the adapter’s whole distribution. The value loss takes the returns and the value "
        "head’s new forecasts. The three are added into one loss: policy loss plus c1 times value loss minus c2 "
        "times entropy. Its gradient runs back to the adapter and to the value head, and to nothing else.",
        height=518,
    )
    stored = drawing.box(6, 8, 348, 76)
    drawing.write(180, 28, "One rollout, stored: these numbers stand still", bold=True, holder=stored)
    drawing.box(16, 38, 76, 36, "Â", tone=CRITIC)
    drawing.box(100, 38, 112, 36, "old log π", tone=POLICY)
    drawing.box(254, 38, 90, 36, "returns R̂", tone=CRITIC)
    adapter = drawing.box(46, 136, 176, 60, "Adapter", "the policy, live", tone=POLICY, strong=True, left=44)
    robot(drawing, 72, 168, 32)
    value = drawing.box(240, 136, 84, 60, "Value", "head, live", tone=CRITIC, strong=True)
    drawing.arrow(adapter.right, value.left)
    columns = (6.0, 124.0, 242.0)
    names = (
        ("Policy loss", ("do more of what", "beat the forecast"), POLICY),
        ("Entropy", ("keep an open", "mind"), POLICY),
        ("Value loss", ("foresee better", "next time"), CRITIC),
    )
    terms = [
        drawing.box(x, 262, 112, 66, name, *text, tone=tone)
        for x, (name, text, tone) in zip(columns, names, strict=True)
    ]
    drawing.arrow((26, 74), (26, terms[0].y), tone=CRITIC)
    drawing.arrow((110, 74), (110, 110), (36, 110), (36, terms[0].y), tone=POLICY)
    drawing.arrow((338, 74), (338, terms[2].y), tone=CRITIC)
    drawing.arrow((80, adapter.bottom[1]), (80, terms[0].y), tone=POLICY)
    drawing.write(86, 234, "log π", anchor="start", faint=True)
    drawing.arrow((180, adapter.bottom[1]), (180, terms[1].y), tone=POLICY)
    drawing.write(186, 226, "all", "of π", anchor="start", faint=True)
    drawing.arrow((282, value.bottom[1]), (282, terms[2].y), tone=CRITIC)
    drawing.write(288, 234, "V", anchor="start", faint=True)
    total = drawing.box(
        40, 402, 280, 58, "L = L_{policy} + c_{1} L_{value} − c_{2} S", "one number, to step down", strong=True
    )
    for term, sign in zip(terms, ("+", "− c_{2} ×", "+ c_{1} ×"), strict=True):
        x = min(max(term.bottom[0], 70.0), 290.0)
        drawing.arrow((x, term.bottom[1]), (x, total.y))
        drawing.write(x + 6, 370, sign, anchor="start", faint=True)
    drawing.arrow(total.left, (2.5, 431), (2.5, 122), (134, 122), adapter.top, tone=POLICY, dashed=True)
    drawing.arrow(total.right, (357.5, 431), (357.5, 166), value.right, tone=CRITIC, dashed=True)
    drawing.write(
        180, 490, "dashed: the gradient. It reaches the adapter", "and the value head, and nothing else.", faint=True
    )
    return drawing


def iteration() -> Drawing:
    """The eight steps of one iteration, as the trainer numbers them."""
    told = "; ".join(f"{i}. {name}: {' '.join(text)}" for i, (name, text, _) in enumerate(STEPS, 1))
    drawing = Drawing(
        "One iteration is eight steps: collect on the way down, learn on the way up, and round again.",
        f"A ring of eight boxes, four down the left side and four up the right side. {told}. Steps 2 to 6 collect "
        "experience and change no weight; step 7 alone learns. From step 8 the arrow leads back to step 1.",
        height=438,
    )
    wide, tall, pitch = 168.0, 78.0, 106.0
    boxes: list[Area] = []
    for i, (name, text, tone) in enumerate(STEPS):
        x, y = (4.0, 32 + pitch * i) if i < 4 else (188.0, 32 + pitch * (7 - i))
        title = f"{i + 1}. {name}"
        boxes.append(drawing.box(x, y, wide, tall, title, *text, tone=tone, strong=i == 6, head=13))
    for i, (here, there) in enumerate(pairwise(boxes)):
        if i == 3:
            drawing.arrow(here.right, there.left)
        else:
            down = i < 3
            drawing.arrow(here.bottom if down else here.top, there.top if down else there.bottom)
    drawing.arrow(boxes[7].left, boxes[0].right, width=2.4)
    drawing.write(88, 20, "2 to 6: collect", faint=True)
    drawing.write(272, 20, "7: learn", faint=True)
    return drawing
