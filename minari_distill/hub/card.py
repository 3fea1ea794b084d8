"""The dataset card of a repository of synsets: README.md, its front matter and its generated blocks.

    <!-- minari-distill: hopper-v0 0123456789abcdef -->
    ## hopper-v0
    …
    <!-- minari-distill: end hopper-v0 -->

There is one block on use and one a synset. A block carries the hash of its text: one that someone has edited no
longer matches, and stays as it is. Everything outside the blocks belongs to whoever wrote it. In the front matter a
push writes what its synset needs to be found and loaded, and leaves every other entry alone.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import yaml
from gymnasium import spaces
from huggingface_hub import DatasetCard, DatasetCardData

from minari_distill.errors import HubError
from minari_distill.evaluate import Score
from minari_distill.layout import PARQUET
from minari_distill.recorded import is_number
from minari_distill.synset import Synset

USAGE = "usage"


class CardKept(UserWarning):
    """A section that someone has edited was left as it is."""


_BLOCK = re.compile(
    r"<!-- minari-distill: (?P<name>[-\w]+) (?P<digest>[0-9a-f]{16}) -->\r?\n"
    r"(?P<body>.*?)"
    r"<!-- minari-distill: end (?P=name) -->(?:\r?\n|$)",
    re.DOTALL,
)
_LICENSES = (
    "apache-2.0 mit bsd bsd-2-clause bsd-3-clause cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 "
    "cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 "
    "cc-by-nc-nd-4.0 gpl gpl-2.0 gpl-3.0 lgpl-3.0 agpl-3.0 mpl-2.0 odbl odc-by pddl unlicense"
).split()  # of those that the Hub has a name for, the ones that data sets bear
_SIZES = (
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
)

ABOUT = """# {title}

Synsets: small synthetic sets of (state, action) pairs, distilled from large offline-RL datasets such that
behavioural cloning on a few hundred pairs gives a policy close to one learnt from all the data.
"""

LIMITS = """### What they are not good for

They are for behavioural cloning only. Rewards, terminations and next observations are placeholders (an episode is one
step `[s, s]`, reward 0, truncated): offline RL, off-policy evaluation, world models and statistics of the environment
learn nothing true from them. The states are synthetic: none need be one that the environment reaches. Normalise
observations with the source dataset's mean and standard deviation, which travel in `synset.json`, not with those of
the pairs.

### Method

Offline behaviour distillation: the pairs are optimised through the training of the students that clone them, to bring
those close to a teacher that offline RL has learnt from the source dataset.

