"""The ways through the book: the whole chain, the fork after the preferences, the map of the chapters."""

from ppo_lib.book.diagrams.canvas import HEAD, JUDGE, NORMAL, PLAIN, POLICY, REFERENCE, Drawing
from ppo_lib.book.diagrams.icons import card, dog, engine, person, robot

# The chapters: file, name, what the station is about.
CHAPTERS = (
    ("00_rl_for_llms", "The words", "what is a reward?"),
    ("01_sft", "Imitate", "supervised fine-tuning"),
    ("02_reward_model", "A judge", "the reward model"),
    ("03_policy_gradient", "Push", "the policy gradient"),
    ("04_importance_sampling", "Reuse", "importance sampling"),
    ("05_why_naive_rl_fails", "Crash", "no brakes"),
    ("06_kl_rubber_band", "Hold", "the KL rubber band"),
    ("07_critic_and_gae", "Foresee", "critic and advantage"),
    ("08_clipping", "Clip", "small steps"),
    ("09_full_loss", "Add up", "the full loss"),
    ("10_ppo_training_loop", "Round it goes", "the PPO loop"),
    ("11_capstone_gpu", "For real", "the whole chain"),
    ("12_beyond_ppo", "Beyond", "DPO and GRPO"),
)


def chain() -> Drawing:
    """Imitate, rank, judge, train, look: the whole chain with the check that closes it."""
    drawing = Drawing(
        "The whole chain: rank, judge, train, and then look at what came out.",
        "Four steps in a chain, on a model that can already answer. Rank: people, or a rule, say which of two answers "
        "is better. Judge: a reward model learns from that. Train: PPO raises the judge’s score and stays close to the "
        "start. Look: read answers from before and after, ask a judge that the training never saw, and count how often "
        "the new answer wins. If it looks wrong, the arrow leads back to the first step.",
        height=462,
    )
    steps = (
        ("Rank", "which of two answers is better?", PLAIN),
        ("Judge", "a reward model learns from that", JUDGE),
        ("Train", "PPO: up with the score, not too far", POLICY),
        ("Look", "read, before and after; ask another", REFERENCE),
    )
    boxes = []
    for i, (name, text, tone) in enumerate(steps):
        extra = ("judge, count the wins",) if name == "Look" else ()
        boxes.append(
            drawing.box(58, 10 + 106 * i, 294, 70, name, text, *extra, tone=tone, left=52, strong=name == "Look")
        )
        if i:
            drawing.arrow(boxes[-2].bottom, boxes[-1].top)
    pictures = (person, card, robot, glasses)
    for box, picture in zip(boxes, pictures, strict=True):
        picture(drawing, 88, box.left[1], 38)
    drawing.write(13, 250, "not good? again", upright=True, faint=True)
    first, last = boxes[0].left[1], boxes[-1].left[1]
    drawing.arrow((58, last), (26, last), (26, first), (58, first), dashed=True)
    drawing.write(
        205, 430, "A score that rises proves that the judge is", "pleased. Only looking tells the rest.", faint=True
    )
    return drawing


def glasses(drawing: Drawing, x: float, y: float, size: float) -> None:
    """A robot with wide eyes, which looks at what came out."""
    robot(drawing, x, y, size, "flat", REFERENCE)


