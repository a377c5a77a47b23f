"""book/errors.md: every sentence of ours that it quotes is one that the library says, every entry has a source."""

import re
import sys
import warnings
from argparse import Namespace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import TINY
from PIL import Image

from cause_lib import stages
from cause_lib.backbones import load_backbone
from cause_lib.config import Experiment
from cause_lib.crf import dense_crf
from cause_lib.data import load_dataset
from cause_lib.metrics import SegmentationMetrics
from cause_lib.runs.pictures import picture_tensor, write_mask

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "book/errors.md").read_text()
ENTRIES = dict(re.findall(r"^### (.+?)\n(.*?)(?=^##|\Z)", PAGE, re.M | re.S))
QUOTES = re.findall(r"^> (.+)$", PAGE, re.M)
IDS = np.zeros((20, 24), np.uint8)
IDS[:10], IDS[:, 20:] = 1, 2


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def folder(place, label="labels/{}.png", change=lambda ids: ids, classes=None, pictures=2, **options):
    """A small folder of pictures; labels in this place, changed so."""
    for i in range(pictures):
        save(place / f"images/p{i}.jpg", np.full((20, 24, 3), 90, np.uint8), **options)
        if label:
            save(place / label.format(f"p{i}"), change(IDS))
    if classes:
        (place / "classes.json").write_text(classes)
    return place


def read(place):
    dataset = load_dataset("folder", "train", image_size=20, folder=str(place))
    return [dataset.source.read(i) for i in range(len(dataset))]


def files(place, name):
    """No labels but files of this name, which are none."""
    folder(place, None)
    (place / "labels").mkdir()
    for i in range(2):
        (place / "labels" / name.format(f"p{i}")).write_text("{}")
    return place


def weights(place, state):
    place.mkdir()
    torch.save(state, place / "dino_vits16.pth")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAUSE_WEIGHTS", str(place))
        return load_backbone("dino_vits16", 32).description


def dino(prefix=""):
    """Names and shapes of DINO's ViT-S, nothing in it."""
    import timm

    with torch.device("meta"):
        model = timm.create_model("vit_small_patch16_224.dino", num_classes=0)
    return {prefix + key: torch.zeros(value.shape) for key, value in model.state_dict().items()}


def without_pydensecrf():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "pydensecrf", None)
        patch.setitem(sys.modules, "pydensecrf.densecrf", None)
        dense_crf(torch.rand(1, 3, 4, 4), torch.rand(1, 2, 4, 4), backend="pydensecrf")


def without_a_network(place):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAUSE_WEIGHTS", str(place))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(place))
        load_backbone("dino_vits16", 32)


def on_a_cpu(place):
    stages.evaluate(Experiment(dataset="folder", folder=str(folder(place)), run_dir=str(place / "runs"),
                               **TINY | {"precision": "fp16"}))


def unknown_parameter():
    from cause_lib.rules import refuse_unknown

    refuse_unknown(["sede"], ["seed", "head"], {})


def blurred(ids):
    return np.asarray(Image.fromarray(ids * 100).resize((9, 7), Image.BILINEAR).resize((24, 20), Image.BILINEAR))


