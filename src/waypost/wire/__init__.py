"""Callers' formats: typed, closed sets of fields in our own order and spelling."""
