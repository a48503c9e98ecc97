"""The library on the pages: a formula says which function it is, a function where its formula is derived.

Displayed formulas of chapters are numbered as the chapters are, (7.3). ``FORMULAS`` is the one list of those that are a
function of the library: the page of the chapter names the function below the formula, and the function's entry on the
pages ``book/library/`` leads back. A name of the library in code letters, ``gae``, leads to its entry from anywhere.
"""

import dataclasses
import re
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging
from sphinx.util.nodes import make_refnode

# Function, the chapter's page, and LaTeX that only its formula holds there, however it is laid out.
FORMULAS = {
    "discounted_returns": ("chapters/00_rl_for_llms", r"G_t = r_t + \gamma\, r_{t+1}"),
    "sft_loss": ("chapters/01_sft", r"L_{\text{SFT}}(\theta)"),
    "bradley_terry_loss": ("chapters/02_reward_model", r"L_{\text{BT}}(\phi)"),
    "policy_gradient_loss": ("chapters/03_policy_gradient", r"L_{\text{PG}} = -\,\mathbb{E}_t\big["),
    "kl_exact": ("chapters/06_kl_rubber_band", r"= \sum_{a} \pi_\theta(a \mid s)\,\big(\log"),
    "augmented_rewards": ("chapters/06_kl_rubber_band", r"r_t = -\beta\, d_t"),
    "kl_estimate": ("chapters/06_kl_rubber_band", r"k_1 = d,"),
    "AdaptiveKL": ("chapters/06_kl_rubber_band", r"\beta \leftarrow \beta"),
    "td_errors": ("chapters/07_critic_and_gae", r"\delta_t = \underbrace{r_t"),
    "gae": ("chapters/07_critic_and_gae", r"= \delta_t + \gamma\lambda\, \hat A_{t+1}"),
    "explained_variance": ("chapters/07_critic_and_gae", r"1 - \frac{\operatorname{Var}(\hat R_t"),
    "clipped_policy_loss": ("chapters/08_clipping", r"\mathbb{E}_t\Big[\min\big(\rho_t \hat A_t"),
    "value_loss": ("chapters/09_full_loss", r"L_{\text{value}} = \mathbb{E}_t"),
    "entropy": ("chapters/09_full_loss", r"S_t = -\sum_{v}"),
    "ppo_loss": ("chapters/09_full_loss", r"L = \underbrace{L_{\text{policy}}}"),
    "implicit_rewards": ("chapters/12_beyond_ppo", r"r(x, y) = \beta \log \frac{\pi^*(y \mid x)}"),
    "dpo_loss": ("chapters/12_beyond_ppo", r"L_{\text{DPO}}"),
    "group_advantages": ("chapters/12_beyond_ppo", r"\hat A_i = \frac"),
    "grpo_loss": ("chapters/12_beyond_ppo", r"L = \frac{1}{G}\sum_{i=1}^{G} \frac{1}{|y_i|}"),
}
CHAPTER = re.compile(r"chapters/(\d\d)_")
LIBRARY = "book/library/"


def bare(latex: str) -> str:
    """LaTeX without its layout: spaces and the marks where lines meet."""
    return re.sub(r"\\[,;:!]|[\s&]", "", latex)


def anchor(name: str) -> str:
    """Where a function's formula is, on its chapter's page."""
    return f"formula-{name.lower().replace('_', '-')}"


def chapter_number(docname: str) -> int:
    """7 for ``chapters/07_critic_and_gae``.

    Raises:
        ValueError: no chapter.
    """
    if not (found := CHAPTER.match(docname)):
        raise ValueError(f"{docname!r} is no chapter: its page must be chapters/NN_name")
    return int(found[1])


def number_formulas(app: Any, document: nodes.document) -> None:
    """Sphinx's event for each page that was read: numbers, and below a function's formula the function."""
    docname = app.env.docname
    if not CHAPTER.match(docname):
        return
    blocks = list(document.findall(nodes.math_block))
    for number, block in enumerate(blocks, 1):
        block["number"] = f"{chapter_number(docname)}.{number}"
        block["ids"] = [f"formula-{chapter_number(docname)}-{number}"]
    for name, (_, latex) in ((name, entry) for name, entry in FORMULAS.items() if entry[0] == docname):
        found = [block for block in blocks if bare(latex) in bare(block.astext())]
        if len(found) != 1:
            logging.getLogger(__name__).warning(
                "%s has %d formulas with %s, but FORMULAS in scripts/book_reference.py needs one",
                docname,
                len(found),
                latex,
            )
            continue
        found[0]["ids"].append(anchor(name))
        app.env.get_domain("std").anonlabels[anchor(name)] = docname, anchor(name)
        line = nodes.paragraph("", "In code: ", nodes.literal(name, name), classes=["in-code"])
        parent = found[0].parent
        parent.insert(parent.index(found[0]) + 1, line)


def tell_origin(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """autodoc's event for each docstring: where a formula is derived, and the knobs of a configuration."""
    module, _, word = name.rpartition(".")
    if module.startswith("ppo_lib.formulas.") and word in FORMULAS:
        chapter = chapter_number(FORMULAS[word][0])
        lines += ["", f"Derived in :ref:`chapter {chapter} <{anchor(word)}>`."]
    if what == "class" and dataclasses.is_dataclass(thing):
        for field in (field for field in dataclasses.fields(thing) if field.metadata.get("help")):
            meaning = re.sub(r"([*`_|\\])", r"\\\1", field.metadata["help"])
            lines += ["", f"- ``{field.name}`` (``{field.default!r}``): {meaning}"]


def shorten_signature(
    app: Any, what: str, name: str, thing: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """autodoc's event for each signature: knobs stand in a list below, not all in one line."""
    knobs = what == "class" and dataclasses.is_dataclass(thing) and name.endswith("Config")
    return ("(**knobs)", None) if knobs else (signature, returns)


def skip_fields(app: Any, what: str, name: str, thing: Any, skip: bool, options: Any) -> bool | None:
    """autodoc's event for each member: the fields of a named tuple stand in its docstring."""
    return True if type(thing).__name__ == "_tuplegetter" else None


class LinkNames(SphinxPostTransform):
    """A name of the library in code letters becomes a link to its entry, once and for all pages."""

    default_priority = 5

    def run(self, **kwargs: Any) -> None:
        """Sphinx calls this for each page that is written."""
        entries = {
            full.rpartition(".")[2]: (entry.docname, entry.node_id, full)
            for full, entry in self.env.get_domain("py").objects.items()
            if entry.objtype in ("function", "class") and entry.docname.startswith(LIBRARY)
        }
        for literal in list(self.document.findall(nodes.literal)):
            name = literal.astext().removesuffix("()").removeprefix("ppo_lib.")
            if name not in entries or is_linked(literal):
                continue
            docname, place, full = entries[name]
            linked = make_refnode(self.app.builder, self.env.docname, docname, place, literal.deepcopy(), full)
            literal.replace_self(linked)


def is_linked(node: nodes.Node) -> bool:
    """Whether it stands in a link already, or where none may be."""
    inside = (nodes.reference, addnodes.pending_xref, nodes.title, addnodes.desc_signature)
    while (node := node.parent) is not None:
        if isinstance(node, inside):
            return True
    return False


def setup(app: Any) -> dict[str, bool]:
    """Sphinx calls this."""
    app.connect("doctree-read", number_formulas)
    app.connect("autodoc-process-docstring", tell_origin)
    app.connect("autodoc-process-signature", shorten_signature)
    app.connect("autodoc-skip-member", skip_fields)
    app.add_post_transform(LinkNames)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
