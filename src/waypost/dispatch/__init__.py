"""Every model call: attempts that own their upstream socket, hold and journal entry, and outlive the caller."""
