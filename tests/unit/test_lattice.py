"""The permutohedral lattice against one of a few lines that keeps its corners in a dictionary."""

import itertools
import math

import pytest
import torch

from cause_lib.kernels.lattice import _keys, permutohedral_lattice


def naive_filter(features, values):
    """Splat, blur, slice, point by point, corner by corner (Adams, Baek, Davis 2010, section 3.2)."""
    d, n = features.shape
    basis = torch.zeros(d + 1, d, dtype=torch.float64)  # onto the plane of d + 1 coordinates that add to 0
    for j in range(d):
        basis[:j + 1, j], basis[j + 1, j] = 1, -(j + 1)
        basis[:, j] *= (d + 1) * math.sqrt(2 / 3) / math.sqrt((j + 1) * (j + 2))
    table, corners = {}, []
    for point, value in zip((basis @ features).T, values):
        # The zeroth corner is the nearest point with all coordinates multiples of d + 1 that add to 0.
        base = (point / (d + 1)).round() * (d + 1)
        steps = (torch.tensor(s, dtype=torch.float64) for s in itertools.product((-1, 0, 1), repeat=d + 1))
        near = [x for x in (base + (d + 1) * step for step in steps) if x.sum() == 0]
        base = min(near, key=lambda x: float(((point - x) ** 2).sum()))
        order = (point - base).argsort(descending=True)
        mine = []
        for r in range(d + 1):  # corner r: every coordinate r, the r smallest offsets d + 1 less
            corner = base + r
            corner[order[d + 1 - r:]] -= d + 1
            mine.append(corner)
        shares = torch.linalg.solve(torch.cat([torch.stack(mine).T[:d], torch.ones(1, d + 1, dtype=torch.float64)]),
                                    torch.cat([point[:d], torch.ones(1, dtype=torch.float64)]))
        keys = [tuple(int(x) for x in corner) for corner in mine]
        corners.append((keys, shares))
        for key, share in zip(keys, shares):
            table[key] = table.get(key, 0) + share * value
    for j in range(d + 1):
        step = [1 - (d + 1) * (i == j) for i in range(d + 1)]
        beside = lambda key, sign: tuple(x + sign * s for x, s in zip(key, step))  # noqa: E731
        table = {key: value + (table.get(beside(key, 1), 0) + table.get(beside(key, -1), 0)) / 2
                 for key, value in table.items()}
    return torch.stack([sum(share * table[key] for key, share in zip(keys, shares)) for keys, shares in corners])


@pytest.mark.parametrize("d, n, spread", [(1, 12, 3.0), (2, 40, 2.0), (3, 30, 1.0), (5, 25, 0.6)])
def test_equals_the_naive_twin(d, n, spread):
    g = torch.Generator().manual_seed(d)
    features = spread * torch.randn(d, n, generator=g, dtype=torch.float64)
    values = torch.randn(n, 3, generator=g, dtype=torch.float64)
    torch.testing.assert_close(permutohedral_lattice(features[None]).filter(values), naive_filter(features, values),
                               rtol=1e-6, atol=1e-6)  # the scale is rounded to float32, as in pydensecrf


def test_float32_agrees_to_rounding():
    g = torch.Generator().manual_seed(0)
    features, values = torch.randn(1, 3, 200, generator=g), torch.rand(200, 4, generator=g)
    torch.testing.assert_close(permutohedral_lattice(features).filter(values).double(),
                               permutohedral_lattice(features.double()).filter(values.double()), rtol=1e-4, atol=1e-4)


def test_pictures_of_a_batch_do_not_see_each_other():
    g = torch.Generator().manual_seed(0)
    features, values = torch.randn(3, 2, 50, generator=g), torch.randn(150, 4, generator=g)
    features[2] = features[0]
    together = permutohedral_lattice(features).filter(values)
    alone = torch.cat([permutohedral_lattice(f[None]).filter(v) for f, v in zip(features, values.split(50))])
    assert torch.equal(together, alone)


