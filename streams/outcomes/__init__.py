"""Outcomes: joined to their predictions, judged at equal maturity, watched for a change of what the model knows."""
