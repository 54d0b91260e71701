"""The checks, one module per subject: functions from facts to findings, which touch nothing."""
