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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::model::ModelSettings;
    use crate::tensor::DType;
    use safetensors::tensor::TensorView;

    fn small() -> EmberFormer {
        let settings = ModelSettings { hidden_sizes: [4; 4], decoder_width: 8, ..ModelSettings::default() };
        EmberFormer::new(&settings, &Device::cpu(), DType::F32, 1).unwrap()
    }

    /// A file as published: no prefix, a classifier of 150 classes, tensors of an encoder beside the head's.
    fn publish(path: &Path, leave_out: &str) {
        let model = small();
        let head = model.parameters().iter().filter_map(|p| Some((p.name.strip_prefix(PREFIX)?, p.shape.clone())));
        let mut tensors = vec![("segformer.encoder.patch_embeddings.0.proj.bias".to_string(), vec![3])];
        for (name, mut shape) in head.filter(|(name, _)| *name != leave_out) {
            if name.starts_with(CLASSIFIER) {
                shape[0] = 150;
            }
            tensors.push((name.to_string(), shape));
        }
        let bytes: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
            .into_iter()
            .map(|(name, shape)| {
                let bytes = 0.25f32.to_le_bytes().repeat(shape.iter().product());
                (name, shape, bytes)
            })
            .collect();
        let views = bytes.iter().map(|(n, s, b)| (n, TensorView::new(Dtype::F32, s.clone(), b).unwrap()));
        std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
    }

    #[test]
    fn the_head_is_read_and_a_wider_classifier_left_fresh() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        publish(&path, "");
        let (mut model, fresh) = (small(), small());
        load_pretrained(&mut model, &path).unwrap();
        for parameter in fresh.parameters().iter() {
            let name = &parameter.name;
            let values = model.parameters().get(name).unwrap();
            match name.strip_prefix(PREFIX) {
                Some(short) if !short.starts_with(CLASSIFIER) => assert!(values.iter().all(|v| *v == 0.25), "{name}"),
                _ => assert_eq!(values, fresh.parameters().get(name).unwrap(), "{name}"),
            }
        }
    }

    #[test]
    fn a_file_that_lacks_a_tensor_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        publish(&path, "decode_head.linear_fuse.weight");
        let error = load_pretrained(&mut small(), &path).unwrap_err().to_string();
        assert!(error.contains("model.safetensors: has no tensor decode_head.linear_fuse.weight"), "{error}");
        let error = load_pretrained(&mut small(), &folder.path().join("absent")).unwrap_err().to_string();
        assert!(error.contains("cannot read the published weights"), "{error}");
    }
}