```bibtex
@inproceedings{lei2024obd,
  title     = {Offline Behavior Distillation},
  author    = {Lei, Shiye and Zhang, Sen and Tao, Dacheng},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2024},
  url       = {https://arxiv.org/abs/2410.22728}
}
```
"""


def write_card(
    card: str | None,
    synset: Synset,
    repo_id: str,
    name: str,
    *,
    figures: Sequence[str],
    present: Iterable[str],
) -> str:
    """The repository's card with `synset` in it under `name`, as the newest.

    Args:
        card: The card as it is; None where there is none.
        synset: What is pushed.
        repo_id: "user/repo".
        name: "hopper-distilled-v0".
        figures: Paths in the repository of its figures.
        present: Names of the synsets in the repository; others lose their entry in `configs`.

    Raises:
        HubError: The card's front matter is not YAML.
    """
    try:
        parsed = DatasetCard(card) if card else None
    except (yaml.YAMLError, ValueError, TypeError) as error:
        where = re.sub(r"\s+", " ", str(error))[:200]
        raise HubError(
            f"The front matter of README.md in '{repo_id}' is no YAML mapping ({where}). Mend it on the Hub, between "
            "the two lines of '---', and push again."
        ) from error
    before = parsed.data.to_dict() if parsed else {}
    for key in ("configs", "license", "size_categories", "tags", "task_categories"):
        if not isinstance(before.get(key), list | str | None):
            raise HubError(
                f"The front matter of README.md in '{repo_id}' has {key}: {before[key]!r}, where the Hub has a list. Mend it on the "
                "Hub, between the two lines of '---', and push again."
            )
    text = parsed.text if parsed else "\n" + ABOUT.format(title=_title(repo_id))
    first = not any(match["name"] == USAGE for match in _BLOCK.finditer(text))
    front = _front_matter(before, synset, repo_id, name, {*present, name}, first=first)
    text = _put_block(text, USAGE, usage(synset, repo_id, name) + "\n" + LIMITS)
    text = _put_block(text, name, describe(synset, repo_id, name, figures))
    if parsed and front == before:
        return str(card)[: len(str(card)) - len(parsed.text)] + text  # comments in the YAML stay
    return f"---\n{DatasetCardData(**front).to_yaml(original_order=list(before))}\n---\n{text}"


def lists(card: str | None, name: str) -> bool:
    """Whether a card already makes `name` loadable by Hugging Face datasets."""
    try:
        configs = DatasetCard(card).data.to_dict().get("configs") if card else None
    except (yaml.YAMLError, ValueError, TypeError):
        return False
    return any(isinstance(c, dict) and c.get("config_name") == name for c in configs or [])


# ------------------------------------------------------------------------------------------- front matter


def _front_matter(
    before: dict[str, Any], synset: Synset, repo_id: str, name: str, present: set[str], *, first: bool
) -> dict[str, Any]:
    """The front matter with what `name` needs; what holds for every synset is added only the first time."""
    front = dict(before)
    config = {"config_name": name, "data_files": _data_files(name), "default": True}
    front["configs"] = [config]
    for other in before.get("configs") or []:
        if not isinstance(other, dict) or other.get("config_name") == name:
            continue
        ours = other.get("data_files") == _data_files(str(other.get("config_name")))
        if not ours or other.get("config_name") in present:
            front["configs"].append({key: value for key, value in other.items() if key != "default"})
    new = not any(isinstance(c, dict) and c.get("config_name") == name for c in before.get("configs") or [])
    if first:
        front.setdefault("pretty_name", _title(repo_id))
        _add(front, "task_categories", "reinforcement-learning")
        for tag in ("minari", "gymnasium", "offline-rl", "dataset-distillation", "behavior-cloning"):
            _add(front, "tags", tag)
    if first or new:
        _add(front, "size_categories", next(label for limit, label in _SIZES if len(synset) < limit))
        if synset.source.env_id:
            _add(front, "tags", synset.source.env_id)
        if synset.source.license or not (first and "license" in before):  # what the owner wrote stays
            _add_license(front, synset.source.license)
    return front


def _data_files(name: str) -> list[dict[str, str]]:
    return [{"split": "train", "path": f"{name}/{PARQUET.as_posix()}"}]


def _add(front: dict[str, Any], key: str, value: str) -> None:
    there = front.get(key)
    values = [there] if isinstance(there, str) else list(there or [])
    if value not in values:
        front[key] = [*values, value]


def _add_license(front: dict[str, Any], license: str | None) -> None:
    """The source's licence under the Hub's name for it, "other" where it has none, "unknown" if the source states none."""
    known = re.sub(r"[\s_]+", "-", (license or "unknown").strip().lower())
    name = known if known in (*_LICENSES, "unknown") else "other"
    if "license" in front:
        _add(front, "license", name)
    else:
        front["license"] = name
    if name == "other":
        front.setdefault("license_name", re.sub(r"[^a-z0-9.]+", "-", known).strip("-") or "see-source")


# ------------------------------------------------------------------------------------------------- blocks


def _put_block(text: str, name: str, body: str) -> str:
    """`text` with the block replaced, or added after the last one; one that was edited by hand stays."""
    block = f"<!-- minari-distill: {name} {_digest(body)} -->\n{body}<!-- minari-distill: end {name} -->\n"
    for match in _BLOCK.finditer(text):
        if match["name"] == name:
            if _digest(match["body"]) != match["digest"]:
                warnings.warn(
                    f"The card's section on {name} was edited by hand and stays as it is. To have it written anew, "
                    "delete it from README.md, comments and all, and push again.",
                    CardKept,
                    stacklevel=2,
                )
                return text
            return text[: match.start()] + block + text[match.end() :]
    ends = [match.end() for match in _BLOCK.finditer(text)]
    at = ends[-1] if ends else len(text)
    return text[:at].rstrip("\n") + "\n\n" + block + text[at:]


def _digest(body: str) -> str:
    return hashlib.sha256(body.replace("\r\n", "\n").encode()).hexdigest()[:16]


def usage(synset: Synset, repo_id: str, name: str) -> str:
    """How to load a synset, in three lines for each library."""
    user, repo = repo_id.split("/")
    columns = [
        f"{kind}.{part.name}" if part.name else kind
        for kind, codec in (("observation", synset.observation_codec), ("action", synset.action_codec))
        for part in codec.parts
    ]
    networks = (
        f"Networks read these pairs badly, which are for students of infinite width. For networks, first: `minari-distill expand hf://{repo_id}/{name} "
        "-o me/many-v0`\n\n"
        if synset.recipe.infinite
        else ""
    )
    return f"""## Use

