"""Words that every package speaks: ids, money, time, errors, JSON checks, secrets, payloads."""
