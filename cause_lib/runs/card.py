"""A model card for a trained head: what it is, what it was measured to do, and whose licences hold.

Everything in it is read from `metrics.json` (or, where nothing was judged, from the artefact's record) and from the
`config.json` beside it, so that a card says nothing that was not measured. The form, card.md, is the hub's: Mitchell et
al. 2019, "Model cards for model reporting".
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cause_lib.backbones import licence_of
from cause_lib.runs.store import library_version

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

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
    from huggingface_hub import ModelCard, ModelCardData

    record = config["record"] or {}
    run, data, results = record.get("experiment", {}), record.get("dataset", {}), record.get("results", [])
    meta = ModelCardData(library_name="cause_lib", pipeline_tag="image-segmentation", license=licence,
                         tags=["unsupervised-semantic-segmentation", "cause"])
    return ModelCard.from_template(
        meta, template_path=str(Path(__file__).with_name("card.md")), address=name, config=config, record=record,
        run=run, data=data, results=results, backbone=config["backbone"], licence=licence, repository=REPOSITORY,
        method=results[0]["method"] if results else f"CAUSE-{config['head'].upper()}",
        about=data.get("name") or run.get("folder") or run.get("dataset") or "pictures that its record does not name",
        of_backbone=licence_of(config["backbone"]["name"]), library=record.get("library", library_version()))
