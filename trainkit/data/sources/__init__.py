"""Which items a data set has, and in which order, wherever it is. Begin with `find.find`."""
