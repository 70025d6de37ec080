"""Files written whole, locks on them, and rows in them, without torch."""
