//! The Deep Crown layout on disk.