def test_is_near_the_gaussian():
    g = torch.Generator().manual_seed(0)
    features = 1.5 * torch.randn(2, 300, generator=g, dtype=torch.float64)
    exact = torch.exp(-((features[:, :, None] - features[:, None]) ** 2).sum(0) / 2)  # (n, n)
    kernel = permutohedral_lattice(features[None]).filter(torch.eye(300, dtype=torch.float64))
    assert torch.corrcoef(torch.stack([kernel.flatten(), exact.flatten()]))[0, 1] > 0.97


def test_normalised_is_scaled_on_both_sides():
    features = torch.stack(torch.meshgrid(*[torch.arange(9.0)] * 2, indexing="ij")).flatten(1)[None] / 2
    lattice = permutohedral_lattice(features)
    kernel = lattice.filter(torch.eye(81))
    scale = kernel.sum(dim=1).rsqrt()
    torch.testing.assert_close(lattice.normalised(3.0).filter(torch.eye(81)), 3 * scale[:, None] * kernel * scale)


@pytest.mark.parametrize("d", [2, 3])
def test_collapsed_is_the_same_filter(d):
    g = torch.Generator().manual_seed(d)
    lattice = permutohedral_lattice(torch.randn(2, d, 30, generator=g, dtype=torch.float64)).normalised()
    values = torch.randn(60, 4, generator=g, dtype=torch.float64)
    torch.testing.assert_close(lattice.collapsed().filter(values), lattice.filter(values))


def test_absent_neighbours_are_no_entries():
    g = torch.Generator().manual_seed(0)
    for matrix in permutohedral_lattice(torch.randn(1, 3, 50, generator=g)).passes[1:-1]:
        assert bool((matrix.weights > 0).all()) and len(matrix.columns) < 9 * matrix.width
        assert torch.equal(matrix.columns[matrix.starts.long()], torch.arange(matrix.width, dtype=torch.int32))


@pytest.mark.parametrize("cells, dtype", [(30, torch.int32), (800, torch.int32), (850, torch.int64)])
def test_keys_take_32_bits_while_they_can(cells, dtype):
    """8 (cells + 4)^3 numbers, half of them below 0; however many there are, they are numbered in the same order."""
    g = torch.Generator().manual_seed(0)
    wide = cells * torch.rand(3, 200, generator=g).round(decimals=3)
    wide[:, 0], wide[:, 1] = 0, cells
    rank = torch.rand(4, 200, generator=g).argsort(dim=0)
    keys, strides = _keys(wide.round(), rank, 2)
    assert keys.dtype == dtype and bool((keys < 0).any())
    stride, low = torch.tensor(strides), wide.round().amin(dim=1).long() - 2
    here, apart = wide.round().long() - low[:, None], keys.long() - int(keys[0, 0])
    zeroth = (here * stride[:3, None]).sum(dim=0)  # (n,)
    zeroth[100:] += 4 * int((wide.round().amax(dim=1).long() - low + 2).prod())
    for r in range(4):  # the r-th corner is one less along the axes with rank above 3 - r
        expected = zeroth + r - ((rank > 3 - r) * stride[:, None]).sum(dim=0)
        assert torch.equal(apart[r], expected - zeroth[0])
    assert torch.equal(keys.long() % 4, torch.arange(4)[:, None].expand(4, 200))


@pytest.mark.parametrize("side", [10.0, 1400.0, 1700.0])  # 2^13, 2^31.6 and 2^32.4 numbers
def test_far_points_are_filtered_as_near_ones(side):
    g = torch.Generator().manual_seed(0)
    features = torch.randn(3, 30, generator=g, dtype=torch.float64)
    values = torch.randn(30, 2, generator=g, dtype=torch.float64)
    for j in range(3):
        features[j, 10 * j:10 * j + 10] += side
    torch.testing.assert_close(permutohedral_lattice(features[None]).filter(values), naive_filter(features, values),
                               rtol=1e-4, atol=1e-4)


def test_one_point_and_a_span_too_wide():
    assert permutohedral_lattice(torch.zeros(1, 5, 1)).filter(torch.ones(1, 2)).shape == (1, 2)
    with pytest.raises(ValueError, match="finite features"):
        permutohedral_lattice(torch.tensor([[[0.0, math.nan]]]))
    with pytest.raises(ValueError, match="standard deviations larger"):
        permutohedral_lattice(1e5 * torch.randn(1, 5, 4))
