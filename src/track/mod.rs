//! What a run leaves in its folder, and what a person sees while it goes on.

pub mod console;
pub mod folder;
pub mod machine;
pub mod record;
pub mod tracker;
