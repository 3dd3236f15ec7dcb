"""Where bytes are kept outside the database."""
