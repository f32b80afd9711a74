//! Train, validation and test sequences.
