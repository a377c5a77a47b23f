"""Laws that the losses, the bank and the read-outs keep on whatever is put into them, with Hypothesis.

What the mathematics leaves alone must stay: cosines know neither the length of a vector nor a rotation of all of them,
and a mean over patches knows no order of patches, pictures, concepts or classes. What is extreme must stay finite.
"""

import itertools
import math
from collections import deque

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from strategies import factors, generator, normals, permutation, rotation, seeds, vectors

from cause_book.explorer import exact
from cause_book.usage import neighbours
from cause_lib.clusterbook import Clusterbook, argmax_concepts, modularity_loss, modularity_matrix, thin_grid
from cause_lib.contrast import ConceptBank, concept_contrastive_loss
from cause_lib.heads import MLPHead
from cause_lib.probes import ClusterProbe, concept_kmeans, cosine_kmeans, mirror_mean, smooth

NEAR = {"rtol": 1e-9, "atol": 1e-9}
temperatures = st.sampled_from((0.02, 0.1, 1.0))
pictures = vectors((1, 3), (1, 7), (5, 5))  # tokens (b, n, 5)
books = vectors((1, 6), (5, 5))  # prototypes (k, 5)


def same(one, other, **tolerance):
    torch.testing.assert_close(one, other, **(NEAR | tolerance))


# --- modularity, Eq. 3 ---


@given(pictures, books, temperatures, seeds)
def test_modularity_knows_no_rotation_no_length_and_no_order(tokens, prototypes, tau, seed):
    loss = modularity_loss(tokens, prototypes, tau)
    turn = rotation(5, seed)
    same(modularity_loss(tokens @ turn, prototypes @ turn, tau), loss)
    b, n, k = *tokens.shape[:2], len(prototypes)
    same(modularity_loss(tokens * factors(b, n, 1, seed=seed), prototypes * factors(k, 1, seed=seed + 1), tau), loss)
    same(modularity_loss(tokens[:, permutation(n, seed)], prototypes, tau), loss)  # of patches
    same(modularity_loss(tokens[permutation(b, seed)], prototypes, tau), loss)  # of pictures
    same(modularity_loss(tokens, prototypes[permutation(k, seed)], tau), loss)  # of concepts, or of a probe's classes
    same(modularity_loss(tokens, prototypes.repeat(2, 1), tau), loss)  # a concept said twice says nothing new


@given(vectors((1, 2), (2, 6), (4, 4)), seeds)
def test_lengths_that_are_powers_of_two_change_no_bit(tokens, seed):
    """They move the point alone, so rounding is the same: the law holds exactly, in single precision."""
    tokens, prototypes = tokens.float(), normals(5, 4, seed=seed).float()
    lengths = 2.0 ** torch.randint(-8, 9, (*tokens.shape[:2], 1), generator=generator(seed))
    assert torch.equal(modularity_loss(tokens * lengths, prototypes), modularity_loss(tokens, prototypes))
    assert torch.equal(modularity_loss(tokens, 4 * prototypes), modularity_loss(tokens, prototypes))


@given(seeds, temperatures)
def test_the_gradient_of_modularity_turns_and_moves_with_the_prototypes(seed, tau):
    """And no prototype is pulled along itself: its length makes no difference, so c times it gets 1/c of the pull."""
    tokens, prototypes = normals(2, 6, 5, seed=seed), normals(7, 5, seed=seed + 1)
    turn, order, lengths = rotation(5, seed), permutation(7, seed), factors(7, 1, seed=seed)

    def pull(tokens, prototypes):
        prototypes = prototypes.clone().requires_grad_()
        return torch.autograd.grad(modularity_loss(tokens, prototypes, tau), prototypes)[0]

    slope = pull(tokens, prototypes)
    same(pull(tokens @ turn, prototypes @ turn), slope @ turn)
    same(pull(tokens, prototypes[order]), slope[order])
    same(pull(tokens, prototypes * lengths) * lengths, slope)
    same((slope * prototypes).sum(dim=1), torch.zeros(7, dtype=torch.float64))


