"""How much: units in disjoint classes, ceilings before a call, charge and cost after it."""
