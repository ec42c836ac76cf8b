"""Outcomes that come late: false alarms where only the ages change, and what is found where the relation does.

The law is like that of flights: the score is calibrated, and an outcome that is bad becomes known later than a good
one, so that of the outcomes known early fewer are bad. A baseline is learnt from pairs in the order in which they
became known, and production is counted in that order, in steps of 200 pairs that begin a start each, by the code that
does it in the streams.

- *Other ages*: each pair is kept with a probability that depends on its age only, or only what is known in the first
  hours of a deployment. Among outcomes of equal age nothing has changed, and no stream may move. Beside it stands the
  same without ages as a condition.
- *Dependence*: scores follow an AR(1) process, in the reference as well.
- *Partial labels*: a fifth is labelled, at random though the reference was labelled in full; or scores near one half
  sooner than others, in the reference as well.
- *Other inputs*: scores are higher on the whole, and mean what they meant. Losses and the outcome's rate may move;
  calibration may not.
- *Another relation*: every score means more bad outcomes, or fewer, or scores mean less.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from bench.detection.simulation import autoregressive
from bench.report import Figure, figure, print_table, within
from streams.alerts import diagnosis_of
from streams.baseline import Baseline, BaselineSegment, OutcomeReference
from streams.monitor import Monitors
from streams.outcomes.ages import age_bucket, age_edges
from streams.outcomes.evidence import RELATION, OutcomeCounter, learn_streams
from streams.outcomes.reading import performance_layout
from streams.outcomes.reference import sums_by_age
from streams.outcomes.scores import learn_score_buckets
from streams.specification import BINARY, CONCEPT_DRIFT, DeploymentSpec, FalseAlarmBudget, OutcomeSpec
from streams.statistics.arrays import Floats
from streams.statistics.performance.pairs import Pairs, Predicted
from streams.statistics.performance.sums import count_pairs

HOUR_US = 3_600_000_000
REFERENCE_PAIRS = 20_000
PAIRS_PER_STEP = 200
MOST_DRAWN = 6
"""Pairs drawn for each that is kept, where the ages change: between three and five are needed."""

LATE_HOURS = 6.0
LOW_C = 20.0
"""Odds at which false alarms are counted: low enough that the bound allows many."""

Relation = Callable[[Floats], Floats]


@dataclass(frozen=True)
class Case:
    """What becomes of production.

    Attributes:
        name: For people.
        relation: From the logit of the score to that of a bad outcome.
        inputs: By how much the logits of the scores rise.
        ages: A pair of age a hours is kept with probability exp(-ages a), or where that is negative
            exp(-ages (a - 6)) up to six hours.
        first_hours: Of deployments that begin so often, what is known until the next one does; 0: of one that goes on.
        phi: Of the AR(1) process of the logits.
        sampled: Share that is labelled, at random.
        asked: Whether scores near one half are labelled sooner than others.
        changed: Whether an alarm is right: of another relation, or of other inputs.
    """

    name: str
    relation: Relation = lambda z: z
    inputs: float = 0.0
    ages: float = 0.0
    first_hours: float = 0.0
    phi: float = 0.0
    sampled: float = 1.0
    asked: bool = False
    changed: str = ""

    @property
    def reference(self) -> Case:
        """The law of the reference."""
        return Case("", phi=self.phi, asked=self.asked)

    @property
    def is_partial(self) -> bool:
        """Whether more pairs have to be drawn than are kept."""
        return bool(self.ages or self.first_hours or self.asked or self.sampled < 1)


UNCHANGED = (
    Case("the same law"),
    Case("more outcomes come early", ages=0.6),
    Case("more outcomes come late", ages=-0.4),
    Case("deployments in their first three hours", first_hours=3.0),
    Case("AR(1) 0.5", phi=0.5),
    Case("a fifth is labelled, at random", sampled=0.2),
    Case("scores near one half are labelled", asked=True),
)
OTHER_INPUTS = Case("scores rise by 0.8", inputs=0.8, changed="inputs")
OTHER_RELATIONS = (
    Case("bad outcomes at odds of e to 1", lambda z: z + 1, changed="relation"),
    Case("bad outcomes at odds of 1 to e", lambda z: z - 1, changed="relation"),
    Case("scores mean three tenths", lambda z: 0.3 * z - 0.7, changed="relation"),
)


def specification(c: float) -> DeploymentSpec:
    """A deployment whose monitor of concept drift alarms at odds of c."""
    spec = DeploymentSpec("d", "m", BINARY, (), positive_class="1", outcomes=OutcomeSpec(horizon_ms=86_400_000))
    starts = spec.false_alarms.per_ms / spec.start_slot_ms
    budget = FalseAlarmBudget(count=starts / (c * spec.monitor_share(CONCEPT_DRIFT)))
    return dataclasses.replace(spec, false_alarms=budget)


def draw(rng: np.random.Generator, pairs: int, case: Case = UNCHANGED[0]) -> Pairs:
    """Pairs in the order in which their outcomes became known."""
    drawn = pairs * (MOST_DRAWN if case.is_partial else 1)
    noise = autoregressive(rng, 1, drawn, case.phi)[0] if case.phi else rng.normal(size=drawn)
    z = 1.3 * noise - 1 + case.inputs
    bad = rng.random(drawn) < expit(case.relation(z))
    hours = rng.gamma(4.0, 0.5, drawn) * (1 + 0.6 * bad)
    times = np.sort(rng.random(drawn)) * drawn * HOUR_US / 60
    ages = (hours * HOUR_US).astype(np.int64)
    from_end = hours if case.ages >= 0 else np.minimum(hours - LATE_HOURS, 0)
    kept = rng.random(drawn) < np.exp(-case.ages * from_end) * case.sampled
    if case.asked:
        kept &= rng.random(drawn) < 0.2 + 2.4 * expit(z) * expit(-z)
    if case.first_hours:
        period = case.first_hours * HOUR_US
        kept &= times % period + ages <= period
    order = np.argsort(times + ages, kind="stable")
    order = order[kept[order]][:pairs]
    scores = expit(z[order])
    rows = len(order)
    return Pairs(
        Predicted(scores[:, None], (scores >= 0.5).astype(np.int64)),
        bad[order].astype(np.float64),
        times[order].astype(np.int64),
        ages[order],
        np.ones(rows),
        np.full(rows, 255, np.uint8),
        rng.random(rows),
    )


def learn(
    pairs: Pairs, spec: DeploymentSpec, *, by_age: bool = True, segments: tuple[BaselineSegment, ...] = ()
) -> Baseline:
    """The baseline of a reference's pairs; without ``by_age`` all ages are one condition."""
    edges = age_edges(pairs.ages_us) if by_age else np.zeros(0, np.int64)
    nothing = np.zeros(0)
    outcomes = OutcomeReference(
        86_400_000,
        pairs.rows,
        pairs.rows,
        edges,
        0,
        ("0", "1") if spec.task == BINARY else (),
        np.linspace(0.01, 0.99, 99),
        nothing,
        nothing,
        {},
        {},
        {},
    )
    layout = performance_layout(spec, outcomes)
    assert layout is not None, "outcomes are expected"
    buckets = learn_score_buckets(layout, pairs.predicted, age_bucket(edges, pairs.ages_us))
    bucket = age_bucket(edges, pairs.ages_us)
    counts, sums = sums_by_age(count_pairs(layout, pairs, bucket, layout.ages))
    outcomes = dataclasses.replace(outcomes, score_buckets=buckets, counts=counts, sums=sums)
    streams = tuple(learn_streams(spec, layout, outcomes, pairs, segments))
    return Baseline("d", "1", pairs.rows, streams, segments=segments, outcomes=outcomes)


