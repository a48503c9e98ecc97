"""The HTML report: one self-contained page, for whole, partial and aligned runs, safe with any text."""

import json
import math
import re
import tracemalloc
from html import escape
from html.parser import HTMLParser

import pytest
import yaml

from ppo_lib.book.intervals import proportion
from ppo_lib.book.jsonl import append_lines
from ppo_lib.errors import BadInput
from ppo_lib.run.evaluation import format_table, load_evaluation, save_evaluation, verdict
from ppo_lib.run.files import write_atomic
from ppo_lib.run.readings import choose_samples
from ppo_lib.run.report import CHARTS, write_report
from ppo_lib.trainers.configuration import ConfigError

NASTY = '<script>alert("x")</script> & <img src=https://example.org/x.png> "quoted"'


def ppo_rows(count):
    return [
        {
            "iteration": i + 1,
            "score_mean": i / 10,
            "gold_mean": i / 20,
            "kl_k1": 0.3 * i - 0.1,
            "kl_k3": 0.3 * i,
            "entropy": 1.0,
            "clip_fraction": 0.1,
            "eos_rate": 1.0,
            "explained_variance": math.nan if i == 0 else 0.5,
            "beta": 0.1,
        }
        for i in range(count)
    ]


def make_run(folder, rows, finished=True, config=None):
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config or {"beta": 0.1, "model": NASTY}))
    append_lines(folder / "metrics.jsonl", rows)
    samples = [
        {"iteration": row["iteration"], "prompt": NASTY, "response": f"reply {row['iteration']}"} for row in rows
    ]
    append_lines(folder / "samples.jsonl", samples)
    if finished:
        (folder / "manifest.json").write_text(json.dumps({"seconds": 12.3, "seed": 0}))
    return folder


class Page(HTMLParser):
    """Collects tags with their attributes, and checks that they nest."""

    VOID = ("meta", "br", "link", "img", "input", "hr")

    def __init__(self, text):
        super().__init__()
        self.tags, self.open = [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def page_of(folder):
    text = write_report(folder).read_text(encoding="utf-8")
    return text, Page(text)


def test_a_run_gives_curves_samples_findings_and_configuration(tmp_path):
    text, page = page_of(make_run(tmp_path / "run", ppo_rows(30)))
    assert [tag for tag, _ in page.tags].count("figure") >= 6
    for words in ("proxy score", "gold score", "Samples", "reply 1<", "reply 30<", "Configuration", "Manifest"):
        assert words in text
    assert "Finished: 30 iterations in 12 seconds." in text
    assert "k1 is a difference of log-probs" in text  # the note on a negative k1


def test_the_page_asks_nothing_of_any_host_and_has_no_script(tmp_path):
    _, page = page_of(make_run(tmp_path / "run", ppo_rows(30)))
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "img", "iframe", "object", "embed")
        for name, value in attributes.items():
            assert name not in ("src", "href", "action", "srcset")
            assert not name.startswith("on")
            assert name == "xmlns" or "//" not in (value or "")


def test_text_of_models_and_configs_cannot_become_markup(tmp_path):
    text, _ = page_of(make_run(tmp_path / "run", ppo_rows(3)))
    assert "<script" not in text
    assert "&lt;script&gt;alert(" in text


def test_light_dark_and_phones_are_provided_for(tmp_path):
    text, _ = page_of(make_run(tmp_path / "run", ppo_rows(3)))
    assert "color-scheme: light dark" in text
    assert 'name="viewport"' in text


@pytest.mark.parametrize("count", [1, 2, 1000])
def test_a_run_that_is_not_finished_has_a_report(tmp_path, count):
    folder = make_run(tmp_path / "run", ppo_rows(count), finished=False)
    with open(folder / "metrics.jsonl", "ab") as file:
        file.write(b'{"iteration": 10')  # torn
    text, _ = page_of(folder)
    assert f"Not finished: {count} iterations so far." in text
    assert len(text) < 1_000_000


