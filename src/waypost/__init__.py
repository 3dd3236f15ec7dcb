"""Waypost: a self-hosted AI API router and execution platform."""
