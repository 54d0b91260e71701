"""The one door to bytes outside this process. Import what you need: `files` for URLs, `commit` for a local file."""
