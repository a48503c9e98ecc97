"""A run as one HTML file: curves, findings, samples, configuration. No script, no request to anywhere."""

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ppo_lib.book.drawing import spaced
from ppo_lib.book.figures import Figure, panels
from ppo_lib.book.tables import table
from ppo_lib.errors import reading
from ppo_lib.run.evaluation import MEASURED, load_evaluation, verdict
from ppo_lib.run.files import write_atomic
from ppo_lib.run.health import bands, diagnose
from ppo_lib.run.readings import choose_samples, is_metric, read_manifest, read_metrics, read_settings
from ppo_lib.trainers.configuration import ConfigError

# What stands in one chart: caption, name of the vertical axis, metrics with their names in the legend.
Chart = tuple[str, str, dict[str, str]]
CHARTS: list[Chart] = [
    ("The loss on what is being learned.", "loss, nats", {"loss": "loss"}),
    ("Share of the pairs that are ordered as the labeler did.", "accuracy", {"accuracy": "accuracy"}),
    ("By how much the chosen response is preferred, in DPO's implicit reward.", "margin", {"margin": "margin"}),
    (
        "What the policy gives its pairs beside what the reference gives them; both may fall while the margin grows.",
        "change of log-probability, nats per response",
        {"chosen_logprob_change": "chosen", "rejected_logprob_change": "rejected"},
    ),
    (
        "The score that is maximized, and what the answers are truly worth where that is known.",
        "score",
        {"score_mean": "proxy score", "gold_mean": "gold score", "heldout_mean": "held-out judge"},
    ),
    (
        "Distance from the reference; k1 may dip below zero by noise.",
        "KL, nats per response",
        {"kl_k1": "k1", "kl_k3": "k3"},
    ),
    ("Randomness of the next token.", "entropy, nats", {"entropy": "entropy"}),
    ("Length of the responses.", "tokens", {"response_length": "length"}),
    (
        "Shares: tokens that the clip stopped, responses that ended.",
        "share",
        {"clip_fraction": "clipped", "eos_rate": "ended"},
    ),
    ("Share of the groups whose scores are all equal: they teach nothing.", "share", {"silent_groups": "silent"}),
    ("How much of the returns the critic foresees.", "explained variance", {"explained_variance": "critic"}),
    ("The parts of the loss.", "loss", {"policy_loss": "policy", "value_loss": "value"}),
    ("Length of the gradient before clipping.", "gradient norm", {"grad_norm": "gradient"}),
    ("Strength of the KL penalty.", "beta, reward per nat", {"beta": "beta"}),
    ("Seconds per iteration.", "seconds", {"seconds_rollout": "rollout", "seconds_update": "update"}),
]
MOST_POINTS = 400  # per curve: more than a screen can show
STAGES = {"sft": "Supervised fine-tuning", "reward": "Reward model", "dpo": "DPO", "grpo": "GRPO", "ppo": "PPO"}

STYLE = """
:root { color-scheme: light dark; --line: #8886; --soft: #8882; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 0 auto; padding: 1em; }
body { overflow-wrap: break-word; }
h1, h2, h3 { line-height: 1.2; } h2 { margin-top: 2em; border-top: 1px solid var(--line); padding-top: .6em; }
table { border-collapse: collapse; font-size: .9em; } caption { text-align: left; padding: .3em 0; }
th, td { border-bottom: 1px solid var(--line); padding: .25em .6em; vertical-align: top; min-width: 3em; }
td { white-space: pre-wrap; } .table-scroll { overflow-x: auto; }
.charts > div { max-width: 420px; }
figcaption, .quiet { font-size: .9em; opacity: .8; } summary { cursor: pointer; }
.finding { border-left: 4px solid #c9661a; background: var(--soft); padding: .4em .8em; margin: .5em 0; }
.finding.note { border-color: #2f7fc1; } pre { overflow-x: auto; background: var(--soft); padding: .6em; }
"""


def write_report(folder: str | Path) -> Path:
    """Write ``report.html`` into a run's folder, or into one with the runs of several stages, as ``align`` leaves it.

    Args:
        folder: the run may be unfinished.

    Returns:
        The file written.

    Raises:
        ConfigError: the folder holds no run, or no metrics yet.
    """
    folder = Path(folder)
    with reading(folder):
        if not folder.is_dir():
            raise ConfigError(f"{str(folder)!r} is not a folder; give the --out of a run")
    stages = {name: folder / name for name in STAGES if (folder / name / "metrics.jsonl").exists()}
    parts = [before_and_after_section(folder)]
    if (folder / "metrics.jsonl").exists():
        parts.append(run_section(folder, "The run"))
    elif stages:
        # Readers want the end first: PPO, then what it stands on.
        parts += [run_section(path, STAGES[name]) for name, path in reversed(stages.items())]
    else:
        raise ConfigError(f"{str(folder)!r} holds no metrics.jsonl, so there is nothing to report yet")
    title = f"Report of {folder.resolve().name}"
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><h1>{escape(title)}</h1>\n{''.join(parts)}</body></html>\n"
    )
    path = folder / "report.html"
    write_atomic(path, page)
    return path


