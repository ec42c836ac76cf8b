"""What the demonstration has watched: the specifications of its two deployments, as a user would write them.

The humility rules were written before anything of the months that are served was looked at: their bounds come from the
reference, or from what the words mean (visibility under three miles calls for instrument flight rules). They are not
tuned to the year.
"""

from __future__ import annotations

LATE = "flights"
DELAYS = "delays"

LATE_SPECIFICATION = """\
# What is watched, and how. Published by: driftline deployment apply flights.yaml
deployment: flights
model: late-arrival
description: Will this flight arrive more than 15 minutes late?
owner: operations-control
task: binary_classification
positive_class: late

features:
  carrier: categorical
  origin: categorical
  dest: categorical
  hour: numeric
  weekday: numeric
  distance: numeric
  temp: numeric
  dewp: numeric
  humid: numeric
  wind_speed: numeric
  precip: numeric
  pressure: numeric
  visib: numeric

columns:
  prediction_id: flight_id
  timestamp: scheduled_departure
  prediction: late_probability
  prediction_label: predicted
  actual_label: arrived
  actual_timestamp: known_at

window: 1d
start_slot: 1h
margin: 0.05

# The promise: at most one false alarm expected in 60 days, for all deployments together.
false_alarms: {count: 1, per: 60d, scope: fleet}

# Known when the flight has landed; cancelled ones never are. Accuracy by day of departure, carriers beside each other.
outcomes:
  horizon: 36h
  lateness: 1h
  fairness: [carrier]

# The four carriers that fly most, and the others together, also on their own, under the same promise.
segments:
  carrier: {column: carrier, most: 4}

# When the model is not to be trusted, and what is done then. Bounds without numbers come from the reference.
humility:
  guarantees: {novelty: 0.01, max_error: 0.15, confidence: 0.95}
  rules:
  - name: unknown destination
    when: {low_observation_region: {feature: dest, least: 1}}
    action: refuse
    message: The reference has no flight to this destination.
    priority: 10
  - name: storm
    when: {outlying_input: {features: [visib, wind_speed, precip]}}
    action: {route: the dispatch desk}
    message: Wind, rain or visibility are beyond what the reference has.
    priority: 20
  - name: rare destination
    when: {low_observation_region: {feature: dest, least: 30}}
    action: {override: prior}
    message: The reference has fewer than 30 flights to this destination, so the usual answer is given.
    priority: 30
  - name: unsure
    when: {uncertain_prediction: certified}
    action: refuse
    message: The score is too close to the middle for the error that was agreed on.
    priority: 40
  # Two more that are only tried: what would they catch, and what would they cost?
  - name: instrument flight rules
    when: {outlying_input: {feature: visib, low: 3}}
    action: {route: the dispatch desk}
    dry_run: true
  - name: novel
    when: novel_input
    action: record

runbook: https://example.org/runbooks/late-arrival
"""

DELAYS_SPECIFICATION = """\
# How many minutes late? What is promised is the interval: nine of ten arrivals lie in it.
deployment: delays
model: arrival-delay
description: By how many minutes will this flight arrive late, and within which limits?
owner: operations-control
task: regression

# Its other inputs are those of flights, and watched there.
features:
  carrier: categorical
  origin: categorical
  visib: numeric

columns:
  prediction_id: flight_id
  timestamp: scheduled_departure
  prediction: expected_minutes
  actual_value: arrived_minutes
  actual_timestamp: known_at

window: 1d
start_slot: 6h
margin: 0.05
false_alarms: {count: 1, per: 60d, scope: fleet}
outcomes: {horizon: 36h, lateness: 1h}

# Static intervals are as wide as the reference asks for; adaptive ones learn from every flight that lands.
humility:
  guarantees: {coverage: 0.9}

runbook: https://example.org/runbooks/arrival-delay
"""
