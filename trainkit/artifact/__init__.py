"""The model directory: what a job leaves to be used."""
