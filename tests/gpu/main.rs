//! Every kernel against the CPU op, on the emulated device or on a GPU (EMBERFORMER_TEST_DEVICE=cuda:0).

mod adam;
mod attention;
mod batch_norm;
mod captured;
mod conv;
mod device;
mod dropout;
mod feed_forward;
#[path = "../common/fires.rs"]
mod fires;
mod gather;
#[path = "../common/golden_cases.rs"]
mod golden_cases;
mod gradient_norm;
mod harness;
mod linear;
mod loss;
mod model;
mod norm_conv;
mod output_conv;
mod pyramid;
mod real_size;
mod refinement_input;
mod residual_norm;
mod self_attention;
mod slice;
mod token_embedding;
mod up_conv;