@given(pictures, books, temperatures)
def test_modularity_stays_within_its_bounds(tokens, prototypes, tau):
    """|H| <= V tanh(1 / tau) <= (1 - sum_i p_i^2) tanh(1 / tau) <= (1 - 1/n) tanh(1 / tau), with p_i = d_i / e.

    From Eq. 3: a_ij = A_ij / e and the p_i p_j of chance are both distributions over pairs of patches, and W is their
    difference. Its positive entries add to V = sum_ij |W_ij| / 2, its negative ones to -V. As 0 <= delta_ij <=
    tanh(1 / tau), since cosines end at 1, H is largest where delta is that on the positive ones and 0 on the negative,
    and smallest the other way round.
    V is 1 less what the two have in common, sum_ij min(a_ij, p_i p_j). No a_ij is more than p_i or p_j, so p_i p_j is
    no less than a_ij max(p_i, p_j), and a_ij is so anyway: in common they have at least sum_ij a_ij p_i = sum_i p_i^2,
    which for n numbers that add to 1 is at least 1/n. Without an edge W is 0, and so is H.
    """
    most = math.tanh(1 / tau)
    for picture in tokens:
        picture, n = picture[None], len(picture)
        weights = modularity_matrix(picture)[0]
        affinity = F.normalize(picture[0], dim=-1)
        affinity = (affinity @ affinity.T).clamp(min=0).fill_diagonal_(0)
        share = affinity.sum(dim=1) / affinity.sum() if affinity.any() else torch.zeros(n)
        variation = float(weights.abs().sum() / 2)
        assert variation <= 1 - float((share**2).sum()) + 1e-9 and variation <= 1 - 1 / n + 1e-9
        same(weights.diagonal(), -(share**2).to(weights))  # nobody is tied to itself
        same(weights.sum(dim=1), torch.zeros_like(weights[0]))
        assert abs(float(modularity_loss(picture, prototypes, tau))) <= variation * most + 1e-9
    assert abs(float(modularity_loss(tokens, prototypes, tau))) <= (1 - 1 / tokens.shape[1]) * most + 1e-9


@given(st.integers(2, 5), st.integers(2, 4), temperatures, seeds)
def test_modularity_of_groups_that_are_told_apart(groups, each, tau, seed):
    """m groups of equal patches, at right angles to each other: H = (1 - 1/m) tanh(1 / tau), Newman's for m cliques.

    One prototype for everything sees no groups: H is at most nought then.
    """
    turn = rotation(groups, seed)
    tokens = turn.repeat_interleave(each, dim=0)[None] * factors(1, groups * each, 1, seed=seed)
    same(modularity_loss(tokens, turn, tau), torch.tensor(-(1 - 1 / groups) * math.tanh(1 / tau), dtype=torch.float64))
    assert modularity_loss(tokens, turn.sum(dim=0, keepdim=True), tau) >= -NEAR["atol"]


@given(vectors((1, 2), (1, 5), (3, 3), powers=(-45, 37), dtype=torch.float32),
       vectors((1, 5), (3, 3), powers=(-45, 37), dtype=torch.float32), temperatures)
@example(torch.zeros(1, 1, 3), torch.zeros(1, 3), 0.1)
@example(torch.full((1, 2, 3), 1e-45), torch.full((1, 3), 1e-45), 0.1)
def test_modularity_and_its_gradient_are_finite_in_extremes(tokens, prototypes, tau):
    """One patch, one prototype, zeros, equals, and lengths from the smallest float32 nearly to the largest.

    Finite is all that is left to say there. A length is the root of a sum of squares: above 1.8e19 the squares are no
    float32 any more, and the vector counts as zero; below 1e-12 it counts as shorter than one. So the laws of length
    above end there, far from the tokens that a final norm lets out, whose lengths lie between 1 and 1000.
    """
    prototypes.requires_grad_()
    loss = modularity_loss(tokens, prototypes, tau)
    slope = torch.autograd.grad(loss, prototypes)[0]
    assert loss.isfinite() and loss.detach().abs() <= 1 + 1e-6 and slope.isfinite().all()


