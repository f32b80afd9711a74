//! The Deep Crown reader, the packed store, split, sampler, augmentation and the fire simulator behind `synth`.

pub mod augment;
pub mod batch;
pub mod feed;
pub mod geotiff;
pub mod raw;
pub mod resident;
pub mod sampler;
mod shuffle;
pub mod split;
pub mod store;
pub mod synth;
