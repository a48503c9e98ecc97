"""What this library's functions are beside those of other trainers: the table of the page of details, row by row.

``test_others.py`` computes both sides and holds each row to its word: "same" means equal to 1e-9 in float64 (OpenRLHF
computes its KL in float32: 1e-6), anything else means unequal, and says why. A difference without a row fails.
"""

SAME = "same"
PEERS = ("TRL 1.12.0", "torchtune 0.6.1", "veRL 0.9.1", "OpenRLHF 0.11.2")
ROWS: dict[str, tuple[str, str, str, str]] = {  # what: verdict for each peer, in their order; empty: it has none
    "k1": ("", "", SAME, "differs, because it is cut to 10 nats a token"),
    "k2": ("", "", SAME, "differs, because it is cut to 10 nats a token"),
    "k3": ("", "", "differs, because it is cut to 10 nats a token", "differs, because it is cut to 10 nats a token"),
    "augmented rewards": ("", SAME, "", SAME),
    "GAE: returns": ("", SAME, SAME, ""),
    "GAE: advantages": ("", "differs, because its whitening adds the mean again", SAME, ""),
    "whitening": (SAME, "differs, because it adds the mean where it should take it", SAME, ""),
    "whitening, mean kept": (SAME, "differs, because it takes the mean where it should keep it", SAME, ""),
    "policy loss": ("", "differs, because its log-ratios are not cut to 20", SAME, SAME),
    "dual clip": ("", "", SAME, SAME),
    "value loss": ("", "differs, because the square is halved", "differs, because the square is halved",
                   "differs, because the square is halved"),
    "adaptive beta": ("", "", SAME, SAME),
}  # fmt: skip


def lines() -> list[str]:
    """The table as Markdown."""
    head = ["| | " + " | ".join(PEERS) + " |", "|---" * (len(PEERS) + 1) + "|"]
    return head + [f"| {what} | " + " | ".join(verdict or "–" for verdict in row) + " |" for what, row in ROWS.items()]