@given(vectors((1, 3), (1, 6), (1, 70)))
def test_the_argmax_has_the_largest_product_and_is_symmetric(affinity):
    affinity = affinity.clamp(min=0)  # zeros, hence ties, are frequent
    found = argmax_concepts(affinity)
    products = affinity[:, :, None] * affinity[:, None]  # (b, n, n, k)
    assert torch.equal(products.gather(3, found[..., None])[..., 0], products.amax(dim=3))
    assert torch.equal(found, found.mT)


@given(pictures, books, seeds)
def test_assignment_knows_no_length_and_turns_with_the_order(tokens, prototypes, seed):
    """Equal prototypes, or a token of length nought, tie; so what is compared is the cosine to the one assigned."""
    book, order = Clusterbook(prototypes), permutation(len(prototypes), seed)
    cosine = F.normalize(tokens, dim=-1) @ F.normalize(prototypes, dim=-1).T  # (b, n, k)
    lengths = factors(*tokens.shape[:2], 1, seed=seed)
    for other, back in ((book.assign(tokens * lengths), None), (Clusterbook(prototypes[order]).assign(tokens), order)):
        chosen = other if back is None else back[other]
        same(cosine.gather(2, chosen[..., None])[..., 0], cosine.amax(dim=2))
    same(book.similarity, book.similarity.T)
    assert book.similarity.abs().max() <= 1 + 1e-12


# --- the concept contrast, Eq. 4 ---


@st.composite
def contrasts(draw, dtype=torch.float64, powers=(0, 0)):
    """student, teacher (b, n, 4), concepts (b, n), similarity (k, k), and what a bank was given: (m, 4), (m,)."""
    student = draw(vectors((1, 3), (1, 5), (4, 4), dtype=dtype, powers=powers))
    b, n, k, seed = *student.shape[:2], draw(st.integers(1, 5)), draw(seeds)
    teacher = normals(b, n, 4, seed=seed).to(dtype)
    if draw(st.booleans()):
        teacher[draw(st.integers(0, b - 1)), draw(st.integers(0, n - 1))] = 0
    concepts = torch.randint(0, k, (b, n), generator=generator(seed))
    book = F.normalize(normals(k, 3, seed=seed + 1), dim=-1).to(dtype)
    m = draw(st.integers(0, 9))
    return student, teacher, concepts, book @ book.T, normals(m, 4, seed=seed + 2).to(dtype), \
        torch.randint(0, k, (m,), generator=generator(seed + 2))


def contrast(student, teacher, concepts, similarity, old, ids, **settings):
    bank = ConceptBank(len(similarity), 4, capacity=3, dtype=student.dtype)
    bank.update(old, ids)
    return concept_contrastive_loss(student, teacher, concepts, similarity, bank, **settings)


@given(contrasts(), seeds)
def test_contrast_knows_no_rotation_no_length_and_no_order(case, seed):
    student, teacher, concepts, similarity, old, ids = case
    (b, n), k = concepts.shape, len(similarity)
    loss = contrast(*case)
    turn, patches, shuffled, names = rotation(4, seed), permutation(n, seed), permutation(b, seed), permutation(k, seed)
    same(contrast(student @ turn, teacher @ turn, concepts, similarity, old @ turn, ids), loss)
    same(contrast(student * factors(b, n, 1, seed=seed), teacher * factors(b, n, 1, seed=seed + 1), concepts,
                  similarity, old * factors(len(old), 1, seed=seed + 2), ids), loss)
    same(contrast(student[:, patches], teacher[:, patches], concepts[:, patches], similarity, old, ids), loss)
    same(contrast(student[shuffled], teacher[shuffled], concepts[shuffled], similarity, old, ids), loss)
    renamed = similarity[names][:, names]  # concept names[j] is called j
    same(contrast(student, teacher, names.argsort()[concepts], renamed, old, names.argsort()[ids]), loss)


@given(contrasts(), st.sampled_from((0.05, 0.07, 1.0)))
def test_contrast_stays_within_its_bounds(case, tau):
    """0 <= loss <= 2 / tau + log(others + bank): every l is the -log of a softmax in which its positive takes part.

    s.z / tau lies within 1 / tau of nought, so the log-sum-exp is at most 1 / tau + log of how many there are, and the
    positive's own term at least -1 / tau; and the log-sum-exp is never below the positive's own. Without any positive
    the loss is 0, and means of such numbers stay between the same bounds.
    """
    student, _, _, _, old, _ = case
    loss = float(contrast(*case, temperature=tau))
    pool = student.shape[0] * student.shape[1] + len(old)
    assert -NEAR["atol"] <= loss <= 2 / tau + math.log(pool) + NEAR["atol"]


