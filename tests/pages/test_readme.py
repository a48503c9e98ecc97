"""What README promises: its lines of code run, its picture is the drawing of today, its links and commands exist."""

import re
import struct

import pytest

from ppo_lib.errors import BadInput
from ppo_lib.models.backbone import Backbone
from scripts import store_card
from tests.pages.book import ROOT, cells, toc_files
from tests.tiny import save_tiny

README = (ROOT / "README.md").read_text(encoding="utf-8")
(CODE,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_lines_for_ones_own_model_are_few_and_run(tmp_path, monkeypatch, capsys):
    """As they stand, on a tiny model in the place of the small one, and for two iterations."""
    assert sum(bool(line.strip()) for line in CODE.splitlines()) == 10
    assert "in ten lines" in README
    code = CODE.replace("iterations=20", "iterations=2").replace('"smollm2", chat_template=True', '"tiny"')
    assert '"tiny"' in code
    assert "iterations=2," in code
    save_tiny(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    exec(compile(code.replace("max_new_tokens=24", "max_new_tokens=4"), "README.md", "exec"), {})
    assert len(capsys.readouterr().out.split()) == 4
    assert Backbone.from_pretrained("mine/merged").vocab_size > 0
    with pytest.raises(BadInput):
        Backbone.from_pretrained("mine/nothing")


def test_the_picture_is_the_drawing_as_it_is_drawn_now():
    assert store_card.PICTURE.read_text(encoding="utf-8") == store_card.picture(), "run python scripts/store_card.py"
    assert f'src="{store_card.PICTURE.relative_to(ROOT)}"' in README


def test_the_card_has_the_size_of_cards():
    head = store_card.CARD.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", head[16:24]) == store_card.SIZE


def test_what_is_linked_and_called_exists():
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}\b.*:", makefile, re.MULTILINE), target


def test_a_command_on_a_page_can_be_copied_whole_after_make_book():
    """From the clone: programs are those of ``.venv``, recipes are there, no file is asked for that nobody has."""
    lines = [line for text in texts_of_pages() for line in commands(text)]
    assert len(lines) > 10
    assert [line for line in lines if re.match(r"(python|accelerate|ppo-lib)\b", line)] == []
    for recipe in {name for line in lines for name in re.findall(r"--recipe (\w+)", line)}:
        assert (ROOT / "ppo_lib" / "recipes" / f"{recipe}.yaml").is_file()
    assert [line for line in lines if "--config" in line and "mine.yaml" not in line] == []


def texts_of_pages() -> list[str]:
    """README and every page's text; one page works in a folder of the reader's own, and says how."""
    texts = [README]
    for name in toc_files():
        page = ROOT / f"{name}.md"
        if page.is_file():
            texts.append(page.read_text(encoding="utf-8"))
        elif name != "book/your_own_model":
            texts += [cell.source for cell in cells(ROOT / f"{name}.ipynb", "markdown")]
    return texts


def commands(text: str) -> list[str]:
    """The lines of a text's plain blocks that call something."""
    blocks = [block for kind, block in re.findall(r"^```(.*?)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL) if not kind]
    called = r"(\.venv/bin/)?(python|accelerate|ppo-lib|make)\b"
    return [line for block in blocks for line in block.splitlines() if re.match(called, line)]


def test_the_comparison_has_a_date_and_names_the_versions_that_the_tests_compare_with():
    from tests.peers.table import PEERS

    table = README.partition("## How it compares")[2].partition("\n## ")[0]
    assert re.search(r"on 20\d\d-\d\d-\d\d", table)
    assert all(peer in table for peer in PEERS)
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert len({row.count("|") for row in rows}) == 1