def before_and_after_section(folder: Path) -> str:
    """What ``align`` prints at its end, verdict first, and answers of both models; empty for other folders."""
    result = load_evaluation(folder / "evaluation.json")
    if result is None:
        return ""
    before, after = result["before"], result["after"]
    rows = [
        [words, before[key], after[key], after[key] - before[key]] for key, words in MEASURED.items() if key in before
    ]
    kind = "held-out prompts" if result["heldout"] else "training prompts (the recipe has no held-out ones)"
    means = table(["", "SFT", "PPO", "change"], rows, f"Means over {result['prompts']} {kind}.")
    keys = ["prompt", "response before", "response after", "score before", "score after", "gold before", "gold after"]
    keys += ["heldout before", "heldout after"]
    texts = samples_table(result["rows"], keys, "The same prompts, answered before and after.")
    says = "".join(f"<li>{escape(line)}</li>" for line in verdict(result))
    return f"<h2>Verdict</h2>\n<ul>{says}</ul>\n{means.html}\n<h3>Before and after</h3>\n{texts}"


def run_section(folder: Path, title: str) -> str:
    """Status, findings, curves, samples and configuration of one run."""
    metrics = read_metrics(folder / "metrics.jsonl")
    config = read_settings(folder / "config.yaml")
    manifest = read_manifest(folder / "manifest.json")
    return "".join(
        [
            f"<h2>{escape(title)}</h2>\n",
            f"<p>{escape(status(metrics, manifest))} {escape(origin(config, manifest))}</p>\n",
            findings_html(metrics, config),
            charts_html(metrics),
            samples_html(choose_samples(folder / "samples.jsonl")),
            folded("Last metrics and their usual bands", last_metrics(metrics)),
            folded("Configuration", table(["key", "value"], [[k, str(v)] for k, v in config.items()]).html),
            folded("Manifest", f"<pre>{escape(json.dumps(manifest, indent=2))}</pre>") if manifest else "",
        ]
    )


def status(metrics: Sequence[Mapping[str, Any]], manifest: Mapping[str, Any]) -> str:
    """One sentence on how far the run is."""
    done = f"{len(metrics)} iterations"
    if not manifest:
        return f"Not finished: {done} so far."
    return f"Finished: {done} in {manifest.get('seconds', 0):.0f} seconds."


def origin(config: Mapping[str, Any], manifest: Mapping[str, Any]) -> str:
    """What was run, and on what, as far as the run's folder says so."""
    data = next((config[key] for key in ("prompts", "data") if key in config), None)
    parts = [f"model {config['model']}"] if "model" in config else []
    parts += [f"on the data {data}"] if data else []
    parts += [f"judged by {config['reward_model']}"] if "reward_model" in config else []
    parts += [f"seed {config['seed']}"] if "seed" in config else []
    machine, versions = (
        {**part} if isinstance(part := manifest.get(key), dict) else {} for key in ("hardware", "versions")
    )
    cards = machine.get("gpus")
    device = ", ".join(map(str, cards)) if isinstance(cards, list) and cards else machine.get("processor")
    parts += [f"on {device}"] if device else []
    parts += [f"{name} {versions[name]}" for name in ("ppo_lib", "torch") if name in versions]
    return f"What was run: {', '.join(parts)}." if parts else ""


def findings_html(metrics: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> str:
    """What diagnostics say, worst first as they come."""
    found = diagnose(metrics, config)
    if not found:
        return "<p>Diagnostics: every metric looks as in a healthy run.</p>\n"
    boxes = [
        f'<div class="finding{" note" if f.note else ""}"><b>{escape(f.symptom)}</b> '
        f'<span class="quiet">({escape(f.metric)} {f.value:.3g} at iteration {f.iteration}; '
        f"usual: {escape(f.band)})</span>"
        f"<br>{escape(f.likely_cause)} {escape(f.remedy)}</div>\n"
        for f in found
    ]
    return "<h3>Diagnostics</h3>\n" + "".join(boxes)


def charts_html(metrics: Sequence[Mapping[str, Any]]) -> str:
    """One chart for each group of metrics that the run has."""
    figures = []
    kept = [metrics[i] for i in spaced(len(metrics), MOST_POINTS)]
    for caption, axis, names in CHARTS:
        figure = Figure(caption, x="iteration", y=axis)
        for metric, name in names.items():
            rows = [row for row in kept if row.get(metric) is not None]
            if rows:
                figure.line([row["iteration"] for row in rows], [row[metric] for row in rows], name)
        if figure.series:
            figures.append(figure)
    return panels(*figures)._repr_mimebundle_()["text/html"] + "\n" if figures else ""


def samples_html(rows: Sequence[Mapping[str, Any]]) -> str:
    """A few responses as a table."""
    if not rows:
        return ""
    return "<h3>Samples</h3>\n" + samples_table(rows, list(dict.fromkeys(key for row in rows for key in row)), "")


def samples_table(rows: Iterable[Mapping[str, Any]], keys: Sequence[str], caption: str) -> str:
    """Rows of texts and numbers; a key that no row has is no column."""
    rows = list(rows)
    keys = [key for key in keys if any(key in row for row in rows)]
    return table(keys, [[shown(row.get(key)) for key in keys] for row in rows], caption).html if rows else ""


def shown(value: Any) -> Any:
    """A value as a cell takes it: a text or a number; anything else written out."""
    if value is None or isinstance(value, str) or (is_metric(value) and not isinstance(value, bool)):
        return value
    return json.dumps(value, ensure_ascii=False)


def last_metrics(metrics: Sequence[Mapping[str, Any]]) -> str:
    """The last iteration's metrics beside the bands where they usually lie."""
    usual = bands()
    rows = [
        [name, value, str(usual[name]) if name in usual else "–", usual[name].meaning if name in usual else ""]
        for name, value in (metrics[-1].items() if metrics else ())
    ]
    return table(["metric", "value", "usual", "meaning"], rows).html


def folded(summary: str, content: str) -> str:
    """Content behind a line that opens it."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>\n"
