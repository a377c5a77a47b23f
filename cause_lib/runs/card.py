"""A model card for a trained head: what it is, what it was measured to do, and whose licences hold.

Everything in it is read from `metrics.json` (or, where nothing was judged, from the artefact's record) and from the
`config.json` beside it, so that a card says nothing that was not measured. The form is the hub's: Mitchell et al. 2019,
"Model cards for model reporting".
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from cause_lib.runs.store import library_version
from cause_lib.backbones import licence_of

REPOSITORY = "https://github.com/cause-book/cause-book"


def shareable(record: dict[str, Any] | None) -> dict[str, Any] | None:
    """What of a `metrics.json` or `artefact.json` goes out with a head: no tables of counts, no paths of its maker."""
    if record is None:
        return None
    kept = {key: record[key] for key in ("library", "weights", "device", "seconds", "date") if key in record}
    run = {key: value for key, value in record["experiment"].items() if key not in ("run_dir", "release")}
    kept["experiment"] = run | {"folder": Path(run["folder"]).name}
    if "dataset" in record:
        data = {key: value for key, value in record["dataset"].items() if key != "skipped"}  # whose reasons are paths
        kept["dataset"] = data | {"name": Path(data["name"]).name}
        kept["results"] = [{key: value for key, value in result.items() if key != "confusion"}
                           for result in record["results"]]
    return kept


def model_card(name: str, config: dict[str, Any], licence: str | None = None) -> ModelCard:
    """The card of a head.

    Args:
        name: what `Segmenter.from_pretrained` is given to load it. config: its `config.json`, with the `record` that
            `shareable` leaves. licence: what the head is given away under, as the hub calls it (`mit`, `cc-by-4.0`);
            None leaves that open.
    """
    record = config["record"] or {}
    run, data, backbone = record.get("experiment", {}), record.get("dataset", {}), config["backbone"]
    method = next((result["method"] for result in record.get("results", [])), f"CAUSE-{config['head'].upper()}")
    about = data.get("name") or run.get("folder") or run.get("dataset") or "pictures that its record does not name"
    facts = {
        "method": f"{method}, read-out `{config['readout']}`",
        "data set": about + (f", judged on {data['images']} pictures of split `{data['split']}`" if data else ""),
        "labels in training": {True: "none", False: "yes, in step 3"}.get(run.get("label_free"), "not recorded"),
        "classes": f"{', '.join(config['classes'])}; clusters matched to them on the judged split"
                   if config["assignment"] else f"{len(config['classes'])}, not matched to clusters",
        "backbone": f"`{backbone['name']}`, {backbone['num_heads']} attention heads, positions "
                    f"`{backbone['positions']}`, weights {'' if backbone['included'] else 'not '}included",
        "backbone's SHA-256": f"`{backbone['sha256']}`",
        "pictures": f"short side {config['image_size']} pixels, `{config['resize']}`",
        "made with": f"cause_lib {record.get('library', library_version())}",
    }
    if "device" in record:
        facts["judged on" if "results" in record else "trained on"] = ", ".join(
            [record["device"], f"in {record['seconds']:.0f} seconds", *([record["date"]] if "date" in record else [])])
    of_backbone = licence_of(backbone["name"])
    text = f"""# {method} on {about}

A head for unsupervised semantic segmentation: a picture in, a mask out. Made with [cause_lib]({REPOSITORY}) after Kim
et al., "Causal Unsupervised Semantic Segmentation".

```python
from cause_lib.segmenter import Segmenter

segment = Segmenter.from_pretrained("{name}")
mask = segment("picture.jpg")  # int64 (h, w), indices into segment.classes
```

## What it is

{_table(["", ""], [[key, value] for key, value in facts.items()])}

## What it was measured to do

{_numbers(record)}

## Licences

- The head: {f'`{licence}`' if licence else 'whoever made it has named none; ask them'}.
- The backbone's weights: {f'`{of_backbone}`' if of_backbone else 'see those who publish them'}.
- The data set has terms of its own, which hold for what is learned from it as far as they say so.
"""
    head = ModelCardData(library_name="cause_lib", pipeline_tag="image-segmentation", license=licence,
                         tags=["unsupervised-semantic-segmentation", "cause"])
    return ModelCard(f"---\n{head.to_yaml()}\n---\n\n{text}")


def _numbers(record: dict[str, Any]) -> str:
    if not record.get("results"):
        return "It was not judged."
    if not record["dataset"]["labelled"]:
        return "Its pictures have no labels, so there are no scores."
    rows = [[result["readout"], "yes" if result["crf"] else "no", f"{100 * result['miou']:.1f}",
             f"{100 * result['pacc']:.1f}", f"{result['clusters_used']} of {result['num_clusters']}"]
            for result in record["results"]]
    return _table(["read-out", "CRF", "mIoU (%)", "pixel accuracy (%)", "clusters used"], rows)


def _table(heading: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (heading, ["---"] * len(heading), *rows))
