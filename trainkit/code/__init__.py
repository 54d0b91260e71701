"""The job's code before it runs: fetched, unpacked, and what it requires installed. In a process of its own."""
