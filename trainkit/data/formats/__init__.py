"""How rows lie in files: which spans of bytes can be fetched apart, and what rows come out of them."""
