"""The ground: errors, the row, the guard, locks. Standard library only."""
