"""From a plan to an outcome: processes, their output, their ends. Standard library only."""
