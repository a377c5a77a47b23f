"""bfloat16 where the hardware has it: what is asked for, what is computed, what is recorded."""

import pytest
import torch
import torch.nn.functional as F

from cause_lib import stages
from cause_lib.backbones import load_backbone
from cause_lib.runs import loop
from cause_lib.runs.features import in_bfloat16
from cause_lib.runs.loop import session, settled


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


@pytest.mark.parametrize("facet", ["token", "key"])
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
