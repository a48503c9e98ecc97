"""Where the stages' texts come from: JSONL files, data sets of the hub (simulated here), and what is refused."""

import json
import sys
from types import ModuleType, SimpleNamespace

import pytest

from ppo_lib import pocket
from ppo_lib.run.data import load_demonstrations, load_pairs, load_pairs_to_learn, load_problems, load_prompts, prepared
from ppo_lib.trainers.configuration import ConfigError

COMMIT = "89abcdef" * 5
USER, ASSISTANT = {"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}


class DatasetsError(Exception):
    """As the package datasets has it."""


class DatasetNotFoundError(DatasetsError, FileNotFoundError):
    """As the package datasets has it."""


@pytest.fixture
def hub_rows(monkeypatch):
    """Pretends that the hub has these rows; keeps what was asked for."""
    asked = SimpleNamespace(rows=[], error=None, builders=[], splits=[], cached=None)

    def load_dataset_builder(name, config, revision):
        asked.builders.append((name, config, revision))
        if asked.error is not None:
            raise asked.error
        return SimpleNamespace(hash=asked.cached or revision, download_and_prepare=lambda: None, as_dataset=as_dataset)

    def as_dataset(split):
        asked.splits.append(split)
        return asked.rows

    package, exceptions = ModuleType("datasets"), ModuleType("datasets.exceptions")
    package.load_dataset_builder, exceptions.DatasetsError = load_dataset_builder, DatasetsError
    prepared.cache_clear()
    monkeypatch.setitem(sys.modules, "datasets", package)
    monkeypatch.setitem(sys.modules, "datasets.exceptions", exceptions)
    return asked


def write(path, *rows):
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


def test_the_pocket_atlas_is_a_source_with_two_splits():
    assert load_prompts("pocket") == pocket.prompts("train")
    assert load_prompts("pocket", "heldout") == pocket.prompts("heldout")
    assert load_pairs("pocket", "heldout") == pocket.preference_pairs("heldout")
    assert load_demonstrations("pocket") == pocket.demonstrations()


def test_columns_may_have_the_names_that_data_sets_give_them(tmp_path):
    file = write(tmp_path / "a.jsonl", {"question": "2 + 2?", "answer": "#### 4", "source": "me"})
    assert load_problems(file) == load_demonstrations(file) == [("2 + 2?", "#### 4")]
    assert load_prompts(file) == ["2 + 2?"]


def test_a_file_is_cut_at_its_line_ends_and_nowhere_else(tmp_path):
    """JSON keeps U+2028, U+0085 and others in a text as they are, and models write them; str.splitlines cuts there."""
    odd = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\x1dh\x1ei\rj\nk"
    line = json.dumps({"prompt": f"Why {odd}?", "response": odd}, ensure_ascii=False)
    for end in ("\n", "\r\n"):
        (tmp_path / "odd.jsonl").write_bytes(f"{line}{end}{line}{end}".encode())
        assert load_demonstrations(str(tmp_path / "odd.jsonl")) == [(f"Why {odd}?", odd)] * 2
    (tmp_path / "odd.jsonl").write_text(f"{line}\n{line}\n{{", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"odd\.jsonl, line 3: is not JSON"):
        load_demonstrations(str(tmp_path / "odd.jsonl"))


def test_conversations_of_one_turn_are_read(tmp_path):
    better, worse = [USER, ASSISTANT], [USER, {"role": "assistant", "content": "5"}]
    beside = write(tmp_path / "a.jsonl", {"prompt": "2 + 2?", "chosen": better, "rejected": worse, "messages": better})
    inside = write(tmp_path / "b.jsonl", {"chosen": better, "rejected": worse})
    asked = write(tmp_path / "c.jsonl", {"prompt": [USER], "chosen": [ASSISTANT], "rejected": worse[1:]})
    for file in (beside, inside, asked):
        assert load_pairs(file) == [("2 + 2?", "4", "5")]
        assert load_prompts(file) == ["2 + 2?"]
        assert load_demonstrations(file) == [("2 + 2?", "4")]


def test_several_turns_are_refused_naming_the_line(tmp_path):
    file = write(tmp_path / "a.jsonl", {"messages": [USER, ASSISTANT, USER, ASSISTANT]})
    with pytest.raises(ValueError, match=r"a.jsonl, line 1: none of the 1 rows can be used: 1 with several turns"):
        load_demonstrations(file)


def test_a_data_set_is_asked_for_at_its_commit_and_split(hub_rows):
    hub_rows.rows = [{"prompt": "a", "chosen": "b", "rejected": "c", "score": 1.0}]
    assert load_pairs(f"owner/data/part@{COMMIT}:train[:5]") == [("a", "b", "c")]
    load_prompts(f"owner/data@{COMMIT}:test")
    assert hub_rows.builders == [("owner/data", "part", COMMIT), ("owner/data", None, COMMIT)]
    assert hub_rows.splits == ["train[:5]", "test"]


def test_a_data_set_that_is_read_often_is_looked_up_once(hub_rows):
    hub_rows.rows = [{"prompt": "a"}]
    for split in ("train", "test", "train[:3]"):
        load_prompts(f"owner/data@{COMMIT}:{split}")
    assert len(hub_rows.builders) == 1
    assert hub_rows.splits == ["train", "test", "train[:3]"]


def test_another_commit_from_the_cache_is_refused(hub_rows):
    """Without a hub, datasets takes the newest commit that its cache has."""
    hub_rows.rows, hub_rows.cached = [{"prompt": "a"}], "f" * 40
    with pytest.raises(ValueError, match=r"another commit, f{40}; try again with a network"):
        load_prompts(f"owner/data@{COMMIT}:train")


def test_a_data_set_without_the_column_is_refused_naming_those_it_has(hub_rows):
    hub_rows.rows = [{"prompt": "a", "chosen": "b"}]
    with pytest.raises(ValueError, match="row 0: rejected is None") as error:
        load_pairs(f"owner/data@{COMMIT}:train")
    assert "its columns are prompt, chosen" in str(error.value)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionError("Couldn't reach it"), "the hub cannot be reached"),
        (
            ValueError('Unknown split "trian". Should be one of ["train"].'),
            'Should be one of ["train"]; write OWNER/NAME',
        ),
        (DatasetNotFoundError("Dataset 'owner/data' doesn't exist on the Hub"), "check the spelling"),
        (DatasetsError("An error occurred while generating the dataset"), "while generating"),
    ],
)
def test_a_data_set_that_cannot_be_had_is_refused_with_the_reason(hub_rows, error, words):
    hub_rows.error = error
    with pytest.raises(ValueError, match=r"owner/data.* cannot be loaded") as told:
        load_prompts(f"owner/data@{COMMIT}:trian")
    assert words in str(told.value)


