"""Heads: shapes, the decoder against torch's own layer, dropout, the teacher."""

import copy

import pytest
import torch
from torch import nn

from cause_lib.heads import MLPHead, TRHead, drop, ema_update
from cause_lib.runs.saved import restore_head


def test_shapes_and_other_grids():
    tokens = torch.randn(2, 12, 8)
    assert MLPHead(8, 5)(tokens).shape == (2, 12, 5)
    head = TRHead(torch.randn(7, 8), (3, 4), 5).eval()
    assert head(tokens).shape == (2, 12, 5)
    assert head(torch.randn(2, 30, 8), (5, 6)).shape == (2, 30, 5)
    with pytest.raises(ValueError, match="12 patches for a grid of 2 x 5"):
        head(tokens, (2, 5))


def test_mlp_head_is_the_sum_of_two_branches():
    head, t = MLPHead(4, 3).eval(), torch.randn(1, 2, 4)
    hidden = torch.relu(t @ head.f2[0].weight.T + head.f2[0].bias)
    expected = t @ head.f1.weight.T + head.f1.bias + hidden @ head.f2[2].weight.T + head.f2[2].bias
    torch.testing.assert_close(head(t), expected)


def test_tr_head_equals_a_torch_decoder_layer_when_positions_are_nought():
    """Without positions the decoder is torch's post-norm TransformerDecoderLayer, weights and all."""
    head = TRHead(torch.randn(7, 8, dtype=torch.float64), (3, 4), 5).double().eval()
    nn.init.zeros_(head.query_pos)
    layer = nn.TransformerDecoderLayer(8, 1, 2048, batch_first=True, dtype=torch.float64).eval()
    ours = head.state_dict()
    layer.load_state_dict({name: ours[name] for name in layer.state_dict()})
    tokens = torch.randn(2, 12, 8, dtype=torch.float64)
    with torch.no_grad():
        expected = head.mlp(tokens + layer(head.clusterbook.quantize(tokens), tokens))
        torch.testing.assert_close(head(tokens), expected)


def test_attention_in_training_is_the_same_but_for_what_is_dropped():
    head, tokens = TRHead(torch.randn(7, 8), (3, 4), 5, dropout=1e-6), torch.randn(2, 12, 8)  # so little drops nothing
    torch.testing.assert_close(head.train()(tokens), head.eval()(tokens), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("patches", [[7], [3, 0, 11], list(range(11, -1, -1))])
@pytest.mark.parametrize("training", [False, True])
def test_some_patches_only_are_those_of_all(patches, training):
    """Values and gradients, whether the keys are projected or the queries; as good as nothing is dropped."""
    head = TRHead(torch.randn(7, 8, dtype=torch.float64), (3, 4), 5, dropout=1e-6).double().train(training)
    nn.init.normal_(head.self_attn.in_proj_bias), nn.init.normal_(head.multihead_attn.in_proj_bias)
    tokens, kept = torch.randn(2, 12, 8, dtype=torch.float64), torch.tensor(patches)
    few, all_ = head(tokens, None, kept), head(tokens)[:, kept]
    torch.testing.assert_close(few, all_, atol=1e-5, rtol=1e-5)
    wanted = [p for p in head.parameters() if p.requires_grad]
    for one, other in zip(*(torch.autograd.grad(x.square().sum(), wanted) for x in (few, all_))):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    mlp = head.mlp.eval()
    torch.testing.assert_close(mlp(tokens, None, kept), mlp(tokens)[:, kept])


def test_every_parameter_learns():
    head = TRHead(torch.randn(7, 8), (3, 4), 5)
    head(torch.randn(2, 12, 8)).square().sum().backward()
    weights = [p for name, p in head.named_parameters() if "bias" not in name]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in weights)


def test_drop_keeps_the_mean_and_drops_its_share():
    x = torch.ones(200, 501)
    y = drop(x, 0.1, True)
    assert abs(float((y == 0).double().mean()) - 0.1) < 0.005 and abs(float(y.mean()) - 1) < 0.005
    torch.testing.assert_close(y.unique(), torch.tensor([0, 1 / 0.9]))
    assert drop(x, 0.1, False) is x and drop(x, 0.0, True) is x
    torch.manual_seed(3)
    first = drop(x, 0.5, True)
    torch.manual_seed(3)
    assert torch.equal(first, drop(x, 0.5, True))


def test_teacher_is_a_moving_average_with_storage_of_its_own():
    student = MLPHead(4, 3)
    teacher = copy.deepcopy(student)
    before = [p.clone() for p in teacher.parameters()]
    with torch.no_grad():
        for p in student.parameters():
            p.add_(1)
    assert all(torch.equal(a, b) for a, b in zip(before, teacher.parameters()))
    ema_update(teacher, student, 0.9)
    for a, t, s in zip(before, teacher.parameters(), student.parameters()):
        torch.testing.assert_close(t, 0.9 * a + 0.1 * s)


@pytest.mark.parametrize("kind", ["mlp", "tr"])
def test_a_head_comes_back_from_its_tensors(kind):
    """Kind and widths are read off them; nothing is drawn, and what does not fit is refused."""
    head = MLPHead(8, 3) if kind == "mlp" else TRHead(torch.randn(5, 8), (2, 3), 3, hidden_dim=16)
    head.eval().requires_grad_(False)
    torch.manual_seed(0)
    drawn = torch.rand(2)
    torch.manual_seed(0)
    again = restore_head(head.state_dict(), (2, 3), dropout=0.3)
    assert torch.equal(torch.rand(2), drawn) and again.dropout == 0.3
    tokens = torch.randn(2, 6, 8)
    assert torch.equal(again(tokens), head(tokens)) and not again.training
    with torch.no_grad():  # its storage is its own
        next(again.parameters()).add_(1)
    assert not torch.equal(again(tokens), head(tokens))
    with pytest.raises(RuntimeError, match="unexpected"):
        restore_head(head.state_dict() | {"unexpected": torch.zeros(1)}, (2, 3))
