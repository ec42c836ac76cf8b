"""The alerting service: from records on the topic ``alerts`` to messages that reach the people on call.

``intake`` reads the topic, ``incidents`` decides, ``store`` keeps what was decided in one database transaction,
``dispatcher`` sends through the channels (``pagerduty``, ``slack``), ``publications`` writes what happened to
``audit``.
"""
