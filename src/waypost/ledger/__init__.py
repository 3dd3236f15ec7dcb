"""Money: what a lease, an attempt, a settlement and a balance are. Amounts are whole nano-USD."""
