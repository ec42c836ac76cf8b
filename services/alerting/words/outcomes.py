"""What a change among outcomes says: losses, calibration, labels that come late, groups that are treated otherwise.

Streams of outcomes are judged among outcomes of equal age (calibration and residuals also at a like prediction): a bin
holds those that lie between two quantiles of the *reference's outcomes of the same condition*. So a value in the top
bins means "larger than nine in ten of the reference's outcomes known at the same age", whatever the age is. Right and
wrong, or classes, are spread evenly over the ranks that they take, so that the move of a rate by some points is a total
variation of as many.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from driftline.codec import Record
from services.alerting.words.statements import Statement, expected_share, statement
from services.alerting.words.text import Line, Value, command, line, value
from streams.baseline import FAIRNESS_ROLE, LABELS_ROLE, OUTCOME_ROLE
from streams.outcomes.evidence import (
    CALIBRATION,
    CALIBRATION_SLOPE,
    FALSE_POSITIVE,
    INPUTS,
    LOSS,
    LOSS_TAIL,
    OUTCOME,
    OUTCOME_RATE,
    RELATION,
    RESIDUAL,
    RESIDUAL_SLOPE,
    SELECTED,
    TRUE_POSITIVE,
)
from streams.specification import FAIRNESS, LABELS
from streams.statistics.layouts import ABOVE_MAX, BELOW_MIN, CORE_BINS, FIRST_CORE, NUMERIC, NUMERIC_MISSING

OUTCOME_ROLES = (OUTCOME_ROLE, LABELS_ROLE, FAIRNESS_ROLE)

LABELS_PREFIX = "labels:"
KNOWN = "known"
"""The category of a prediction whose outcome is there."""

_NAMES = {
    LOSS: "the loss",
    LOSS_TAIL: "the largest losses",
    CALIBRATION: "calibration",
    CALIBRATION_SLOPE: "how outcomes follow the scores",
    RESIDUAL: "the residual",
    RESIDUAL_SLOPE: "how actual values follow the predictions",
    OUTCOME: "the outcome",
    SELECTED: "the rate of positive predictions",
    TRUE_POSITIVE: "the true-positive rate",
    FALSE_POSITIVE: "the false-positive rate",
}
_NOUNS = {
    LOSS: ("a loss", "larger", "smaller"),
    RESIDUAL: ("a residual", "higher", "lower"),
    RESIDUAL_SLOPE: ("a residual, turned around for high predictions,", "higher", "lower"),
}
_OUTCOME_NOUN = ("an outcome", "higher", "lower")
_LIKE_PREDICTION = (CALIBRATION, CALIBRATION_SLOPE, RESIDUAL, RESIDUAL_SLOPE)

_MOVED = {
    LOSS: ("Losses are larger on the whole.", "Losses are smaller on the whole."),
    LOSS_TAIL: ("Very large losses are more frequent.", ""),
    CALIBRATION: (
        "What the scores speak of comes true more often than the same scores used to mean.",
        "What the scores speak of comes true less often than the same scores used to mean.",
    ),
    CALIBRATION_SLOPE: (
        "Low scores come true more often than they did, and high ones less: scores tell less.",
        "Low scores come true less often than they did, and high ones more: scores tell more.",
    ),
    RESIDUAL: (
        "Actual values lie higher above the predictions than they used to.",
        "Actual values lie lower below the predictions than they used to.",
    ),
    RESIDUAL_SLOPE: (
        "Low predictions are too low more than they were, and high ones too high: predictions tell less.",
        "Low predictions are too high more than they were, and high ones too low.",
    ),
    OUTCOME: (
        "Outcomes lie higher on the whole; of classes, the later ones in their order are more frequent.",
        "Outcomes lie lower on the whole; of classes, the earlier ones in their order are more frequent.",
    ),
}
_RATES = {
    SELECTED: "{n} {more} are predicted positive than in the reference",
    TRUE_POSITIVE: "{n} {more} of the actual positives are predicted positive than in the reference",
    FALSE_POSITIVE: "{n} {more} of the actual negatives are predicted positive than in the reference",
    CALIBRATION: "{n} {more} come true than in the reference at like scores",
    CALIBRATION_SLOPE: "{n} {more} of the low scores come true than in the reference, and {fewer} of the high ones",
}
"""Streams of ones and zeros, told as rates."""

_UNITS = {TRUE_POSITIVE: "actual positives", FALSE_POSITIVE: "actual negatives"}
_EVEN = 0.02
"""Closer to one half the mean rank is not said to have moved to either side."""

_LEAST_MOVE = 0.001
"""A rate that moved by less is not said to have moved."""

_NEXT_TO_NONE_COME = 0.05
"""Of the outcomes expected: fewer have stopped coming, or come much later."""

_WAITS = ((86_400_000, "day"), (3_600_000, "hour"), (60_000, "minute"), (1_000, "second"))


def outcome_name(cause: Record) -> tuple[str, ...]:
    """How a stream of outcomes is called in a sentence: 'the loss', 'outcomes known within 2 hours'."""
    stream = cause["stream"]
    if cause["role"] == LABELS_ROLE:
        within = _within(cause)
        if within:
            return (f"outcomes known within {within}",)
        return ("outcomes known by step ", value(stream.removeprefix(LABELS_PREFIX)), " of the reference's delays")
    return (_NAMES[stream],) if stream in _NAMES else (value(stream),)


def outcome_unit(cause: Record) -> str:
    """What the counts of a stream of outcomes count."""
    if cause["role"] == LABELS_ROLE:
        return "predictions"
    return _UNITS.get(cause["stream"], "outcomes")


def waiting(cause: Record) -> str:
    """The same of labels more exactly: at later ages only predictions that still waited at the age before."""
    unit = outcome_unit(cause)
    return f"{unit} that still waited" if cause["role"] == LABELS_ROLE and not _is_first(cause) else unit


def outcome_statements(
    cause: Record, observed: Sequence[float], expected: Sequence[float]
) -> Iterator[Statement] | None:
    """Statements about the counts of a stream of outcomes, shares by bin; None where they are not counted in ranks or
    by whether they are known.
    """
    labels, stream = list(cause["bins"]), cause["stream"]
    if cause["role"] == LABELS_ROLE:
        return _known(cause, labels, observed, expected)
    if len(labels) != NUMERIC.size:
        return None
    return _tail(observed, expected) if stream == LOSS_TAIL else _ranks(stream, observed, expected)


def _known(
    cause: Record, labels: Sequence[str], observed: Sequence[float], expected: Sequence[float]
) -> Iterator[Statement]:
    known, within = _known_bin(labels), _within(cause)
    by = f" within {within}" if within else " by that age"
    verb = "had their outcome" if _is_first(cause) else "got it"
    yield Statement((verb + by,), observed[known], expected[known])


def _known_bin(labels: Sequence[str]) -> int:
    return next((i for i, label in enumerate(labels) if label.strip("()").lower() == KNOWN), 0)


def _is_first(cause: Record) -> bool:
    return str(cause["stream"]) == f"{LABELS_PREFIX}1"


def _within(cause: Record) -> str:
    """The age at which it is looked whether an outcome is known: '2 hours'; empty where the alert does not say."""
    length_ms = cause.get("interval_ms", 0)
    for size, name in _WAITS:
        if length_ms >= 2 * size or (length_ms >= size and length_ms % size == 0):
            number = length_ms / size
            shown = f"{number:,.0f}" if number >= 10 or number == int(number) else f"{number:.1f}"
            return f"{shown} {name}{'' if shown == '1' else 's'}"
    return ""


def _ranks(stream: str, observed: Sequence[float], expected: Sequence[float]) -> Iterator[Statement]:
    noun, above, below = _NOUNS.get(stream, _OUTCOME_NOUN)
    bare = noun.partition(" ")[2]
    like = "with a like prediction, " if stream in _LIKE_PREDICTION else ""
    whom = f"of the reference's outcomes {like}known at the same age"
    rank = (f"have a {{}} {bare} than {{}} {whom}").format
    yield statement(observed, expected, (f"have no {bare} that can be computed",), [NUMERIC_MISSING])
    yield statement(observed, expected, (rank(below, "any"),), [BELOW_MIN])
    yield statement(observed, expected, (rank(above, "any"),), [ABOVE_MAX])
    for decile in range(1, CORE_BINS):
        cut, share = FIRST_CORE + decile, 100 * decile // CORE_BINS
        upper = statement(observed, expected, (rank(above, f"{share} %"),), range(cut, NUMERIC_MISSING))
        lower = statement(observed, expected, (rank(below, f"{100 - share} %"),), range(cut))
        yield _risen(upper, lower)
    for decile in range(1, CORE_BINS // 2):
        low, high = FIRST_CORE + decile, FIRST_CORE + CORE_BINS - decile
        middle = f"the middle {100 * (high - low) // CORE_BINS} % {whom}"
        ends = [*range(low), *range(high, NUMERIC_MISSING)]
        outside = statement(observed, expected, (f"have {noun} outside {middle}",), ends)
        yield _risen(outside, statement(observed, expected, (f"have {noun} within {middle}",), range(low, high)))


def _risen(statement: Statement, opposite: Statement) -> Statement:
    """Of two that say the same of opposite rows, the one of which there are more now: it is the easier to read."""
    return statement if statement.observed >= statement.expected else opposite


def _tail(observed: Sequence[float], expected: Sequence[float]) -> Iterator[Statement]:
    """Of the largest losses: from which share of the reference's own on they would have been the largest."""
    for cut in range(1, NUMERIC_MISSING):
        bins = range(cut, NUMERIC_MISSING)
        beyond = expected_share(sum(expected[i] for i in bins))
        words = f"have a loss beyond all but {beyond} of the reference's outcomes known at the same age"
        yield statement(observed, expected, (words,), bins)