def test_a_run_without_samples_or_config_has_a_report(tmp_path):
    append_lines(tmp_path / "metrics.jsonl", [{"iteration": 1, "loss": 2.0}, {"iteration": 2, "loss": 1.0}])
    text, _ = page_of(tmp_path)
    assert "loss, nats" in text
    assert "Samples" not in text


def test_an_aligned_folder_shows_before_and_after_and_all_three_runs(tmp_path):
    make_run(tmp_path / "sft", [{"iteration": i + 1, "loss": 2 / (i + 1)} for i in range(8)])
    make_run(tmp_path / "reward", [{"iteration": i + 1, "loss": 0.6, "accuracy": 0.7} for i in range(8)])
    make_run(tmp_path / "ppo", ppo_rows(8), finished=False)
    result = {
        "heldout": True,
        "prompts": 192,
        "before": {"score_mean": 0.0, "kl_k1": 0.0, "eos_rate": 1.0},
        "after": {"score_mean": 1.25, "kl_k1": 4.0, "eos_rate": 1.0},
        "wins": {"score": proportion(150, 192)},
        "correct": {"gold": {"before": proportion(20, 192), "after": proportion(90, 192)}},
        "reward_accuracy": proportion(70, 100),
        "rows": [{"prompt": NASTY, "response before": "A) quiz", "response after": "Paris.", "score after": 1.5}],
    }
    save_evaluation(tmp_path / "evaluation.json", result)
    assert load_evaluation(tmp_path / "evaluation.json") == result
    text, _ = page_of(tmp_path)
    places = [
        text.index(words)
        for words in (">Verdict</h2>", "Before and after", ">PPO</h2>", ">Reward model</h2>", ">Supervised")
    ]
    assert places == sorted(places)
    assert "192 held-out prompts" in text
    assert "A) quiz" in text
    table = format_table(result)
    assert re.search(r"proxy score +0\.000 +1\.250 +\+1\.250", table)
    assert "192 held-out prompts" in table
    assert len(verdict(result)) == 3
    for line in verdict(result):  # terminal and report say the same
        assert line in table
        assert f"<li>{escape(line)}</li>" in text