@given(contrasts(torch.float32, powers=(-45, 37)), st.sampled_from((0.005, 0.07, 1.0)),
       st.sampled_from(((0.3, 0.1), (1.1, -1.1), (-1.1, 1.1), (0.0, 0.0))))
def test_contrast_and_its_gradient_are_finite_in_extremes(case, tau, phi):
    """One patch, one concept, zeros, lengths from the smallest float32 nearly to the largest; all positives, or none."""
    student = case[0].requires_grad_()
    loss = contrast(*case, temperature=tau, positive_threshold=phi[0], negative_threshold=phi[1])
    slope = torch.autograd.grad(loss, student)[0]
    assert loss.isfinite() and slope.isfinite().all()
    if phi[0] > 1:
        assert loss == 0 and not slope.any()


@given(vectors((1, 2), (1, 5), (3, 3), powers=(-45, 20), dtype=torch.float32), seeds, st.booleans(),
       st.sampled_from((0.0, 1e-20, 1.0, 1e5)))
def test_contrast_that_projects_is_finite_in_extremes(features, seed, bias, scale):
    """Features instead of projections, and weights from nought to far too large: a projection of length nought counts
    as no direction. The gradients by features, weights and bias are finite too. Features end at 1e21: over the smallest
    length that counts, 1e-12, and the temperature, more than 1e25 would be no float32."""
    layer = torch.nn.Linear(3, 6, bias=bias)
    with torch.no_grad():
        layer.weight.copy_(scale * normals(6, 3, seed=seed))
    features.requires_grad_()
    b, n = features.shape[:2]
    concepts = torch.randint(0, 2, (b, n), generator=generator(seed))
    loss = concept_contrastive_loss(features, normals(b, n, 6, seed=seed).float(), concepts, torch.eye(2),
                                    projection=layer)
    slopes = torch.autograd.grad(loss, [features, *layer.parameters()])
    assert loss.isfinite() and all(slope.isfinite().all() for slope in slopes)


@given(st.integers(1, 4), st.integers(1, 5), st.lists(st.lists(st.integers(0, 3), max_size=9), max_size=6), seeds)
def test_the_bank_holds_the_last_of_each_concept_and_no_more(num_concepts, capacity, batches, seed):
    """Against a deque a concept, whatever comes in which batch, through a round of saving and loading."""
    bank, held = ConceptBank(num_concepts, 3, capacity), [deque(maxlen=capacity) for _ in range(num_concepts)]
    for step, concepts in enumerate(batches):
        concepts = torch.tensor(concepts, dtype=torch.int64) % num_concepts
        projections = F.normalize(normals(len(concepts), 3, seed=seed + step).float(), dim=-1)
        bank.update(projections, concepts)
        for concept, projection in zip(concepts.tolist(), projections):
            held[concept].append(tuple(projection.tolist()))
        assert len(bank) == sum(map(len, held)) <= num_concepts * capacity
        assert bank.counts.tolist() == bank.counts_on_host().tolist() == list(map(len, held))
        twin = ConceptBank(num_concepts, 3, capacity)
        twin.load_state_dict(bank.state_dict())
        bank = twin
    state = bank.state_dict()
    for concept in range(num_concepts):
        mine = state["projections"][state["concepts"] == concept]
        wanted = torch.tensor(sorted(held[concept])).view(-1, 3)
        torch.testing.assert_close(torch.tensor(sorted(map(tuple, mine.tolist()))).view(-1, 3), wanted)


@given(vectors((1, 6), (3, 3)), st.integers(1, 3), st.integers(1, 6), seeds,
       st.sampled_from((0.3, 0.1, 0.0, -1.0, 1.0)), st.sampled_from((0.3, 0.1, 0.0, -1.0, 1.0)))