def mean_rank(observed: Sequence[float], expected: Sequence[float]) -> float:
    """Mean rank of the observed among the expected, 0 to 1, one half where nothing moved; the last bin (missing) does
    not count.

    Shares by bin, in order. The ridit of Bross, "How to use ridit analysis", Biometrics 14, 1958.
    """
    present, whole = sum(observed[:-1]), sum(expected[:-1])
    if not present > 0 or not whole > 0:
        return 0.5
    below = rank = 0.0
    for o, e in zip(observed[:-1], expected[:-1], strict=True):
        rank += o / present * (below + e / (2 * whole))
        below += e / whole
    return rank


def moved_text(cause: Record, observed: Sequence[float], expected: Sequence[float]) -> str:
    """To which side a stream of outcomes moved: 'Losses are larger on the whole.'; empty where to none."""
    words = _MOVED.get(cause["stream"])
    if words is None or cause["role"] not in (OUTCOME_ROLE, FAIRNESS_ROLE) or len(cause["bins"]) != NUMERIC.size:
        return ""
    excess = mean_rank(observed, expected) - 0.5
    least = 0.0 if cause["stream"] == LOSS_TAIL else _EVEN  # few of all losses are very large
    return words[0] if excess > least else words[1] if excess < -least else ""


def rate_move(observed: Sequence[float], expected: Sequence[float]) -> float:
    """By how much the rate of ones among zeros and ones moved, -1 to 1, from their ranks; shares by bin, in order.

    With zeros spread over the lower 1 - r of the ranks and ones over the upper r, a rate of r' has the density
    (1 - r') / (1 - r) and then r' / r: the largest difference of the distribution functions, at the rank 1 - r, is
    r' - r, or a little less where no bin ends there.
    """
    largest = difference = 0.0
    for o, e in zip(observed[:-1], expected[:-1], strict=True):
        difference += e - o
        if abs(difference) > abs(largest):
            largest = difference
    return largest