def test_without_the_package_datasets_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match="pip install datasets, or give a JSONL file"):
        load_prompts(f"owner/data@{COMMIT}:train")


def test_worlds_without_exact_answers_have_no_problems():
    with pytest.raises(ValueError, match="'pocket' has no exact answers"):
        load_problems("pocket")


def test_a_mark_of_byte_order_at_the_beginning_of_a_file_is_no_text(tmp_path):
    path = tmp_path / "marked.jsonl"
    path.write_text('{"prompt": "a"}\n', encoding="utf-8-sig")
    assert load_prompts(str(path)) == ["a"]


def text(tmp_path, content: str | bytes) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    return str(path)


def test_rows_left_out_are_counted_with_their_reasons(tmp_path):
    rows = [{"prompt": f"p{i}", "response": "r"} for i in range(5)]
    rows[1:1] = [{"messages": [USER, ASSISTANT, USER, ASSISTANT]}] * 2
    rows.append({"prompt": "p", "response": ""})
    told = []
    assert len(load_demonstrations(write(tmp_path / "a.jsonl", *rows), told.append)) == 5
    assert told == [
        "a.jsonl: 3 of 8 rows left out: 2 with several turns, 1 with an empty answer; the first is line 2",
    ]
    with pytest.warns(UserWarning, match="3 of 8 rows left out"):
        load_demonstrations(str(tmp_path / "a.jsonl"))


def test_ties_are_left_out_and_pairs_in_both_orders_are_counted(tmp_path):
    good, tie = {"prompt": "p", "chosen": "a", "rejected": "b"}, {"prompt": "p", "chosen": "a", "rejected": "a"}
    other, told = {"prompt": "p", "chosen": "b", "rejected": "a"}, []
    assert load_pairs_to_learn(write(tmp_path / "a.jsonl", good, tie, good, other), told.append) == [
        ("p", "a", "b"),
        ("p", "a", "b"),
        ("p", "b", "a"),
    ]
    assert "1 of 4 rows left out: 1 with a chosen answer that is the rejected one (a tie)" in told[0]
    assert "2 of 3 pairs contradict each other" in told[1]
    with pytest.raises(ConfigError, match="none of the 2 rows can be used: 2 with a chosen answer that is"):
        load_pairs(write(tmp_path / "b.jsonl", tie, tie))
    with pytest.raises(ConfigError, match="each of its 4 pairs stands there in both orders"):
        load_pairs_to_learn(write(tmp_path / "c.jsonl", good, other, good, other))
    assert len(load_pairs(str(tmp_path / "c.jsonl"))) == 4  # to be measured on
    assert load_pairs_to_learn("pocket") == load_pairs("pocket")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["unix", "windows", "old mac"])
def test_every_line_end_ends_a_line(tmp_path, end):
    lines = ['{"prompt": "a"}', '{"prompt": "b\u2028c"}', "", '{"prompt": "d\\r\\n"}']
    assert load_prompts(text(tmp_path, end.join(lines))) == ["a", "b\u2028c", "d\r\n"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"prompt": "a"}\n{"prompt": "b", "prompt": "c"}', "line 2: has 'prompt' twice; give each column once"),
        ('{"prompt": "a", "more": {"x": 1, "x": 2}}', "line 1: has 'x' twice"),
        ('{"prompt": "a", "more": ' + "[" * 100_000 + "]" * 100_000 + "}", "line 1: is nested too deep"),
        ('{"prompt": "cut \\ud83d"}', "line 1: .* holds half a character"),
        ("prompt\na\n".encode("utf-16"), "cannot read the data .* not UTF-8 text"),
        ("\n\n", "holds no line"),
    ],
    ids=["twice", "twice inside", "deep", "half an emoji", "utf-16", "empty"],
)
def test_a_file_that_would_be_misread_is_refused_naming_the_line(tmp_path, content, words):
    with pytest.raises(ValueError, match=words):
        load_prompts(text(tmp_path, content))
