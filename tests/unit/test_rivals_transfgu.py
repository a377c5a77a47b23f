"""TransFGU: values of its authors' code, and tiny runs."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from rival_runs import runs_and_resumes
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from cause_lib.backbones import load_backbone
from cause_lib.tokens import embed
from cause_rivals.crops import as_masks, as_windows, boxes_of, soft_labels, top_mass
from cause_rivals.decoder import Decoder
from cause_rivals.frozen import before_last, class_attention, class_token, class_tokens
from cause_rivals.transfgu import losses_of, scaled
from cause_rivals.views import cut

with np.load(Path(__file__).resolve().parents[1] / "data/rivals/transfgu.npz") as file:
    A = {name: torch.from_numpy(np.asarray(file[name])) for name in file}
NAMES = {"cls_emb": "classes", "proj_patch": "of_patches", "proj_classes": "of_classes", "proj_dec": "embed",
         "decoder_norm": "norm", "mask_norm": "last", "blocks": "blocks"}
close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-12)


def authors(part: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(f"{part}."): value for name, value in A.items() if name.startswith(f"{part}.")}


def test_decoder():
    decoder = Decoder(12, 5, heads=2).double().eval()
    theirs = {}
    for name, value in authors("decoder").items():
        first, dot, rest = name.partition(".")
        theirs[NAMES[first] + dot + rest] = value[0] if first == "cls_emb" else value
    decoder.load_state_dict(theirs)
    logits, classes = decoder.both(A["tokens"])
    close(logits, A["decoder_masks"])
    close(classes, A["decoder_class_embeddings"])
    close(Decoder.apart(classes), A["cls_emb_loss_mean"])


@pytest.mark.parametrize("boot", [False, True])
@pytest.mark.parametrize("mode", ["thingstuff", "things"])
def test_losses(mode, boot):
    case = f"{mode}_{'boot' if boot else 'plain'}_"
    logits = A[f"{mode}_logits"].clone().requires_grad_()
    more = {"teacher": A[f"{mode}_teacher_logits"], "alpha": 0.05, "order": A[f"{mode}_negative_channel_order"]}
    entropy, undecided, labels = losses_of(logits, scaled(A["loss_pseudo"]), mode == "things", **more if boot else {})
    (entropy.mean() + 0.3 * undecided.mean()).backward()
    close(entropy.detach(), A[f"{case}ce_map"])
    close(undecided.detach(), A[f"{case}uncertainty"])
    close(logits.grad, A[f"{case}grad"])
    assert torch.equal(labels, A[f"{case}labels"])


def test_soft_pseudo_labels():
    vit = VisionTransformer(img_size=32, patch_size=8, embed_dim=12, depth=2, num_heads=2, mlp_ratio=2, num_classes=0,
                            global_pool="", norm_layer=partial(nn.LayerNorm, eps=1e-5), dynamic_img_size=True)
    vit = vit.double().eval().requires_grad_(False)
    vit.load_state_dict(authors("vit"))
    x = vit.blocks[0](embed(vit, A["vit_image"], "dino")[0])
    attention = class_attention(vit, x)
    close(attention, A["vit_last_attention"][:, :, 0])
    close(class_token(vit, x, attention), A["vit_last_tokens"][:, 0])
    close(soft_labels(vit, x, None, A["centroids"][0], batch=2, n=16), A["pseudo_label"].flatten(2))


def test_top_mass():
    assert torch.equal(top_mass(A["binarize_in"]), A["binarize_0p8"])


def test_class_tokens_of_both_families(monkeypatch):
    """Written out by hand, the last block gives the class token that timm's gives; of rotary positions, too."""
    from timm.models.eva import Eva

    torch.manual_seed(0)
    images = torch.rand(2, 3, 32, 32)
    for vit in (VisionTransformer(32, 8, embed_dim=24, depth=2, num_heads=2, init_values=0.5, reg_tokens=2, num_classes=0,
                                  global_pool="", dynamic_img_size=True),
                Eva(32, 8, embed_dim=24, depth=2, num_heads=2, init_values=0.5, num_classes=0, global_pool="",
                    use_rot_pos_emb=True, dynamic_img_size=True, ref_feat_shape=(4, 4))):
        backbone = load_backbone("bundled")
        backbone.vit = vit.eval().requires_grad_(False)
        wanted = vit((images - backbone.mean) / backbone.std)[:, 0]
        torch.testing.assert_close(class_tokens(backbone, images), wanted, rtol=1e-4, atol=1e-5)
        assert before_last(backbone, images)[0].shape[2] == 24


def test_a_backbone_without_class_token_is_refused():
    backbone = load_backbone("bundled")
    backbone.vit.cls_token = None
    with pytest.raises(ValueError, match="has no class token"):
        class_tokens(backbone, torch.rand(1, 3, 16, 16))


def test_boxes_are_the_authors_where_sides_are_odd():
    theirs = {tuple(mask.tolist()) for mask in A["anchors_10x10_scales0p5to0p2"]}
    ours = {tuple(mask.tolist()) for mask in as_masks(boxes_of((10, 10), "0.5 0.3"), (10, 10)).flatten(1).bool()}
    assert len(ours) == 80 and ours < theirs  # theirs has 5 more, of sides that were even


def test_a_box_is_cut_where_it_is():
    maps, boxes = torch.arange(80.0).view(1, 1, 8, 10), boxes_of((8, 10), "0.5")
    top, bottom, left, right = boxes[7].tolist()
    found = cut(maps, as_windows(boxes, (8, 10))[7:8], (bottom - top, right - left))
    torch.testing.assert_close(found, maps[:, :, top:bottom, left:right], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("more", [{}, {"boxes": "apart", "things": 1}, {"boxes": "foreground", "background": True}])
def test_runs(more, tmp_path, monkeypatch):
    settings = {"epochs": 4, "epoch_steps": 2, "boot_from": 1, "boot_every": 2, "heads": 3, "box_sides": "0.5",
                "crop_side": 16, "training_side": 24} | more
    metrics = runs_and_resumes("transfgu", tmp_path, settings, monkeypatch)
    assert {line["readout"] for line in metrics["results"]} == {"own", "kmeans"}
    assert F.relu(torch.tensor([line["miou"] for line in metrics["results"]])).min() > 0