def rate_reading(cause: Record, observed: Sequence[float], expected: Sequence[float]) -> Line | None:
    """'About 11 in 100 more of the actual positives are predicted positive than in the reference'; None for streams
    that are no rates, and other layouts.
    """
    told = _RATES.get(cause["stream"])
    if cause["role"] not in (FAIRNESS_ROLE, OUTCOME_ROLE) or told is None or len(cause["bins"]) != NUMERIC.size:
        return None
    move = rate_move(observed, expected)
    if abs(move) < _LEAST_MOVE:
        return line("about as many as in the reference")
    more, fewer = ("more", "fewer") if move > 0 else ("fewer", "more")
    return line("about ", told.format(n=_in_a_hundred(abs(move)), more=more, fewer=fewer))


def _in_a_hundred(share: float) -> str:
    """A share 0 to 1 as people: '11 in 100', '0.4 in 100'."""
    number = 100 * share
    return f"{number:.0f} in 100" if number >= 9.95 else f"{number:.1f} in 100"


def concept_words(diagnosis: str, deployment: Value, first: str) -> tuple[str, ...]:
    """What concept drift is taken to be. ``first``: to which side the strongest cause moved, see :func:`moved_text`."""
    if diagnosis == RELATION:
        return ("The relation between inputs and outcome has changed in ", deployment)
    if diagnosis == OUTCOME_RATE:
        return ("The outcome's rate has moved in ", deployment)
    if diagnosis == INPUTS:
        better = first == _MOVED[LOSS][1]
        return ("The model meets inputs on which it is ", "better" if better else "worse", " in ", deployment)
    return ("The outcomes of ", deployment, " no longer fit its predictions as in the reference")


