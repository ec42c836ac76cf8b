"""Accuracy windows as they are read: merged over partitions and periods, beside the reference and the estimates."""
