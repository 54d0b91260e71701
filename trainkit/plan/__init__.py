"""From facts to a plan that can be printed, compared and handed over. Nothing here starts anything."""
