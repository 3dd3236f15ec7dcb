"""The money design as a program: a reference model under random schedules, and the product held against it."""
