//! What a run leaves in its folder, for this program and for others, and what a person sees while it goes on.

pub mod console;
pub mod folder;
pub mod machine;
pub mod record;
mod sink;
mod system;
mod tensorboard;
pub mod tracker;
pub mod wandb;
