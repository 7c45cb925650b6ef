"""One system at several numbers of bits and in several runtimes: quality and cost of each artifact side by side."""
