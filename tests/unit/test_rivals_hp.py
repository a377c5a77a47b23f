"""HP (cause_rivals/hp.py, positives.py) against values of its authors' code, and against its equations written out."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cause_lib.backbones import load_backbone
from cause_lib.heads import ema_update
from cause_lib.tokens import attention_logits
from cause_rivals.heads import ChannelHead
from cause_rivals.positives import hidden_positives_loss, neighbour_weights


@pytest.fixture(scope="module")
def a():
    with np.load(Path(__file__).resolve().parents[1] / "data/rivals/hp.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file}


def inputs(a):
    return [F.normalize(a[name], dim=1) for name in ("f", "s_ema", "pool_agnostic", "pool_specific")]


@pytest.mark.parametrize("reweight", [0, 1])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_loss_and_gradients(a, share, reweight):
    case = f"v1_lambda{share}_reweight{reweight}_"
    raw = [a[name].clone().requires_grad_() for name in ("z_raw", "zmix_raw")]
    z = F.normalize(torch.stack(raw), dim=-1)
    loss = hidden_positives_loss(z, *inputs(a), a["random_keep_rho0.1"], share, 0.8, bool(reweight))
    loss.backward()
    torch.testing.assert_close(loss.detach(), a[f"{case}loss"], rtol=1e-5, atol=0)
    for x, name in zip(raw, ("grad_z", "grad_zmix")):
        torch.testing.assert_close(x.grad, a[case + name], rtol=1e-5, atol=1e-7)


def written_out(z, t, s, pool, pool_codes, keep, share, tau):
    """The loss of one kind of projections (N, r), patch by patch."""
    count, n, losses = len(z), len(keep), []
    by = [(x @ x.T, (x @ p.T).amax(dim=1)) for x, p in ((t, pool), (s, pool_codes))]
    positive = [(cosines > bound[:, None]) | (cosines > bound) for cosines, bound in by]
    for first in range(0, count, n):
        rows, sizes = [], []
        for i in range(first, first + n):
            others = [j for j in range(count) if j != i]
            if not any(positive[0][i, j] for j in others):
                continue
            w = {j: float(positive[0][i, j]) + share * float(positive[1][i, j]) for j in others}
            among = [j for j in others if positive[0][i, j] or keep[i - first, j]]
            log_sum = torch.stack([z[i] @ z[j] / tau for j in among]).logsumexp(dim=0)
            rows.append(-tau / 0.07 * sum(w[j] * (z[i] @ z[j] / tau - log_sum) for j in others))
            sizes.append(sum(w.values()))
        losses.append(sum(rows) / len(rows) / (sum(sizes) / len(sizes)) if rows else z.sum() * 0)
    return sum(losses) / len(losses)


@pytest.mark.parametrize("share", [0.0, 0.7])
def test_loss_is_its_equations(share):
    g = torch.Generator().manual_seed(1)

    def unit(*shape):
        return F.normalize(torch.randn(*shape, generator=g, dtype=torch.float64), dim=-1)

    t, s, pool, pool_codes = unit(24, 5), unit(24, 4), unit(9, 5), unit(9, 4)
    t[6:12] = torch.eye(5, dtype=torch.float64)[0]  # a picture whose patches are in the pool, too: no positives
    pool = torch.cat([pool, t[6:7], -t[6:7]])
    t[12:14] = t[0]
    z = unit(2, 24, 4).requires_grad_()
    keep = torch.rand(6, 24, generator=g) < 0.2
    loss = hidden_positives_loss(z, t, s, pool, pool_codes, keep, share, 0.5)
    expected = sum(written_out(each, t, s, pool, pool_codes, keep, share, 0.5) for each in z) / 2
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
    found, wanted = (torch.autograd.grad(3 * x, z)[0] for x in (loss, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


def test_no_positive_at_all_has_no_loss():
    z = F.normalize(torch.randn(1, 8, 3, generator=torch.Generator().manual_seed(0)), dim=-1).requires_grad_()
    t = torch.eye(8)
    loss = hidden_positives_loss(z, t, t, t, t, torch.zeros(4, 8, dtype=torch.bool), 0.5)
    loss.backward()
    assert float(loss.detach()) == 0 and not z.grad.any()


def test_mixed_codes(a):
    logits = a["vit_last_attention_logits"].double().mean(dim=1)[:, 1:, 1:]
    weights = neighbour_weights(logits, (4, 4))
    codes = a["head_code"].double().flatten(2).mT
    torch.testing.assert_close((weights @ codes).mT.unflatten(2, (4, 4)), a["head_code_mix"], rtol=1e-5, atol=1e-6)
    near = a["neighbour_mask"].bool()
    assert not weights[:, ~near].any() and torch.equal(near.sum(dim=1, keepdim=True), a["neighbour_count"])


def test_attention_logits_of_facets_are_those_of_the_block():
    """Of queries and keys of patches alone; softmax over all tokens differs from that by one number a row."""
    images = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    query, key = (load_backbone("bundled", facet=facet)(images) for facet in ("query", "key"))
    backbone = load_backbone("bundled")
    logits = attention_logits(backbone.vit, len(backbone.vit.blocks) - 1, query, key, None)
    weights = backbone.attention(images)[:, :, 1:, 1:]
    weights = weights / weights.sum(dim=-1, keepdim=True)
    torch.testing.assert_close(logits.softmax(dim=-1), weights, rtol=1e-4, atol=1e-6)
    mean = torch.einsum("bid,bjd->bij", query, key) / backbone.num_heads / (192 / backbone.num_heads) ** 0.5
    torch.testing.assert_close(logits.mean(dim=1), mean, rtol=1e-4, atol=1e-4)


def test_heads_of_student_and_average(a):
    heads = []
    for side in "ce":
        head = ChannelHead(10, 6).double().eval()
        arrays = {f"{ours}.{kind}": a[f"head_{side}{theirs}.{kind}_before"].double() for kind in ("weight", "bias")
                  for ours, theirs in (("f1", "1_0"), ("f2.0", "2_0"), ("f2.2", "2_2"))}
        head.load_state_dict({key: x.flatten(1) if x.ndim == 4 else x for key, x in arrays.items()})
        heads.append(head)
    tokens = a["vit_tokens_with_cls"].double()[:, 1:]
    for head, name in zip(heads, ("head_code", "head_code_ema")):
        torch.testing.assert_close(head(tokens).mT.unflatten(2, (4, 4)), a[name].double(), rtol=1e-5, atol=1e-6)
    ema_update(heads[1], heads[0], 0.99)
    after = a["head_e1_0.weight_after"].double().flatten(1)
    torch.testing.assert_close(heads[1].f1.weight, after, rtol=1e-6, atol=1e-8)
