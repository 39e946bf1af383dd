"""Is every database covered by a recent, proved backup? What is found, what of it is news, what to read again."""