{networks}Behavioural cloning{"" if synset.recipe.batch else " in about a second"}, with [minari-distill](https://pypi.org/project/minari-distill):

```python
import minari_distill as md
policy = md.behavior_clone(md.load_synset("hf://{repo_id}/{name}"))
action = policy.act(observation)
```

[Minari](https://minari.farama.org):

```python
import os, minari
os.environ["MINARI_REMOTE"] = "hf://{user}"
dataset = minari.load_dataset("{repo}/{name}", download=True)
```

[datasets](https://huggingface.co/docs/datasets), columns {", ".join(f"`{_inline(c)}`" for c in columns)}:

```python
from datasets import load_dataset
pairs = load_dataset("{repo_id}", "{name}", split="train").with_format("numpy")
first_actions = pairs[{json.dumps(columns[-1])}][:10]
```

PyTorch:

```python
from datasets import load_dataset; from torch.utils.data import DataLoader
pairs = load_dataset("{repo_id}", "{name}", split="train").with_format("torch")
batches = DataLoader(pairs, batch_size=256, shuffle=True)
```
""" + _d3rlpy(synset, repo_id, name)


def _d3rlpy(synset: Synset, repo_id: str, name: str) -> str:
    """The lines for d3rlpy, which knows a vector or one category, counted from 0, as an action."""
    space = synset.action_codec.kept_space
    if isinstance(space, spaces.Discrete):
        clone = "" if space.start else "DiscreteBC"
    else:
        clone = "BC" if isinstance(space, spaces.Box) and len(space.shape) == 1 else ""
    if not clone:
        return ""
    return f"""
[d3rlpy](https://d3rlpy.readthedocs.io):

```python
import d3rlpy, minari_distill as md; from minari_distill.exporters.d3rlpy import mdp_dataset, scalers
pairs = md.load_synset("hf://{repo_id}/{name}")
dataset, bc = mdp_dataset(pairs), d3rlpy.algos.{clone}Config(**scalers(pairs))
```
"""


def describe(synset: Synset, repo_id: str, name: str, figures: Sequence[str]) -> str:
    """What a synset is, where it comes from and how it scores."""
    source, config, metadata = synset.source, synset.config, synset.metadata
    ids = ", ".join(f"`{_inline(i)}`" for i in source.dataset_ids)
    rows = {
        "source": f"{ids}, {source.total_steps:,} steps in {source.total_episodes:,} episodes",
        "licence of the source": _inline(source.license) if source.license else "not stated in its metadata",
        "authors of the source": _inline(", ".join(source.author)),
        "environment": f"`{_inline(source.env_id)}`" if source.env_id else "",
        "observations": f"{len(synset)} × {synset.observation_codec.dim} {synset.observations.dtype}, in the units "
        "of the source",
        "actions": f"{len(synset)} × {synset.action_codec.dim} {synset.actions.dtype}"
        + (", probabilities of the actions" if synset.action_codec.is_discrete else ""),
        "student": synset.recipe.told + (" of `synset.json`" if synset.recipe.in_metric else ""),
    }
    expansion = metadata.get("expansion")
    if isinstance(expansion, dict) and is_number(expansion.get("n_syn")):
        rows["made of"] = (
            f"{expansion['n_syn']} distilled pairs, by `expand` from the student that they were distilled for"
        )
    if synset.recipe.infinite:
        rows["for networks"] = (
            f"they read these pairs badly: first `minari-distill expand hf://{repo_id}/{name} -o me/many-v0`"
        )
    if config:
        rows["objective"] = (
            f"{_inline(config.objective)}, {config.outer_steps} outer steps, seed {config.seed}"
        )
    if is_number(metadata.get("held_out_loss")):
        rows["loss on held-out states"] = f"{metadata['held_out_loss']:.4f}"
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items() if value)
    parts = [f"## {name}\n", f"| | |\n|---|---|\n{table}\n", _scores(synset, repo_id, name)]
    captions = {"states": "Distilled states", "learning-curve": "Loss on held-out states during distillation"}
    for figure in figures:
        caption = captions[figure.rsplit("/", 1)[-1].removesuffix(".png")]
        parts.append(f"![{caption} of {name}]({figure})\n")
    return "\n".join(part for part in parts if part)


_MEASURED_BY = {
    "recipe students": "",
    "synset": "",
    "synset at infinite width": "",
    "general students": " --recipe general",
}
"""Rows of scores that `evaluate` measures again, and by which options."""


def _scores(synset: Synset, repo_id: str, name: str) -> str:
    """Scores with their intervals, the protocol behind them, and the command that measures them again."""
    scores = synset.metadata.get("scores")
    rows = {k: v for k, v in scores.items() if _is_score(v)} if isinstance(scores, dict) else {}
    if not rows:
        return ""
    lines = ["| policy | score | 95 % interval | policies × episodes |", "|---|---|---|---|"]
    for policy, row in rows.items():
        width = row.get("ci95_half_width")
        mean, _, spread = str(Score(row["mean"], width if is_number(width) else math.nan, 1)).partition(" ")
        runs = f"{row.get('n_policies', '?')} × {row.get('n_episodes', '?')}"
        label = _inline(policy.replace("_", " "))
        lines.append(f"| {label} | {mean} | {spread or 'one value'} | {_inline(runs)} |")
    known = {policy.replace("_", " "): row for policy, row in rows.items()}
    again = next((policy for policy in _MEASURED_BY if policy in known), None)
    row = next(iter(rows.values())) if again is None else known[again]
    unit, origin = _inline(row.get("unit", "as recorded")), _inline(row.get("ref_origin") or "")
    greedy = "Greedy rollouts; " if row.get("greedy") else ""
    references = f", reference scores from {origin}" if origin else ""
    students, episodes = row.get("n_policies"), row.get("n_episodes")
    options = ""
    if again is not None and _are_counts(students, episodes):
        options = f"{_MEASURED_BY[again]} --students {students} --episodes {episodes}"
    what = "students" if again is None else _inline(again)
    return "\n".join(lines) + (
        f"\n\n{greedy}unit: {unit}{references}. Measure {what} again with:\n\n"
        f"```bash\nminari-distill pull hf://{repo_id}/{name}\n"
        f"minari-distill evaluate {repo_id.split('/')[1]}/{name}{options}\n```\n"
    )


def _title(repo_id: str) -> str:
    return repo_id.split("/")[1].replace("-", " ").replace("_", " ").capitalize()


def _is_score(row: Any) -> bool:
    return isinstance(row, dict) and is_number(row.get("mean"))


def _are_counts(*values: Any) -> bool:
    return all(isinstance(value, int) and not isinstance(value, bool) and value > 0 for value in values)


def _inline(value: Any) -> str:
    """Text that stays inside its table cell, whatever it holds."""
    return re.sub(r"[\s|`<>\[\]]+", " ", str(value)).strip()
