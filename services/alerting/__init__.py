"""The alerting service: from records on the topic ``alerts`` to messages that reach the people on call.

``intake`` reads the topic, ``incidents`` decides, ``store`` keeps what was decided, ``outbox`` what is to be sent,
``dispatcher`` sends through the channels (``pagerduty``, ``slack``), ``publications`` writes what happened to
``audit``.
"""
