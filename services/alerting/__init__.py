"""The alerting service: from records on the topic ``alerts`` to messages that reach the people on call.

The folders are the stages an alert passes through: ``intake`` reads the topic, ``incidents`` finds the cause it belongs
to, ``policy`` says who is concerned, ``notify`` decides what each of them is told and keeps it until it has arrived,
``words`` say it, ``channels`` send it. ``api`` takes what people answer, ``watch`` watches all of this, and
``publications`` writes what happened to ``audit``. ``database`` keeps it, in one transaction for each step.
"""
