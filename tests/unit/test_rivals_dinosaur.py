"""DINOSAUR: slots, decoders, losses and gradients are those of the authors' code."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cause_lib.errors import InputError
from cause_rivals import rival
from cause_rivals.dinosaur import Settings, SlotHead, build, rate_factor
from cause_rivals.segments import segment_vectors

with np.load(Path(__file__).parents[1] / "data/rivals/dinosaur.npz") as file:
    A = {name: torch.from_numpy(file[name]) for name in file}

NAMES = {"token_mlp.": "enter.", "slot_attention.to_": "attention.", "slot_attention.norm_input": "attention.norm_tokens",
         "slot_attention.ff_mlp.module.": "attention.mlp.", "slot_attention.": "attention.",
         "mlp_decoder.decoder.": "decoder.layers.", "ar_decoder.decoder.layers.": "decoder.layers.",
         "ar_decoder.cond_transform.": "decoder.remember.", "ar_decoder.inp_transform.": "decoder.enter."}


def made(decoder):
    """The method with the vectors' weights."""
    head = SlotHead(10, Settings(slots=3, width=8, decoder=decoder, hidden=14, layers=2, heads=2), (4, 4)).double()
    state = {"mu": A["cond_mu"], "logsigma": A["cond_logsigma"], "noise": A["cond_noise"][:1]}
    state |= ({"decoder.positions": A["mlp_decoder.pos_embed"][0]} if decoder == "mlp"
              else {"decoder.start": A["ar_decoder.bos_token"]})
    other = "ar_decoder." if decoder == "mlp" else "mlp_decoder."
    for name, value in A.items():
        old = next((old for old in NAMES if name.startswith(old) and not name.startswith(other)), None)
        if old:
            state[NAMES[old] + name[len(old):]] = value
    head.load_state_dict(state)
    return head


def test_slots_are_those_of_the_vectors():
    head = made("mlp")
    tokens = head.enter(A["tokens"])
    torch.testing.assert_close(tokens, A["token_mlp_out"], rtol=1e-9, atol=1e-12)
    start = head.mu + head.logsigma.exp() * A["cond_noise"]
    torch.testing.assert_close(start, A["slots_initial"], rtol=1e-9, atol=1e-12)
    for rounds, name in ((1, "slots_after_one_step"), (3, "slots_final")):
        torch.testing.assert_close(head.attention(start, tokens, rounds), A[name], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("decoder", "case"), [("mlp", "mlp"), ("transformer", "ar")])
def test_reconstructions_masks_and_losses_are_those_of_the_vectors(decoder, case):
    head = made(decoder)
    found, masks = head.decoder(A["slots_final"], A["tokens"], (4, 4))
    torch.testing.assert_close(found, A[f"{case}_reconstruction"], rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(masks.mT, A[f"{case}_masks"], rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(F.mse_loss(found, A["tokens"]), A[f"{case}_loss"], rtol=1e-9, atol=0)


def test_gradients_of_the_mlp_pass_all_rounds():
    head = made("mlp")
    F.mse_loss(head.reconstruct(A["tokens"], A["cond_noise"], (4, 4))[0], A["tokens"]).backward()
    for value, name in ((head.mu, "cond_mu"), (head.attention.k.weight, "to_k")):
        torch.testing.assert_close(value.grad, A[f"mlp_grad_{name}"], rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(head.decoder.positions.grad, A["mlp_grad_pos_embed"][0], rtol=1e-6, atol=1e-9)


def test_gradients_of_the_transformer():
    head = made("transformer")
    slots = head.attention(A["slots_initial"], head.enter(A["tokens"]), 3)
    F.mse_loss(head.decoder(slots, A["tokens"], (4, 4))[0], A["tokens"]).backward()
    torch.testing.assert_close(head.decoder.start.grad, A["ar_grad_bos"], rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(head.attention.v.weight.grad, A["ar_grad_to_v"], rtol=1e-6, atol=1e-9)


def test_the_rate_rises_and_halves_as_published():
    found = [rate_factor(step, 10_000, 100_000) for step in A["lr_factor_steps"].tolist()]
    assert found == pytest.approx(A["lr_factor"].tolist(), rel=1e-6)


def test_some_patches_are_decoded_as_all_are_and_positions_follow_the_grid():
    head, kept = made("mlp"), torch.tensor([3, 0, 9])
    whole, masks = head.decoder(A["slots_final"], A["tokens"], (4, 4))
    some, those = head.decoder(A["slots_final"], A["tokens"], (4, 4), kept)
    torch.testing.assert_close(some, whole[:, kept], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(those, masks[:, kept], rtol=1e-9, atol=1e-12)
    assert head.decoder(A["slots_final"], A["tokens"], (5, 6))[0].shape == (2, 30, 10)


def test_a_slot_is_described_by_its_masks_tokens():
    head = made("mlp")
    vectors, own = head.segments(A["tokens"], (4, 4))
    _, masks = head.reconstruct(A["tokens"], head.noise.expand(2, -1, -1), (4, 4))
    expected = F.normalize(torch.einsum("bnk,bnd->bkd", masks, A["tokens"]), dim=-1)
    torch.testing.assert_close(vectors, expected.detach(), rtol=1e-9, atol=1e-12)
    assert torch.equal(own, masks.argmax(dim=2))
    torch.testing.assert_close(vectors, segment_vectors(A["tokens"], masks).detach())


def test_tokens_of_twenty_times_the_norm_are_normed_and_a_segment_may_be_its_mean():
    torch.manual_seed(0)
    settings = Settings(slots=3, width=8, hidden=8, scale="normed", descriptor="segment")
    head, tokens = SlotHead(8, settings, (3, 3)), torch.randn(2, 9, 8)
    tokens[:, 4] *= 20
    vectors, own = head.segments(tokens, (3, 3))
    normed = (tokens - tokens.mean(2, keepdim=True)) / tokens.std(2, keepdim=True, unbiased=False)
    for t, v, segments in zip(normed, vectors, own):
        for s in segments.unique().tolist():
            torch.testing.assert_close(v[s], F.normalize(t[segments == s].mean(0), dim=0), rtol=1e-4, atol=1e-4)


def test_layers_of_the_transformer_start_alike():
    first, second = SlotHead(8, Settings(decoder="transformer", layers=2, heads=2, width=8), (2, 2)).decoder.layers
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(InputError, match="heads must divide the width of the tokens, 10, and 8 does not"):
        build(rival("dinosaur", "decoder=transformer"), 10, 3, (4, 4))
