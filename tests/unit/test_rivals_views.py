"""Views of pictures and tokens: functions of a picture's number alone, and both cut at the same place."""

import torch

from cause_rivals.views import altered, cut, cut_tokens, photometric, windows

COLOURS = dict(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, grey=0.5, blur=0.5)


def test_a_picture_is_altered_by_its_number_alone():
    images, before = torch.rand(3, 3, 16, 16), torch.random.get_rng_state()
    index = torch.tensor([4, 0, 9])
    whole = altered(images, index, smallest=0.5, flip=0.5, **COLOURS)
    one = altered(images[2:], index[2:], smallest=0.5, flip=0.5, **COLOURS)
    assert torch.equal(whole[2:], one) and whole.min() >= 0 and whole.max() <= 1
    assert not torch.equal(one, altered(images[2:], index[2:], smallest=0.5, flip=0.5, seed=1, **COLOURS))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_nothing_is_altered_where_nothing_is_asked_for():
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(photometric(images, torch.arange(2)), images)
    torch.testing.assert_close(cut(images, windows(torch.arange(2))), images)
    torch.testing.assert_close(cut(images, windows(torch.arange(2), flip=1.0)), images.flip(-1))


def test_tokens_are_cut_where_pictures_are():
    grid, index = (6, 8), torch.arange(20)
    rows, columns = torch.meshgrid(*(torch.linspace(0, 1, side) for side in grid), indexing="ij")
    maps = torch.stack([rows, columns, rows * columns]).expand(20, -1, -1, -1)
    window = windows(index, smallest=0.5, largest=0.8, flip=0.5)
    seen = cut(maps, window)
    tokens = cut_tokens(maps.flatten(2).mT, window, grid)
    torch.testing.assert_close(tokens.mT.unflatten(2, grid), seen)
    sides = window[:, 0, 0].abs()
    assert (sides >= 0.5).all() and (sides <= 0.8).all() and (window[:, 0, 0] < 0).any() and (window[:, 0, 0] > 0).any()
    assert (window[:, :, 2].abs() <= 1 - sides[:, None] + 1e-6).all()  # inside the picture
