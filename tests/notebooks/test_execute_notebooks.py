"""The script that stores the notebooks: clean, the same twice, and clear about what failed."""

import nbformat
import pytest

from scripts.book_address import install_source
from scripts.execute_notebooks import FOLDS, clean, execute, problems

v4 = nbformat.v4


def notebook(*cells):
    return v4.new_notebook(cells=list(cells), metadata={"widgets": {"state": 1}})


def code(source, **metadata):
    return v4.new_code_cell(source, metadata=metadata)


def test_cleaning_twice_is_cleaning_once_and_ids_follow_the_content():
    first = clean(notebook(code("1"), code("1"), v4.new_markdown_cell("1")))
    again = clean(nbformat.from_dict(first))
    assert [cell.id for cell in first.cells] == [cell.id for cell in again.cells]
    assert len({cell.id for cell in first.cells}) == 3
    assert clean(notebook(code("0"), code("1"))).cells[1].id == first.cells[0].id
    assert "widgets" not in first.metadata


def test_timings_go_and_tags_stay():
    cell = code("1", execution={"start": "now"}, tags=["exercise"], exercise="k3")
    assert clean(notebook(cell)).cells[0].metadata == {"tags": ["exercise"], "exercise": "k3"}


def test_checks_and_solutions_are_folded_under_their_names_and_the_install_cell_is_written_anew():
    old, *folded = (code(tag, tags=[tag]) for tag in ("colab", "check", "solution"))
    cells = clean(notebook(old, *folded)).cells
    assert cells[0].source == install_source()
    assert [cell.metadata.mystnb for cell in cells[1:]] == [FOLDS["check"], FOLDS["solution"]]


def test_pieces_of_a_stream_become_one():
    cell = code("print")
    cell.outputs = [v4.new_output("stream", name="stdout", text=text) for text in ("a", "b")]
    assert [output.text for output in clean(notebook(cell)).cells[0].outputs] == ["ab"]


@pytest.mark.slow
def test_an_executed_notebook_is_in_order_and_the_same_when_executed_again(tmp_path):
    path = tmp_path / "00_trial.ipynb"
    nbformat.write(notebook(code("x = 1"), code("print(x)\nx + 1")), path)
    execute(path)
    stored = path.read_bytes()
    assert problems(path) == []
    assert b'"2"' in stored
    execute(path)
    assert path.read_bytes() == stored


@pytest.mark.slow
def test_a_cell_that_fails_is_named_and_the_file_stays_as_it_was(tmp_path):
    path = tmp_path / "00_trial.ipynb"
    nbformat.write(notebook(code("x = 1"), code("1 / 0")), path)
    before = path.read_bytes()
    with pytest.raises(RuntimeError, match=r"00_trial.ipynb, cell 1 \('1 / 0'\) stopped"):
        execute(path)
    assert path.read_bytes() == before


def test_each_disorder_is_reported(tmp_path):
    wide, long = code(f"x = '{'a' * 90}'"), code("\n".join(["x = 1"] * 26))
    loud, failed, live = code("a"), code("b"), code("c")
    loud.outputs = [v4.new_output("stream", name="stderr", text="careful")]
    failed.outputs = [v4.new_output("error", ename="ValueError", evalue="", traceback=[])]
    live.outputs = [v4.new_output("display_data", data={"application/vnd.jupyter.widget-view+json": {}})]
    path = tmp_path / "00_trial.ipynb"
    nbformat.write(notebook(wide, long, loud, failed, live, code("")), path)
    report = "\n".join(problems(path))
    for words in ("more than 92", "26 lines", "stderr", "an error: ValueError", "widget", "is empty", "not all run"):
        assert words in report
    many = tmp_path / "01_many.ipynb"
    nbformat.write(notebook(*(code(str(i)) for i in range(61))), many)
    assert "61 code cells" in problems(many)[0]
