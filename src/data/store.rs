//! The packed store: the data set as bits, memory-mapped.
