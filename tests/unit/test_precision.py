"""bfloat16 where the hardware has it: what is asked for, what is computed, what is recorded."""

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from cause_lib import stages
from cause_lib.backbones import load_backbone
from cause_lib.kernels.bfloat16 import Tiled, quicken, tiled_attention
from cause_lib.runs import loop
from cause_lib.runs.features import in_bfloat16
from cause_lib.runs.loop import session, settled
from cause_lib.tokens import take


@pytest.fixture(params=[True, False], ids=["has bfloat16", "has none"])
def fast(request, monkeypatch):
    """A CPU with instructions for bfloat16, or without."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: request.param, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    return request.param


def test_auto_is_what_the_cpu_has_and_other_choices_stay(tiny, fast):
    assert settled(tiny(precision="auto")).precision == ("bf16_backbone" if fast else "no")
    for choice in ("no", "bf16", "bf16_backbone"):
        assert settled(run := tiny(precision=choice)) is run


def test_a_torch_that_cannot_tell_computes_in_float32(tiny, monkeypatch):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert settled(tiny(precision="auto")).precision == "no"


def test_the_record_says_what_was_computed_and_the_name_too(tiny, fast):
    run = tiny(precision="auto", head="mlp")
    folder = stages.fit_probe(run)
    computed = "bf16_backbone" if fast else "no"
    assert stages.read_record(folder)["experiment"]["precision"] == computed
    assert folder == stages.find(run, "probe") == stages.find(run.replace(precision=computed), "probe")
    assert (stages.find(run.replace(precision="no"), "probe") == folder) is not fast
    with session(run) as accelerator:  # heads and losses stay in float32
        assert accelerator.mixed_precision == "no"


@pytest.mark.parametrize("facet", ["token", "normed", "key"])
def test_blocks_in_bfloat16_give_nearly_the_same_tokens(facet):
    images = torch.rand(2, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    whole = load_backbone("bundled", None, facet=facet)
    half = in_bfloat16(load_backbone("bundled", None, facet=facet))
    assert {p.dtype for p in half.vit.blocks.parameters()} == {torch.bfloat16}
    assert half.vit.pos_embed.dtype == half.vit.norm.weight.dtype == torch.float32
    expected, found = whole(images), half(images).float()
    assert F.cosine_similarity(found, expected, dim=-1).mean() > 0.9999 and not torch.equal(found, expected)


def test_a_gpu_is_asked_for_its_generation(tiny, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for capability, precision in (((7, 5), "no"), ((8, 0), "bf16_backbone"), ((9, 0), "bf16_backbone")):
        monkeypatch.setattr(loop.torch.cuda, "get_device_capability", lambda capability=capability: capability)
        assert settled(tiny(precision="auto", device="auto")).precision == precision


@pytest.mark.parametrize("shape", [(2, 3, 37, 16), (1, 2, 530, 32), (1, 1, 1100, 8)])  # few heads; one; rows of one
def test_attention_by_tables_is_attention(shape):
    q, k, v = torch.randn(shape[0], shape[2], 3, shape[1], shape[3]).permute(2, 0, 3, 1, 4)
    expected = F.scaled_dot_product_attention(q, k, v)
    assert torch.allclose(tiled_attention(q, k, v), expected, atol=2e-6)
    with Tiled():
        assert torch.equal(F.scaled_dot_product_attention(q, k, v, dropout_p=0.0), tiled_attention(q, k, v))
        masked = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert torch.equal(masked, F.scaled_dot_product_attention(q, k, v, is_causal=True))


@pytest.mark.parametrize("packs", [True, False])
def test_packed_weights_keep_the_bits_and_are_left_out_where_torch_has_none(packs, monkeypatch):
    if not packs:
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False, raising=False)
    plain = nn.Sequential(nn.Linear(48, 80), nn.Linear(80, 16, bias=False)).to(torch.bfloat16).requires_grad_(False)
    x = torch.randn(2, 37, 48).to(torch.bfloat16)
    expected = plain(x)
    quicken(plain)
    assert torch.equal(plain(x), expected) and ("forward" in vars(plain[0])) <= packs


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "eva02_tiny_patch14_224"])
def test_quick_blocks_of_either_family_are_near_the_plain_ones(name):
    torch.manual_seed(0)
    vit = timm.create_model(name, num_classes=0, global_pool="", dynamic_img_size=True).eval().requires_grad_(False)
    images = torch.rand(2, 3, 112, 112)
    expected = take(vit, images, "antialiased", 3, "output")
    vit.blocks.to(torch.bfloat16)
    vit.blocks[0].register_forward_pre_hook(lambda _, inputs: (inputs[0].to(torch.bfloat16), *inputs[1:]))
    before = take(vit, images, "antialiased", 3, "output").float()
    quicken(vit.blocks)
    found = take(vit, images, "antialiased", 3, "output").float()
    assert F.cosine_similarity(found, expected, dim=-1).mean() > 0.9999 and not torch.equal(found, before)