@cache
def sentences(place):
    """What the library says in each of these situations."""
    turned = Image.Exif()
    turned[0x0112] = 6
    chunked = {re.sub(r"^blocks\.(\d+)", lambda found: f"blocks.{int(found[1]) // 12}.{found[1]}", key): value
               for key, value in dino().items()}
    examples = [
        lambda p: write_mask(IDS, np.zeros((3, 3), np.uint8), p / "mask.jpg"),
        lambda p: without_pydensecrf(),
        lambda p: weights(p, {"model": Namespace(), "x": SimpleNamespace(), "y": torch.nn.Linear(2, 2)}),
        lambda p: weights(p, {"teacher": dino("backbone."), "student": dino("module.backbone."), "args": Namespace(a=1)}),
        lambda p: weights(p, chunked),
        lambda p: weights(p, {"cls_token": torch.zeros(1, 1, 384)}),
        lambda p: load_backbone("bundled", 160, num_heads=5),
        lambda p: load_backbone("bundled", 160)(torch.rand(1, 3, 165, 165)),
        without_a_network,
        lambda p: read(folder(p, change=lambda ids: np.where(ids == 2, 255, 0).astype(np.uint8))),
        lambda p: read(folder(p, change=lambda ids: np.array([[0, 0, 0], [128, 64, 128], [9, 9, 9]], np.uint8)[ids],
                              classes='["a", "b", "c"]')),
        lambda p: read(folder(p, change=lambda ids: np.where(ids == 2, 15, ids).astype(np.uint8),
                              classes='["a", "b", "c"]')),
        lambda p: read(files(p, "{}.jpg")),
        lambda p: read(folder(p, change=blurred)),
        lambda p: read(folder(p, change=lambda ids: ids[::2, ::2])),
        lambda p: read(folder(p, exif=turned)),
        lambda p: read(folder(p, "labels/{}-sky.png")),
        lambda p: read(files(p, "{}.json")),
        lambda p: read(folder(p, "images/{}_mask.png")),
        lambda p: read(folder(p, "masks/{}.png")),
        lambda p: read(folder(p / "holiday/holiday").parent),
        lambda p: read(folder(p, "labels/{}.tif", lambda ids: ids / np.float32(2))),
        lambda p: (folder(p), (p / "labels/p1.png").unlink(), read(p)),
        lambda p: SegmentationMetrics(2).update(torch.full((1, 2, 2), 2), torch.zeros(1, 2, 2, dtype=torch.int64)),
        on_a_cpu,
        lambda p: picture_tensor(np.full((4, 4, 3), 255.0) * (np.arange(4) > 0)[:, None, None]),
        lambda p: Experiment(lr="1e-3"),
        lambda p: Experiment(crf="false"),
        lambda p: Experiment(run_dir=202611),
        lambda p: unknown_parameter(),
    ]
    said = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for i, example in enumerate(examples):
            try:
                said.append(str(example(place / str(i))))
            except (ValueError, OSError, RuntimeError) as error:
                said.append(str(error))
    return said + [str(warning.message) for warning in caught]


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    return sentences(tmp_path_factory.mktemp("said"))


@pytest.mark.parametrize("quote", QUOTES)
def test_a_quoted_sentence_is_what_the_library_says(said, quote):
    """`…` stands for what is another file or number with everybody."""
    pattern = ".*".join(re.escape(part) for part in quote.split("…"))
    assert [sentence for sentence in said if re.search(pattern, sentence)], quote


def test_nothing_of_ours_is_quoted_over_several_lines():
    assert len(QUOTES) >= 25 and not re.search(r"^> .+\n> ", PAGE, re.M)


@pytest.mark.parametrize("title", ENTRIES)
def test_every_entry_has_a_source(title):
    assert re.search(r"\]\(https://(github\.com/[\w.-]+/[\w.-]+/(issues|pull|blob)/|docs\.)", ENTRIES[title]), title


def test_every_source_is_given_by_its_number():
    found = re.findall(r"\[([^\]]*?)\]\(https://github\.com/[\w.-]+/[\w.-]+/(?:issues|pull)/(\d+)\)", PAGE)
    assert len(found) >= 60 and not [(text, number) for text, number in found if text.split()[-1] != number]


def test_what_the_page_names_in_this_repository_is_there():
    for path in re.findall(r"`((?:findings|cause_lib)/[\w./]+)`", PAGE):
        assert (ROOT / path).is_file(), path


def test_there_are_entries_for_each_of_what_people_use():
    assert len(ENTRIES) == PAGE.count("\n### ") >= 25
    assert {"STEGO", "PiCIE", "HP", "CAUSE", "pydensecrf", "papermill"} <= set(re.findall(r"\w+", PAGE))
