"""How well predictions agree with what turned out to be true: mergeable sums, and what is computed from them."""
