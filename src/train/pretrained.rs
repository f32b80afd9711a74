//! Published SegFormer weights for the spatial decoder's head.

use crate::model::EmberFormer;
use crate::train::checkpoint::check_extent;
use crate::{Error, Result};
use safetensors::tensor::{Dtype, SafeTensors};
use std::path::Path;

const PREFIX: &str = "spatial_decoder.segformer.";
const CLASSIFIER: &str = "decode_head.classifier.";

/// Takes the head's weights and running statistics from a safetensors file, where their names stand with or without the
/// prefix `spatial_decoder.segformer.`; a classifier of another width is left fresh.
///
/// # Errors
/// A file that is missing, damaged, lacks one of the head's tensors or has one of another shape or type.
pub fn load_pretrained(model: &mut EmberFormer, path: &Path) -> Result<()> {
    const REMEDY: &str = "name the model.safetensors of the variant in model.spatial.model_name, in float32";
    let fail = |problem: String| Error::failed(path.display(), problem, REMEDY);
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, "cannot read the published weights", &e))?;
    check_extent(&bytes, path)?;
    let file = SafeTensors::deserialize(&bytes).map_err(|e| fail(format!("is no safetensors file: {e}")))?;
    let head: Vec<_> = model
        .parameters()
        .iter()
        .filter_map(|p| p.name.strip_prefix(PREFIX).map(|short| (p.name.clone(), short.to_string(), p.shape.clone())))
        .collect();
    for (name, short, shape) in head {
        let tensor = file.tensor(&name).or_else(|_| file.tensor(&short));
        let fresh = short.starts_with(CLASSIFIER);
        match tensor {
            Ok(tensor) if tensor.shape() == shape && tensor.dtype() == Dtype::F32 => {
                let chunks = tensor.data().chunks_exact(4);
                let values: Vec<f32> = chunks.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
                model.parameters_mut().set(&name, &values)?;
            }
            _ if fresh => {}
            Ok(tensor) => {
                let (is, dtype) = (tensor.shape(), tensor.dtype());
                return Err(fail(format!("{short} is {dtype} of shape {is:?}, the model needs F32 of {shape:?}")));
            }
            Err(_) => return Err(fail(format!("has no tensor {short}"))),
        }
    }
    Ok(())
}
