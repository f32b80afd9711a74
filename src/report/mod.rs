//! Comparison of runs, pictures, and the report as a page.

pub mod compare;
pub mod html;
pub mod page;
pub mod pictures;
pub mod watch;
