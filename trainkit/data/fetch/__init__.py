"""Bytes of items, exactly as many as asked for, from many threads at once. Begin with `choose.open_fetcher`."""
