"""What operators see: typed events and counters with allow-listed fields. Nothing else writes logs."""
