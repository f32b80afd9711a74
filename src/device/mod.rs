//! Where memory lives and ops run.
