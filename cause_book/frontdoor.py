"""Discrete structural causal models of a confounder, a treatment, a mediator and an outcome.

    U -> T, U -> Y         the hidden confounder acts on treatment and outcome
    T -> M -> Y            the treatment acts on the outcome through the mediator, and through it alone

The effect of an intervention on T if U is not observed (front-door adjustment, Eq. 1 of the CAUSE paper):

    p(Y | do(T)) = sum_m p(m | T) sum_t' p(Y | t', m) p(t')

Sources: Pearl, "Causal diagrams for empirical research", Biometrika 82 (1995), and "Causality" (2009), section 3.3;
Kim, Lee and Ro, "Causal Unsupervised Semantic Segmentation", section 3.1.

Every table is a numpy float64 array whose axes are named by their letters, always in this order: `u` values of the
confounder, `t` of the treatment, `m` of the mediator, `y` of the outcome. The axis that sums to 1 is the last.
`count_views` counts the tables of a model of segmentation from labelled scenes; `segments` groups its treatments.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import pdist

from cause_lib.errors import InputError

TABLE_TOLERANCE = 1e-9  # tables of rounded decimals (0.33, 0.33, 0.33) are refused, not renormalised
JOINT_TOLERANCE = 1e-8  # a joint is a product of four such tables


@dataclass(frozen=True, eq=False)
class StructuralModel:
    """Four tables of probabilities, checked once and read-only from then on; anything array-like goes in.

    p_u: (u,)             p(u)
    p_t: (u, t)           p(t | u)
    p_m: (u, t, m)        p(m | u, t); a table (t, m): the mediator is independent of the confounder given t
    p_y: (u, t, m, y)     p(y | u, t, m); a table (u, m, y): the treatment has no path around the mediator

    The short forms are the front-door assumptions; they are stored in the long form.
    Raises ValueError where a table is negative, not finite, does not sum to 1 or does not fit the others.
    """

    p_u: np.ndarray
    p_t: np.ndarray
    p_m: np.ndarray
    p_y: np.ndarray

    def __post_init__(self):
        p_u = _checked_table("p_u", self.p_u, (1,), "(u,)")
        p_t = _checked_table("p_t", self.p_t, (2,), "(u, t)")
        p_m = _checked_table("p_m", self.p_m, (2, 3), "(t, m) or (u, t, m)")
        p_y = _checked_table("p_y", self.p_y, (3, 4), "(u, m, y) or (u, t, m, y)")
        num_u, num_t, num_m, num_y = len(p_u), p_t.shape[1], p_m.shape[-1], p_y.shape[-1]
        if p_m.ndim == 2:
            p_m = p_m[None].repeat(num_u, axis=0)  # (u, t, m)
        if p_y.ndim == 3:
            p_y = p_y[:, None].repeat(num_t, axis=1)  # (u, t, m, y)
        shape = (num_u, num_t, num_m, num_y)
        for axes, (name, table) in enumerate({"p_u": p_u, "p_t": p_t, "p_m": p_m, "p_y": p_y}.items(), start=1):
            if table.shape != shape[:axes]:
                raise InputError(f"{name} has shape {np.shape(getattr(self, name))}, which does not fit the other "
                                 f"tables: with u={num_u}, t={num_t}, m={num_m}, y={num_y} its long form must be "
                                 f"{shape[:axes]}.")
            table.setflags(write=False)
            object.__setattr__(self, name, table)

    @classmethod
    def random(cls, u=2, t=2, m=2, y=2, *, seed=0, front_door=True) -> StructuralModel:
        """A model whose every row is drawn evenly from all distributions (flat Dirichlet).

        u, t, m, y: how many values each variable takes, at least 1
        seed: int or numpy Generator
        front_door: False also draws the two forbidden arrows, U -> M and T -> Y
        """
        if min(u, t, m, y) < 1:
            raise InputError(f"Every variable takes at least one value, not (u, t, m, y) = {(u, t, m, y)}.")
        generator = np.random.default_rng(seed)
        before_m, before_y = ((t,), (u, m)) if front_door else ((u, t), (u, t, m))
        return cls(p_u=generator.dirichlet(np.ones(u)), p_t=generator.dirichlet(np.ones(t), size=u),
                   p_m=generator.dirichlet(np.ones(m), size=before_m),
                   p_y=generator.dirichlet(np.ones(y), size=before_y))

    @classmethod
    def smoking(cls, *, bypass=0.0, confounding=0.0, u_t=1.0, u_y=1.0, t_m=1.0, m_y=1.0) -> StructuralModel:
        """The usual example, in made-up numbers: U a gene, T smoking, M tar in the lungs, Y cancer, each 0 or 1.

        bypass: in [0, 1], the direct effect T -> Y of smoking without tar
        confounding: in [0, 1], the effect U -> M of the gene on tar; with both at 0 the front-door criterion holds
        u_t, u_y, t_m, m_y: in [0, 1], the strengths of the other arrows; u_t may be negative, down to -1

        Raises ValueError for a strength out of its range. The simulator page computes the same tables.
        """
        strengths = {"bypass": bypass, "confounding": confounding, "u_t": u_t, "u_y": u_y, "t_m": t_m, "m_y": m_y}
        for name, strength in strengths.items():
            if not (lowest := -1 if name == "u_t" else 0) <= strength <= 1:
                raise InputError(f"{name} is a strength between {lowest} and 1, not {strength}.")
        smoke = np.array([0.5 - 0.3 * u_t, 0.5 + 0.3 * u_t])  # (u,)
        tar = np.array([[0.5 - 0.4 * t_m, 0.5 + 0.4 * t_m]]).repeat(2, axis=0)  # (u, t)
        tar[1] += confounding * (0.95 - tar[1])
        harm = 0.1 * m_y * np.array([1, 1 + u_y])  # (u,) of tar: the gene doubles it
        cancer = 0.05 + np.array([[0, harm[0]], [0.3 * u_y, 0.3 * u_y + harm[1]]])  # (u, m)
        cancer = np.stack([cancer, cancer + 0.3 * bypass], axis=1)  # (u, t, m)
        return cls(p_u=[0.7, 0.3], p_t=np.stack([1 - smoke, smoke], axis=-1),
                   p_m=np.stack([1 - tar, tar], axis=-1), p_y=np.stack([1 - cancer, cancer], axis=-1))

    @property
    def satisfies_front_door(self) -> bool:
        """Whether the tables have neither forbidden arrow: no U -> M and no T -> Y (to 1e-12)."""
        return bool(np.ptp(self.p_m, axis=0).max() <= 1e-12 and np.ptp(self.p_y, axis=1).max() <= 1e-12)

    def joint(self) -> np.ndarray:
        """p(u, t, m, y), float64 (u, t, m, y), the confounder included."""
        return np.einsum("u,ut,utm,utmy->utmy", self.p_u, self.p_t, self.p_m, self.p_y)

    def observed(self) -> np.ndarray:
        """p(t, m, y), float64 (t, m, y), without the confounder."""
        return self.joint().sum(axis=0)

    def do(self, treatment: int) -> StructuralModel:
        """The mutilated model of do(T = treatment): the arrow into T is cut, and T is set."""
        num_t = self.p_t.shape[1]
        if not 0 <= treatment < num_t:
            raise InputError(f"do(T = {treatment}) is not possible: the treatments of this model are 0 to {num_t - 1}.")
        p_t = np.zeros_like(self.p_t)
        p_t[:, treatment] = 1.0
        return replace(self, p_t=p_t)

    def interventional(self) -> np.ndarray:
        """The truth, p(y | do(t)), float64 (t, y), from the mutilated models."""
        return np.stack([self.do(t).observed().sum(axis=(0, 1)) for t in range(self.p_t.shape[1])])  # (t, y)

    def sharpened(self, power: float) -> StructuralModel:
        """The model with p(m | u, t) to the power, normalised again.

        power: 1 changes nothing; np.inf is the hard assignment of CAUSE, p(m' | t) = 1 for m' = argmax_m p(m | t)
        """
        if not power > 0:
            raise InputError(f"The power must be positive, not {power}; 1 leaves the mediator as it is.")
        peak = self.p_m.max(axis=-1, keepdims=True)  # (u, t, 1), dividing by it keeps large powers from vanishing
        if np.isinf(power):
            p_m = np.eye(self.p_m.shape[-1])[self.p_m.argmax(axis=-1)]  # (u, t, m)
        else:
            p_m = (self.p_m / peak) ** power
            p_m = p_m / p_m.sum(axis=-1, keepdims=True)
        return replace(self, p_m=p_m)

    def sample(self, size: int, *, seed=0) -> dict[str, np.ndarray]:
        """Draws `size` individuals: {"u", "t", "m", "y"}, each int64 (size,). seed: int or numpy Generator."""
        joint = self.joint()
        cells = np.random.default_rng(seed).choice(joint.size, size=size, p=joint.ravel())  # (size,)
        return dict(zip("utmy", np.unravel_index(cells, joint.shape)))


def estimate_joint(t, m, y, cardinalities, *, pseudo_count=0.0) -> np.ndarray:
    """p(t, m, y) from individuals, by counting: float64 (t, m, y).

    t, m, y: integer arrays (size,), values from 0
    cardinalities: how many values of each, (t, m, y)
    pseudo_count: added to every cell; 0 is the maximum-likelihood estimate, more is biased towards uniform

    Raises ValueError for unequal lengths, values out of range, a negative pseudo-count, or nothing to count.
    """
    columns = [np.asarray(column) for column in (t, m, y)]
    if len({column.shape for column in columns}) != 1 or columns[0].ndim != 1:
        raise InputError(f"t, m and y must be lists of one length, not of shapes {[c.shape for c in columns]}.")
    for name, column, cardinality in zip("tmy", columns, cardinalities, strict=True):
        if not (len(column) == 0 or np.issubdtype(column.dtype, np.integer)):
            raise InputError(f"{name} holds {column.dtype} values; the values of a discrete variable are integers.")
        if len(column) and (column.min() < 0 or column.max() >= cardinality):
            low, high = column.min(), column.max()
            raise InputError(f"{name} has values from {low} to {high}, outside 0 to {cardinality - 1}.")
    if not pseudo_count >= 0 or np.isinf(pseudo_count):
        raise InputError(f"pseudo_count must be a finite number not below 0, not {pseudo_count}.")
    if len(columns[0]) == 0 and pseudo_count == 0:
        raise InputError("There are no samples to count; give some, or a positive pseudo_count.")
    cells = np.ravel_multi_index([c.astype(np.int64) for c in columns], cardinalities)  # (size,)
    counts = np.bincount(cells, minlength=int(np.prod(cardinalities))) + float(pseudo_count)
    return (counts / counts.sum()).reshape(cardinalities)  # (t, m, y)


def observational(joint, *, undefined="raise") -> np.ndarray:
    """The naive answer p(y | t), float64 (t, y), from p(t, m, y), undefined for a treatment that does not occur.

    undefined: see `front_door`
    """
    joint = _checked_joint(joint, "(t, m, y)")
    p_ty = joint.sum(axis=1)  # (t, y)
    p_t = p_ty.sum(axis=1)  # (t,)
    return _answered(_divide(p_ty, p_t[:, None]), p_t > 0, undefined, "p(y | t)", "the treatment never occurs")


def back_door(joint, *, undefined="raise") -> np.ndarray:
    """Back-door adjustment, p(y | do(t)) = sum_u p(y | t, u) p(u), float64 (t, y), from p(u, t, m, y).

    The confounder must be observed. A treatment that does not occur for some u has no answer.

    undefined: see `front_door`
    """
    joint = _checked_joint(joint, "(u, t, m, y)")
    p_uty = joint.sum(axis=2)  # (u, t, y)
    p_ut = p_uty.sum(axis=2)  # (u, t)
    p_u = p_ut.sum(axis=1)  # (u,)
    answer = np.einsum("uty,u->ty", _divide(p_uty, p_ut[:, :, None]), p_u)  # (t, y)
    defined = ((p_ut > 0) | (p_u == 0)[:, None]).all(axis=0)  # (t,)
    why = "some value of the confounder never occurs with the treatment"
    return _answered(answer, defined, undefined, "back-door adjustment", why)


def front_door(joint, *, undefined="raise") -> np.ndarray:
    """Front-door adjustment (Eq. 1), float64 (t, y), from p(t, m, y): the confounder is not observed.

    Positivity: every mediator value that the treatment can lead to must occur together with every treatment that occurs
    at all, or p(y | t', m) is undefined (`front_door_support` says for which treatments it holds).

    undefined: "raise" raises ValueError that names the treatments without an answer; "nan" gives them rows of NaN
    """
    joint = _checked_joint(joint, "(t, m, y)")
    p_tm = joint.sum(axis=2)  # (t, m)
    p_t = p_tm.sum(axis=1)  # (t,)
    p_m_given_t = _divide(p_tm, p_t[:, None])  # (t, m)
    p_y_given_tm = _divide(joint, p_tm[:, :, None])  # (t, m, y)
    # The inner sum is p(y | do(m)): back-door adjustment of the mediator, with the treatment for a confounder.
    p_y_do_m = np.einsum("tmy,t->my", p_y_given_tm, p_t)  # (m, y)
    answer = p_m_given_t @ p_y_do_m  # (t, y)
    why = "it leads to a mediator value that does not occur with every treatment (or it never occurs itself)"
    return _answered(answer, front_door_support(joint), undefined, "front-door adjustment", why)


def front_door_support(joint) -> np.ndarray:
    """For which treatments front-door adjustment is defined, bool (t,), from p(t, m, y); see `front_door`."""
    seen = _checked_joint(joint, "(t, m, y)").sum(axis=2) > 0  # (t, m)
    occurs = seen.any(axis=1)  # (t,)
    complete = seen[occurs].all(axis=0)  # (m,) seen together with every treatment that occurs
    return occurs & ~(seen & ~complete).any(axis=1)


def count_views(labels, names, sides, *, views=8, patches=10, spots=4, seed=0) -> np.ndarray:
    """p(t, m | u), float64 (u, t, m), counted from views of labelled scenes, as photographers of each level take them.

    u is the level that a photographer has in mind, t the kind that fills most of a patch, m the kind at one spot of
    that patch; every spot is counted. In each scene a photographer takes `views` views: of one of the names in the
    scene, centred on a pixel of that name, all equally likely, or as nearly as the scene's border allows.

    labels: integers (g, h, h), the kind of each pixel of g scenes, from 0 to t - 1
    names: integers (u, t), what each kind is called at each level
    sides: (u,) the side of a view, as a fraction of the scene's, in (0, 1]
    patches, spots: a view has patches x patches patches of spots x spots evenly spaced spots
    seed: int or numpy Generator

    Raises ValueError where the shapes, kinds or sides do not fit.
    """
    labels, names = np.asarray(labels), np.asarray(names)
    if labels.ndim != 3 or labels.size == 0 or labels.shape[1] != labels.shape[2]:
        raise InputError(f"labels must be square scenes (g, h, h), not of shape {labels.shape}.")
    if names.ndim != 2 or len(names) != len(sides):
        raise InputError(f"names must be (u, t) with one row for each of {len(sides)} sides, not {names.shape}.")
    if not all(0 < side <= 1 for side in sides):
        raise InputError(f"A side is a fraction of the scene's, above 0 and at most 1; these are {list(sides)}.")
    num_u, num_t = names.shape
    if labels.min() < 0 or labels.max() >= num_t:
        raise InputError(f"labels has kinds from {labels.min()} to {labels.max()}, outside 0 to {num_t - 1}.")
    generator = np.random.default_rng(seed)
    size, steps = labels.shape[1], (np.arange(patches * spots) + 0.5) / (patches * spots)
    counts = np.zeros((num_u, num_t, num_t))
    for u, side in enumerate(sides):
        for scene in labels:
            named = names[u][scene]  # (h, h)
            for name in generator.choice(np.unique(named), views):
                aim = generator.choice(np.flatnonzero(named == name))
                start = np.clip(np.array(divmod(aim, size)) + 0.5 - side * size / 2, 0, (1 - side) * size)
                y, x = (start[:, None] + steps * side * size).astype(int)
                seen = scene[y[:, None], x].reshape(patches, spots, patches, spots).swapaxes(1, 2)
                cells = np.arange(patches**2)[:, None] * num_t + seen.reshape(patches**2, -1)  # (patch, spot)
                shares = np.bincount(cells.ravel(), minlength=patches**2 * num_t).reshape(-1, num_t)  # (patch, m)
                np.add.at(counts[u], shares.argmax(axis=1), shares)
    return counts / counts.sum(axis=(1, 2), keepdims=True)  # (u, t, m)


def segments(answer, *, least=0.5) -> np.ndarray:
    """Which treatments have similar outcomes: int64 (t,), every treatment with the first member of its segment.

    Two treatments share sum_y min(p(y | a), p(y | b)), in [0, 1]. The two segments that share most, as a mean over
    their pairs, are merged as long as that is `least` or more (average linkage, by SciPy).

    answer: float (t, y), a distribution of outcomes for each treatment, none NaN
    """
    answer = np.asarray(answer, dtype=np.float64)
    if len(answer) < 2:
        return np.zeros(len(answer), dtype=np.int64)
    apart = pdist(answer, "cityblock") / 2  # 1 - what they share, for distributions
    merged = fcluster(linkage(apart, "average"), 1 - least, "distance")  # (t,)
    _, first, place = np.unique(merged, return_index=True, return_inverse=True)
    return first[place]


def _divide(numerator, denominator):
    """numerator / denominator, and 0 where the denominator is 0: such a term has no weight or is masked later."""
    denominator = np.broadcast_to(denominator, numerator.shape)
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)


def _answered(answer, defined, undefined, what, why):
    """The answer (t, y), with the rows that are not defined (t,) refused or turned into NaN."""
    if undefined not in ("raise", "nan"):
        raise InputError(f"undefined must be 'raise' or 'nan', not {undefined!r}.")
    if undefined == "raise" and not defined.all():
        rows = ", ".join(str(t) for t in np.flatnonzero(~defined))
        raise InputError(f"Positivity fails: {what} has no answer for treatment {rows}, because {why}; "
                         "pass undefined='nan' to keep the others, or estimate the joint with a pseudo_count.")
    return np.where(defined[:, None], answer, np.nan)


def _checked_table(name, table, dimensions, axes):
    """A private float64 copy of a conditional table, its last axis checked to be a distribution."""
    table = _as_probabilities(name, table)
    if table.ndim not in dimensions:
        raise InputError(f"{name} must have axes {axes}, not shape {table.shape}.")
    if table.size == 0:
        raise InputError(f"{name} has shape {table.shape}; every variable takes at least one value.")
    worst = np.abs(table.sum(axis=-1) - 1).max()
    if worst > TABLE_TOLERANCE:
        raise InputError(f"{name} must sum to 1 over its last axis, but is off by {worst:.3g}.")
    return table


def _checked_joint(joint, axes):
    """A joint as float64, checked to have these axes and to sum to 1 as a whole."""
    joint = _as_probabilities("The joint", joint)
    if joint.ndim != axes.count(",") + 1:
        raise InputError(f"The joint must have axes {axes}, not shape {joint.shape}.")
    if joint.size == 0 or abs(joint.sum() - 1) > JOINT_TOLERANCE:
        raise InputError(f"The joint must sum to 1, but sums to {joint.sum():.9g}.")
    return joint


def _as_probabilities(name, table):
    try:
        table = np.array(table, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must be a regular array of numbers ({error}).") from None
    if not np.isfinite(table).all():
        raise InputError(f"{name} has entries that are not finite.")
    if (table < 0).any():
        raise InputError(f"{name} has a negative probability, {table.min():.3g}.")
    return table
