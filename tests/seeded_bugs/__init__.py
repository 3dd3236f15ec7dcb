"""Mistakes planted in a copy of the product, each with the test that has to notice it: whether the proof can fail."""
