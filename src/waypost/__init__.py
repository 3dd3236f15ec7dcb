"""Waypost: a self-hosted AI API router and execution platform."""

from waypost import compiled as compiled