@dataclass(frozen=True)
class Alarm:
    """After how many pairs it was raised, and what it says has moved."""

    pairs: int
    diagnosis: str


def follow(spec: DeploymentSpec, baseline: Baseline, pairs: Pairs, *, anew: bool) -> Iterator[Alarm]:
    """The alarms of concept drift. ``anew``: after each the monitors begin anew, with nothing muted, so that there may
    be another at once; else they go on as a worker's do.
    """
    counter = OutcomeCounter(spec, baseline)
    monitors = Monitors(spec, baseline, 0, 0)
    for step in range(pairs.rows // PAIRS_PER_STEP):
        after = (step + 1) * PAIRS_PER_STEP
        monitors.start(step, step, 0.0)
        counts = counter.count(pairs.take(np.arange(step * PAIRS_PER_STEP, after)))
        monitors.count_blocks(counts)
        for alarm in monitors.alarms(step):
            yield Alarm(after, diagnosis_of(spec, monitors, alarm).kind)
            if anew:
                monitors = Monitors(spec, baseline, step, step)
        monitors.resolutions()


def measure(seed: int, quick: bool) -> list[Figure]:
    """False alarms over the bound, and what is found of changes."""
    trials, pairs = (3, 10_000) if quick else (12, 30_000)
    rng = np.random.default_rng([seed, 6])
    low, usual = specification(LOW_C), specification(720 / 0.3)
    alarms = {case.name: 0 for case in UNCHANGED}
    without_ages, starts = dict(alarms), dict(alarms)
    raised: dict[str, list[list[Alarm]]] = {case.name: [] for case in (OTHER_INPUTS, *OTHER_RELATIONS)}
    for _ in range(trials):
        learnt: dict[Case, tuple[Baseline, Baseline]] = {}
        for case in UNCHANGED:
            if case.reference not in learnt:
                reference = draw(rng, REFERENCE_PAIRS, case.reference)
                learnt[case.reference] = learn(reference, low), learn(reference, low, by_age=False)
            by_age, ageless = learnt[case.reference]
            production = draw(rng, pairs, case)
            starts[case.name] += production.rows // PAIRS_PER_STEP
            alarms[case.name] += len(list(follow(low, by_age, production, anew=True)))
            without_ages[case.name] += len(list(follow(low, ageless, production, anew=True)))
        baseline = learnt[OTHER_INPUTS.reference][0]
        for case in (OTHER_INPUTS, *OTHER_RELATIONS):
            raised[case.name].append(list(follow(usual, baseline, draw(rng, pairs, case), anew=False)))
    return [*_false_alarms(alarms, without_ages, starts), *_found(raised)]


def _false_alarms(alarms: dict[str, int], without_ages: dict[str, int], starts: dict[str, int]) -> list[Figure]:
    figures, table = [], []
    for name in alarms:
        bound = starts[name] / LOW_C
        row = figure(
            f"outcomes: false alarms over the bound, {name}",
            alarms[name] / bound,
            "ratio",
            at_most=1.0,
            note=f"{alarms[name]} alarms, the bound allows {bound:,.0f}",
        )
        other = figure(
            f"outcomes: false alarms over the bound, {name}, if ages were not told apart",
            without_ages[name] / bound,
            "ratio",
            note=f"{without_ages[name]} alarms",
        )
        figures += [row, other]
        table.append((name, within(row, f"{row['value']:.2f}"), f"{other['value']:.2f}"))
    most = max(starts.values())
    title = f"Outcomes without another relation: false alarms over the bound, c = {LOW_C:.0f}, {most:,} starts"
    print_table(title, ("production", "judged at equal age", "all ages together"), table)
    return figures


def _found(raised: dict[str, list[list[Alarm]]]) -> list[Figure]:
    """What alarms say: of another relation that it is one, of other inputs that it is none."""
    figures, table = [], []
    for case in (OTHER_INPUTS, *OTHER_RELATIONS):
        relation, trials = case.changed == "relation", raised[case.name]
        blaming = [[a for a in alarms if a.diagnosis == RELATION] for alarms in trials]
        found = figure(
            f"outcomes: trials with an alarm, {case.name}",
            float(np.mean([bool(alarms) for alarms in trials])),
            "share",
            at_least=1.0 if relation else None,
            note=f"median delay {_delay(trials)} pairs",
        )
        blamed = figure(
            f"outcomes: trials with an alarm that blames the relation, {case.name}",
            float(np.mean([bool(alarms) for alarms in blaming])),
            "share",
            at_least=1.0 if relation else None,
            at_most=None if relation else 0.05,
            note=f"median delay {_delay(blaming)} pairs",
        )
        first = float(
            np.mean([alarms[:1] == those[:1] for alarms, those in zip(trials, blaming, strict=True) if alarms])
        )
        figures += [found, blamed]
        table.append(
            (
                case.name,
                within(found, f"{found['value']:.0%}"),
                _delay(trials),
                within(blamed, f"{blamed['value']:.0%}"),
                _delay(blaming),
                f"{first:.0%}",
            )
        )
    columns = (
        "production",
        "alarms in",
        "first after pairs",
        "blame the relation",
        "after pairs",
        "the first one does",
    )
    print_table("Outcomes: what is found, one false alarm a month allowed", columns, table)
    return figures


def _delay(trials: Sequence[Sequence[Alarm]]) -> str:
    """Median number of pairs to the first alarm of the trials that have one."""
    first = [alarms[0].pairs for alarms in trials if alarms]
    return f"{np.median(first):,.0f}" if first else "–"
