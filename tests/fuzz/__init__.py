"""The parsers that read strangers' bytes, under coverage-guided fuzzing by command and under seeded mutations in CI."""
