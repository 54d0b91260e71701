"""Stand-ins for engines that are too heavy for each test run."""