def labels_words(known: Statement | None, deployment: Value) -> tuple[str, ...]:
    """What became of the labels; ``known``: how many are known, by the strongest cause."""
    whose = ("The outcomes of ", deployment)
    if known is None or known.observed == known.expected:
        return (*whose, " no longer come as in the reference")
    if known.observed > known.expected:
        return (*whose, " come sooner than in the reference")
    if known.observed < _NEXT_TO_NONE_COME * known.expected:
        return (*whose, " have stopped coming, or come much later than in the reference")
    return (*whose, " come later than in the reference, or not at all")


def outcome_steps(record: Record, known: Statement | None) -> tuple[str, ...]:
    """What to do next about an alert of outcomes; ``known`` as in :func:`labels_words`."""
    monitor, deployment = record["monitor"], record["deployment_id"]
    if monitor == LABELS:
        sooner = known is not None and known.observed > known.expected
        coverage = command("windows show", deployment, "--metric", "coverage")
        ask = _LABELS_SOONER if sooner else _LABELS_LATE
        return (ask, "How many came, when: ", coverage, "; how many were refused: ", command("status"))
    if monitor == FAIRNESS:
        compare = command("windows show", deployment, "--metric", "fairness", *_part(record))
        return ("compare the groups, with intervals and coverage: ", compare, _FAIRNESS_STEP)
    residual = any(cause["stream"] in (RESIDUAL, RESIDUAL_SLOPE) for cause in record["causes"])
    compare = command("windows show", deployment, "--metric", "mae" if residual else "accuracy")
    return ("compare how right it was: ", compare, _CONCEPT_STEPS.get(record.get("diagnosis", ""), _CONCEPT_STEPS[""]))


def _part(record: Record) -> tuple[str, ...]:
    """The option that names the segmentation of the strongest cause."""
    segment = record["causes"][0]["segment"] if record["causes"] else ""
    return ("--segment", segment.partition("=")[0]) if segment else ()


_CONCEPT_STEPS = {
    RELATION: (
        "; rule out that the outcome was redefined or is joined otherwise. If the world has changed, consider "
        "retraining on what came since; until then trust no accuracy estimated before the outcomes: such estimates "
        "assume the old relation"
    ),
    OUTCOME_RATE: (
        "; rule out that labels of one kind are lost, late or redefined. If the rate itself has moved, consider "
        "recalibrating, another threshold, or retraining"
    ),
    INPUTS: (
        "; look at the alarms on inputs of the same time and at the parts of the traffic. Consider retraining with "
        "such inputs, or leaving them to people"
    ),
    "": (
        "; rule out that the outcome was redefined or is joined otherwise. If the world has changed, consider "
        "retraining"
    ),
}
_LABELS_LATE = (
    "ask whoever delivers the outcomes: is the job late, did it stop, did the prediction ids change? Until then recent "
    "accuracy is provisional. "
)
_LABELS_SOONER = (
    "ask whoever delivers the outcomes whether they are taken before they are settled, or filled with a default. "
)
_FAIRNESS_STEP = (
    "; ask what changed for this group: its inputs, the threshold, who is labelled at all. A difference of rates does "
    "not by itself show discrimination, nor their equality that there is none"
)
