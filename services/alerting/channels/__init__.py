"""Ways to reach people: Slack, PagerDuty, e-mail, webhooks, Teams, Opsgenie."""