def fork() -> Drawing:
    """From the same preferences two roads: DPO, or RLHF with a judge and PPO."""
    drawing = Drawing(
        "A fork: learn from the comparisons themselves (DPO), or train a judge first and please it (RLHF with PPO).",
        "At the top a stack of comparisons, “this answer rather than that”. From there two roads. Left, DPO: a "
        "language coach who says “more of this, less of that”; the pairs train the policy directly; no judge, "
        "no critic, no sampling. Like showing a dog two behaviors. Right, RLHF with PPO: a judge who scores every "
        "speech; the pairs train a reward model, the policy writes new answers, the judge scores "
        "them. Like training a dog with a clicker. Both roads end at a policy that is held close to one reference.",
        height=534,
    )
    top = drawing.box(50, 8, 260, 62, "Comparisons", "this answer rather than that one", left=46)
    person(drawing, 78, 38, 34)
    left, right, wide = 6.0, 186.0, 168.0
    for x, name, tone in ((left, "DPO", REFERENCE), (right, "RLHF with PPO", JUDGE)):
        drawing.arrow((180 + (x - 96) * 0.5, top.bottom[1]), (x + wide / 2, 108), tone=tone, width=3)
        drawing.write(x + wide / 2, 130, name, size=HEAD, bold=True, tone=tone)
    drawing.write(left + wide / 2, 152, "a language coach:", "“say this, not that”")
    drawing.write(right + wide / 2, 152, "a judge, who scores", "every speech you make")
    dog(drawing, left + wide / 2, 204, 46)
    dog(drawing, right + wide / 2 - 22, 204, 46)
    card(drawing, right + wide / 2 + 26, 202, 34)
    drawing.write(left + wide / 2, 252, "the dog sees", "two behaviors", faint=True)
    drawing.write(right + wide / 2, 252, "the dog hears", "a clicker", faint=True)
    model = drawing.box(right, 290, wide, 46, "Reward model", tone=JUDGE)
    answers = drawing.box(right, 368, wide, 46, "new answers, scored", tone=POLICY, head=13)
    drawing.arrow(model.bottom, answers.top)
    pairs = drawing.box(
        left,
        290,
        wide,
        124,
        "the pairs, as they are",
        "one loss, no sampling,",
        "no judge, no critic",
        tone=REFERENCE,
        head=13,
    )
    end = drawing.box(50, 462, 260, 62, "Policy", "held close to the same reference", tone=POLICY, left=46)
    robot(drawing, 78, 494, 34)
    drawing.arrow((left + wide / 2, pairs.bottom[1]), (left + wide / 2, end.y))
    drawing.arrow((right + wide / 2, answers.bottom[1]), (right + wide / 2, end.y))
    drawing.write(left + wide / 2 + 6, 444, "one pass", anchor="start", faint=True)
    drawing.write(right + wide / 2 + 6, 444, "many rounds", anchor="start", faint=True)
    return drawing


def book_map(to: str = "../chapters/") -> Drawing:
    """The chapters as stations of a railway, each a link.

    Args:
        to: where the chapters lie, seen from the page that shows the map.
    """
    told = "; ".join(f"{i}, {name}: {what}" for i, (_, name, what) in enumerate(CHAPTERS))
    drawing = Drawing(
        "The book as a railway: three stops to the loop, eight around it, and two beyond.",
        f"A line with thirteen stations, each a link to its chapter. {told}. Chapters 0 to 2 lead to the loop and give "
        "it a policy and a judge. Chapters 3 to 10 go once around the loop and build PPO part by part. Chapters 11 and "
        "12 leave it: the whole chain on real models, and the methods after PPO.",
        height=724,
        widest=520,
    )
    middle, left, right = 180.0, 64.0, 296.0
    approach = [(middle, 26.0 + 62 * i) for i in range(3)]
    around = [(right, 262.0 + 84 * i) for i in range(4)] + [(left, 556.0 - 84 * i) for i in range(4)]
    beyond = [(middle, 640.0), (middle, 696.0)]
    drawing.stroke(approach[0], (middle, 216), tone=POLICY, width=5)
    drawing.stroke(
        (middle, 216), (right, 216), (right, 600), (left, 600), (left, 216), (middle, 216), tone=JUDGE, width=5
    )
    drawing.stroke((middle, 600), beyond[-1], tone=REFERENCE, width=5)
    for x, y, way in ((244.0, 216.0, 1), (244.0, 600.0, -1), (122.0, 216.0, 1)):
        drawing.shape([(x - 8 * way, y - 8), (x + 8 * way, y), (x - 8 * way, y + 8)], JUDGE)
    engine(drawing, middle - 28, 21, 40)
    stops = [*approach, *around, *beyond]
    for i, ((x, y), (file, name, what)) in enumerate(zip(stops, CHAPTERS, strict=True)):
        tone = POLICY if i < 3 else JUDGE if i < 11 else REFERENCE
        with drawing.link(f"{to}{file}.html"):
            drawing.dot(x, y, 9, tone)
            start, anchor = (x + 24, "start") if x != right else (x - 24, "end")
            drawing.write(start, y - 1, f"{i}. {name}", size=NORMAL, bold=True, anchor=anchor)
            drawing.write(start, y + 15, what, anchor=anchor, faint=True)
    return drawing
