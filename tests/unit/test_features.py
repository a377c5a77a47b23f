"""Frozen features: read ahead, by a thread or by processes, with fused attention and the errors of the data set."""

import threading
import time
import types
import warnings

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from cause_lib.backbones import load_backbone
from cause_lib.runs.features import FrozenFeatures, ahead, open_dataset, read_batches
from cause_lib.runs.loop import session

CPU = types.SimpleNamespace(device=torch.device("cpu"))


@pytest.fixture
def no_thread_is_left():
    """After the test there are as many threads as before."""
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + 10  # a worker's queue may take a moment to close, on busy cores
    while not set(threading.enumerate()) <= before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert set(threading.enumerate()) <= before


@pytest.mark.usefixtures("no_thread_is_left")
@pytest.mark.parametrize("depth", [1, 2, 20])
def test_ahead_gives_the_same_items_in_order(depth):
    assert list(ahead(iter(range(10)), depth)) == list(range(10)) and list(ahead([], depth)) == []


@pytest.mark.usefixtures("no_thread_is_left")
def test_ahead_fetches_beside_the_work_and_no_further_than_asked():
    fetched, two = [], threading.Event()

    def items():
        for i in range(10):
            fetched.append(i)
            if i == 2:
                two.set()
            yield i

    stream = ahead(items(), 2)
    assert next(stream) == 0 and two.wait(60)  # items 1 and 2 are fetched while 0 is in use
    assert next(stream) == 1
    stream.close()
    assert fetched[:3] == [0, 1, 2] and len(fetched) <= 4


@pytest.mark.usefixtures("no_thread_is_left")
def test_ahead_fetches_with_one_thread_and_leaves_others_theirs():
    """Two threads that both compute with several would wait for each other's."""
    before, later = torch.get_num_threads(), []
    assert list(ahead(torch.get_num_threads() for _ in range(2))) == [1, 1]
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert torch.get_num_threads() == before and later == [before]


def test_ahead_hands_on_what_fetching_raises():
    def items():
        yield 1
        raise ValueError("one clear sentence")

    stream = ahead(items())
    assert next(stream) == 1
    with pytest.raises(ValueError, match="^one clear sentence$"):
        next(stream)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_the_data_set_whoever_reads_them(tiny, workers):
    dataset, batches = open_dataset(tiny(), "train", 48), [torch.tensor(views) for views in ([3, 0], [7], [1, 1])]
    state = torch.get_rng_state()
    read = list(read_batches(dataset, batches, CPU, workers))
    assert torch.equal(torch.get_rng_state(), state)
    assert [items["index"].tolist() for items in read] == [[3, 0], [7], [1, 1]]
    for items in read:
        for i, index in enumerate(items["index"].tolist()):
            assert torch.equal(items["image"][i], dataset[index]["image"])
            assert torch.equal(items["label"][i], dataset[index]["label"])


@pytest.mark.usefixtures("no_thread_is_left")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_cannot_be_read_is_one_sentence_whoever_read_it(tiny, workers):
    dataset = open_dataset(tiny(), "train", 48)
    path = dataset.source.read.images[1]
    path.write_bytes(path.read_bytes()[:100])
    batches = torch.arange(len(dataset)).split(2)
    with pytest.raises(ValueError, match=rf"^'{path}' cannot be read as a picture .*out of its folder$") as error:
        list(read_batches(dataset, batches, CPU, workers))
    assert "\n" not in str(error.value)
    Image.new("RGB", (64, 56)).save(path)
    assert len(list(read_batches(dataset, batches, CPU, workers))) == len(batches)


@pytest.mark.parametrize("workers", [0, 1])
def test_cached_and_live_tokens_of_the_patches_asked_for(tiny, workers):
    batches, patches = [torch.tensor([5, 2]), torch.tensor([0])], [torch.tensor([7, 0, 35]), torch.tensor([1, 2, 3])]
    with session(tiny()) as accelerator:
        kept = FrozenFeatures(tiny(), "train", 48, accelerator)
        live = FrozenFeatures(tiny(cache_gb=0.0, run_dir="nowhere", num_workers=workers), "train", 48, accelerator)
    assert kept.cached and not live.cached
    for features in (kept, live):
        whole, part = list(features.stream(batches)), list(features.stream(batches, patches))
        assert [tokens.shape for tokens in whole] == [(2, 36, 192), (1, 36, 192)]
        for tokens, some, wanted in zip(whole, part, patches):
            assert torch.equal(tokens[:, wanted], some)
    for a, b in zip(kept.stream(batches), live.stream(batches)):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("precision, dtype", [("no", torch.float32), ("bf16", torch.bfloat16)])
def test_attention_is_fused_in_the_precision_asked_for(tiny, monkeypatch, precision, dtype):
    """One scaled_dot_product_attention a block, its inputs in the run's precision; tokens come out in float32."""
    seen, attention = [], F.scaled_dot_product_attention

    def spy(q, k, v, *rest, **options):
        seen.append((q.dtype, k.dtype, v.dtype))
        return attention(q, k, v, *rest, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    run = tiny(precision=precision, cache_gb=0.0)
    with session(run) as accelerator:
        tokens = FrozenFeatures(run, "train", 48, accelerator).see(torch.rand(1, 3, 48, 48))
    assert tokens.dtype == torch.float32
    assert seen == [(dtype,) * 3] * len(load_backbone("bundled").vit.blocks)


def test_views_without_room_on_disk_are_said_unless_none_is_wanted(tiny):
    with session(tiny()) as accelerator:
        with pytest.warns(UserWarning, match=r"^\d+ views need cache_gb=0\.1: with less, the backbone is run again"):
            live = FrozenFeatures(tiny(cache_gb=1e-6), "train", 48, accelerator)
        assert not live.cached
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            FrozenFeatures(tiny(cache_gb=0.0), "train", 48, accelerator)
            assert FrozenFeatures(tiny(cache_gb=0.1), "train", 48, accelerator).cached