def test_neighbours_are_those_of_each_pair(prototypes, b, n, seed, high, low):
    """Positives and negatives of every anchor, pair by pair, with as many thresholds met exactly as can be."""
    similarity = Clusterbook(prototypes).similarity
    similarity = (similarity * 10).round() / 10
    everyone = torch.randint(0, len(prototypes), (b * n,), generator=generator(seed))
    pairs = similarity[everyone][:, everyone]  # (bn, bn)
    others = ~torch.eye(b * n, dtype=torch.bool)
    positives, negatives = neighbours(everyone.view(b, n), similarity, high, low)
    assert torch.equal(positives.flatten(), ((pairs > high) & others).sum(dim=1))
    assert torch.equal(negatives.flatten(), ((pairs < low) & others).sum(dim=1))


@settings(max_examples=300)
@given(st.floats(-1, 1) | st.floats(-1, 1, width=32) | st.integers(-1000, 1000).map(lambda t: t / 1000),
       st.integers(-1000, 1000), st.integers(-3, 3))
def test_the_explorers_whole_numbers_compare_as_the_library_does(cosine, thousandths, steps):
    """D > t/1000 just where q > 2t, for float32 as the library compares it; steps of rounding away from a tie too."""
    for base in (cosine, thousandths / 1000):
        value = torch.tensor(base, dtype=torch.float32)
        for _ in range(abs(steps)):
            value = torch.nextafter(value, torch.tensor(math.copysign(2.0, steps)))
        value = value.clamp(-1, 1)[None]
        q = int(exact(value.numpy())[0])
        assert -2000 <= q <= 2000
        for t in {thousandths, round(1000 * float(value))}:
            assert (q > 2 * t) == bool(value > t / 1000)
            assert (q < 2 * t) == bool(value < t / 1000)


