"""A Segmenter that is given away: its config.json and model card, and its way to the Hugging Face hub and back."""

import tempfile
from pathlib import Path
from typing import Any

from cause_lib.errors import NotFound
from cause_lib.heads import TRHead
from cause_lib.runs.saved import BACKBONE, CONFIG, CRF, FORMAT, MATCHINGS, WEIGHTS
from cause_lib.runs.store import library_version
from cause_lib.weights import BUNDLED, licence_of


def config_of(segment: Any, sha256: str) -> dict[str, Any]:
    """What `config.json` says of a Segmenter whose head and read-out are in the file of this SHA-256."""
    vit, kind = segment.backbone, "tr" if isinstance(segment.head, TRHead) else "mlp"
    return {"format": FORMAT, "library": library_version(), "head": kind, "readout": segment.readout,
            "grid": segment.head.grid if kind == "tr" else [1, 1], "image_size": segment.image_size,
            "resize": segment.resize, "squash": segment.squash, "smoothing": segment.smoothing, "sha256": sha256,
            "classes": segment.classes, "colors": segment.colors.tolist(),
            **{key: getattr(segment, key) for key in CRF},
            **{key: getattr(segment, key).tolist() if segment.matched else None for key in MATCHINGS},
            "backbone": {"name": vit.name, "num_heads": vit.num_heads, "positions": vit.positions,
                         "sha256": vit.weights_sha256, "included": vit.name == BUNDLED, "layer": vit.layer,
                         "facet": vit.facet, "mean": vit.statistics[0], "std": vit.statistics[1]},
            "record": segment.record and shareable(segment.record)}


def fetched(name: str | Path, revision: str | None) -> Path:
    """The folder `name`, or that of the hub's model of this name, fetched once; FileNotFoundError where neither is."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(str(name), revision=revision,
                                                      allow_patterns=[CONFIG, WEIGHTS, BACKBONE]))
    except Exception as error:  # the hub's clients raise a dozen kinds
        raise NotFound(f"{name} is no folder here, and the hub gave no model of that name "
                       f"({type(error).__name__}): check the name, and the network.") from error


def upload(segment: Any, name: str, private: bool | None, licence: str | None) -> str:
    """Upload what `save_pretrained` writes to the hub, as `owner/model`; returns its address."""
    import huggingface_hub

    api = huggingface_hub.HfApi()
    place = api.create_repo(name, private=private, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        segment.save_pretrained(folder, name=place.repo_id, licence=licence)
        api.upload_folder(repo_id=place.repo_id, folder_path=folder, commit_message="Segmenter of cause_lib")
    return str(place)


def shareable(record: dict[str, Any]) -> dict[str, Any]:
    """What of a `metrics.json` or `artefact.json` goes out with a head: no tables of counts, no paths of its maker."""
    kept = {key: record[key] for key in ("library", "weights", "device", "seconds", "date") if key in record}
    run = {key: value for key, value in record["experiment"].items() if key not in ("run_dir", "release")}
    kept["experiment"] = run | {"folder": Path(run["folder"]).name}
    if "dataset" in record:
        data = {key: value for key, value in record["dataset"].items() if key != "skipped"}  # whose reasons are paths
        kept["dataset"] = data | {"name": Path(data["name"]).name}
        kept["results"] = [{key: value for key, value in result.items() if key != "confusion"}
                           for result in record["results"]]
    return kept


def model_card(name: str, config: dict[str, Any], licence: str | None) -> str:
    """The card of a head, of its config.json; `name` is what `from_pretrained` is given."""
    from huggingface_hub import ModelCard, ModelCardData

    meta = ModelCardData(library_name="cause_lib", pipeline_tag="image-segmentation", license=licence,
                         tags=["unsupervised-semantic-segmentation", "cause"])
    return str(ModelCard.from_template(meta, template_path=str(Path(__file__).with_name("card.md")), address=name,
                                       config=config, licence=licence,
                                       of_backbone=licence_of(config["backbone"]["name"])))
