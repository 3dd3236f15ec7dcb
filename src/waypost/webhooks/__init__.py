"""Webhooks as values: events and their bodies, signatures, when to try again, and when an endpoint rests."""