# --- read-outs ---


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 14), seeds)
def test_thin_grid_draws_one_patch_of_every_block(rows, columns, block, seed):
    found = thin_grid((rows, columns), block, generator(seed)).tolist()
    blocks = [(place // columns // block, place % columns // block) for place in found]
    assert all(0 <= place < rows * columns for place in found)
    assert blocks == [(i, j) for i in range(-(-rows // block)) for j in range(-(-columns // block))]


@given(vectors((1, 2), (1, 6), (1, 4)), st.sampled_from((5e-324, 1e-6, 0.01, 0.1, 10.0)), seeds)
def test_smoothing_is_a_mean_of_what_is_there(features, temperature, seed):
    """A convex combination of the picture's patches: never beyond the largest or the smallest of them, in any channel;
    it knows no order of patches, turns with the features, and equal patches stay where they are."""
    found = smooth(features, temperature)
    assert (found <= features.amax(dim=1, keepdim=True) + 1e-9).all()
    assert (found >= features.amin(dim=1, keepdim=True) - 1e-9).all()
    order, turn = permutation(features.shape[1], seed), rotation(features.shape[2], seed)
    if temperature >= 0.01:  # below, rounding decides between patches that are equally alike
        same(smooth(features[:, order], temperature), found[:, order])
        same(smooth(features @ turn, temperature), found @ turn)
    alike = features[:, :1].expand_as(features)
    same(smooth(alike, temperature), alike)
    assert torch.equal(smooth(features, 0), features)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_smoothing_at_the_smallest_temperatures_is_finite(dtype):
    """Where a cosine over the temperature would be infinite: each patch is averaged with its equals."""
    features = normals(1, 5, 3, seed=0).to(dtype).repeat(1, 2, 1)
    for temperature in (5e-324, 1e-45, 1e-40, 1e-30):
        torch.testing.assert_close(smooth(features, temperature), features, rtol=1e-2, atol=1e-2)


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 5), seeds, st.sampled_from((0.0, 0.1)), st.booleans())
def test_mirror_averaging_is_symmetric(b, rows, columns, seed, smoothing, with_head):
    """The mirror image in place of the picture, and the picture in place of its mirror image: the mean, turned over."""
    grid, head = (rows, columns), MLPHead(6, 4).double().eval() if with_head else None
    tokens, mirrored = normals(b, rows * columns, 6, seed=seed), normals(b, rows * columns, 6, seed=seed + 1)
    straight = mirror_mean(tokens, mirrored, grid, head, smoothing)
    same(mirror_mean(mirrored, tokens, grid, head, smoothing), straight.flip(-1), rtol=1e-5, atol=1e-5)
    turned = tokens.view(b, rows, columns, 6).flip(2).flatten(1, 2)  # of a backbone that does not care about sides
    alone = mirror_mean(tokens, turned, grid, head)
    features = tokens if head is None else head(tokens)
    same(alone, features.float().mT.unflatten(2, grid), rtol=1e-5, atol=1e-5)


@given(vectors((1, 2), (1, 5), (4, 4), powers=(-45, 37), dtype=torch.float32), st.integers(1, 5), seeds)
def test_scores_of_a_probe_are_probabilities_whatever_the_features(features, c, seed):
    probe = ClusterProbe(c, 4, normals(c, 4, seed=seed).float())
    order = permutation(c, seed)
    scores = probe.log_probabilities(features)
    assert scores.isfinite().all() and (scores <= 1e-6).all()
    torch.testing.assert_close(scores.exp().sum(dim=-1), torch.ones(features.shape[:-1]))
    moved = ClusterProbe(c, 4, probe.centroids[order]).log_probabilities(features)
    torch.testing.assert_close(moved, scores[..., order])


def inertia(points, centroids, weights=None):
    nearest = (F.normalize(points, dim=-1) @ centroids.T).amax(dim=1)
    return float(((1 - nearest) * (1 if weights is None else weights / weights.sum() * len(points))).sum())


@given(vectors((1, 12), (3, 3)), st.integers(1, 6), seeds, st.booleans())
@example(torch.ones(1, 3), 3, 0, False)  # more clusters than points
@settings(max_examples=60)
def test_inertia_of_kmeans_never_grows(points, c, seed, weighted):
    """Round after round of the same start, and with more restarts; centroids have length one.

    A cluster that lost its points, or whose points cancel, starts again at the points served worst: its points lose
    nothing by that, since the sum of their cosines was nought for every direction.
    """
    weights = factors(len(points), seed=seed) if weighted else None
    found = [cosine_kmeans(points, c, restarts=1, iterations=rounds, generator=generator(seed), weights=weights)
             for rounds in range(1, 8)]
    course = [inertia(points, centroids, weights) for centroids in found]
    assert all(later <= sooner + 1e-9 for sooner, later in itertools.pairwise(course))
    several = [inertia(points, cosine_kmeans(points, c, restarts=restarts, generator=generator(seed), weights=weights),
                       weights) for restarts in (1, 2, 4)]
    assert several[2] <= several[1] + 1e-5 * len(points) and several[1] <= several[0] + 1e-5 * len(points)
    if points.any(dim=1).all():
        same(found[-1].norm(dim=1), torch.ones(c).to(points), atol=1e-6)


@given(vectors((1, 20), (3, 3)), st.integers(1, 5), seeds)
@settings(max_examples=30)
def test_kmeans_knows_no_length_of_a_token(points, c, seed):
    """To the bit, for lengths that are powers of two: others may round a draw to the other side of a border."""
    points = points.float()
    lengths = 2.0 ** torch.randint(-8, 9, (len(points), 1), generator=generator(seed))
    both = [cosine_kmeans(x, c, restarts=2, generator=generator(seed)) for x in (points, points * lengths)]
    assert torch.equal(*both)
    both = [concept_kmeans(x, c, 4, restarts=1, generator=generator(seed)) for x in (points, points * lengths)]
    assert torch.equal(*both)


@given(vectors((1, 8), (3, 3), powers=(-45, 37), dtype=torch.float32), st.integers(1, 4), seeds)
@settings(max_examples=30)
def test_kmeans_is_finite_in_extremes(points, c, seed):
    for found in (cosine_kmeans(points, c, restarts=2, generator=generator(seed)),
                  concept_kmeans(points, c, 3, restarts=1, generator=generator(seed))):
        assert found.shape == (c, 3) and found.isfinite().all()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_kmeans_refuses_what_is_not_finite(value):
    points = torch.ones(3, 2)
    points[1, 0] = value
    with pytest.raises(ValueError, match="finite points"):
        cosine_kmeans(points, 2, generator=generator(0))
