"""From equations to their program: a trace of them, what it sees and what it relies on."""