def test_a_report_says_what_was_run_on_what_and_how_long(tmp_path):
    config = {"model": "tiny", "prompts": "mine.jsonl", "reward_model": "judge", "seed": 3}
    folder = make_run(tmp_path / "run", ppo_rows(3), config=config)
    hardware, versions = {"processor": "AMD EPYC", "gpus": []}, {"torch": "2.13.0", "ppo_lib": "0.1.0"}
    manifest = {"seconds": 12.3, "hardware": hardware, "versions": versions}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    run = "model tiny, on the data mine.jsonl, judged by judge, seed 3, on AMD EPYC, ppo_lib 0.1.0, torch 2.13.0"
    assert f"Finished: 3 iterations in 12 seconds. What was run: {run}." in page_of(folder)[0]
    manifest["hardware"]["gpus"] = ["NVIDIA H200"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert "on NVIDIA H200, ppo_lib" in page_of(folder)[0]
    (folder / "manifest.json").write_text(json.dumps({"seconds": 1, "hardware": "fast", "versions": [1]}))
    assert "judged by judge, seed 3.<" in page_of(folder)[0]


def test_every_chart_metric_is_drawn_once():
    metrics = [name for _, _, names in CHARTS for name in names]
    assert len(metrics) == len(set(metrics))


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="not a folder"):
        write_report(tmp_path / "missing")
    with pytest.raises(ConfigError, match="nothing to report"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


JUNK = {
    "metrics.jsonl": [
        "5\n", "[1]\n", "null\n", '"text"\n', "x\n", "[" * 100_000 + "\n", '{"iteration": "one"}\n',
        '{"iteration": []}\n',
        '{"iteration": 1, "loss": "high"}\n', '{"iteration": 1, "loss": {}}\n', '{"iteration": 1' + "0" * 400 + "}\n",
    ],
    "samples.jsonl": [
        "5\n", "null\n", "{}\n", '{"iteration": null}\n', '{"iteration": [1]}\n', '{"iteration": "x"}\n', "{\n",
    ],
    "config.yaml": ["5\n", "", "[1]\n", "epochs: many\n", "minibatch: [1]\n", "a: &a [*a]\n"],
    "manifest.json": ["[]", "5", "", '{"seconds": "long"}', '{"seconds": null}', "[" * 100_000],
    "evaluation.json": [
        "[]", "5", "null", "{}", '{"before": {}, "after": {}, "rows": [], "prompts": 1}', "[" * 100_000,
        '{"heldout": true, "prompts": 1, "before": {"score_mean": "x"}, "after": {"score_mean": 1}, "rows": []}',
        '{"heldout": true, "prompts": 1, "before": {"score_mean": 1}, "after": {}, "rows": []}',
        '{"heldout": true, "prompts": 1, "before": {}, "after": {}, "rows": [5]}',
        *(
            f'{{"heldout": true, "prompts": 1, "before": {{}}, "after": {{}}, "rows": [], {damaged}}}'
            for damaged in (
                '"wins": 5', '"wins": {"score": 0.5}', '"wins": {"nobody": {}}', '"correct": {"gold": {"before": {}}}',
                '"reward_accuracy": {"share": "high"}', '"correct": [1]',
            )
        ),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in JUNK.items() for text in texts])
def test_junk_in_a_run_is_one_sentence_that_names_the_file(tmp_path, name, text):
    folder = make_run(tmp_path / "run", ppo_rows(3))
    (folder / name).write_text(text)
    with pytest.raises(BadInput, match=name) as caught:
        write_report(folder)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.jsonl", "config.yaml", "manifest.json", "evaluation.json"])
def test_a_folder_in_the_place_of_a_file_is_one_sentence(tmp_path, name):
    folder = make_run(tmp_path / "run", ppo_rows(3))
    (folder / name).unlink(missing_ok=True)
    (folder / name).mkdir()
    with pytest.raises(BadInput, match=f"{name}.*Is a directory"):
        write_report(folder)


def test_what_others_have_written_into_samples_is_shown_as_it_is(tmp_path):
    folder = make_run(tmp_path / "run", ppo_rows(1))
    row = {"iteration": 1, "prompt": {"role": "user"}, "response": [1, "<b>"], "score": True, "x": math.inf}
    (folder / "samples.jsonl").write_text(json.dumps(row) + "\n")
    text, _ = page_of(folder)
    assert "{&quot;role&quot;: &quot;user&quot;}" in text
    assert "&lt;b&gt;" in text


def test_of_many_samples_only_those_shown_are_kept(tmp_path):
    """400,000 samples took 1.5 GB; here the rows read are never more than a handful at once."""
    folder = make_run(tmp_path / "run", ppo_rows(2))
    text = "x" * 1000
    with open(folder / "samples.jsonl", "w") as file:
        for i in range(20_000):
            file.write(json.dumps({"iteration": 1 + i // 10, "prompt": text, "response": f"reply {i}"}) + "\n")
    tracemalloc.start()
    rows = choose_samples(folder / "samples.jsonl")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000  # bytes, of 20 MB
    assert [row["response"] for row in rows] == [f"reply {i + j}" for i in (0, 9990, 19_990) for j in range(4)]


def test_a_damaged_evaluation_or_manifest_is_refused_with_the_remedy(tmp_path):
    make_run(tmp_path / "ppo", ppo_rows(3))
    write_atomic(tmp_path / "evaluation.json", "{")
    with pytest.raises(ConfigError, match="remove it"):
        write_report(tmp_path)
    write_atomic(tmp_path / "ppo" / "manifest.json", "{")
    with pytest.raises(ConfigError, match=r"manifest\.json in 'ppo' .* remove it"):
        write_report(tmp_path / "ppo")
