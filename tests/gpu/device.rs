//! The emulated device reports what is wrong with a kernel, and computes what the GPU's instructions compute.

use emberformer::device::gpu::{Gpu, Launch, params};
use half::bf16;

/// Runs a check of `kernels/emulate/checks.cu` over 64 threads with 256 bytes of shared memory.
fn run(kernel: &str, input: &[f32], halves: &[bf16], len: u64) -> Result<Vec<f32>, String> {
    let gpu = Gpu::emulated();
    let out = gpu.upload(&vec![0.0f32; 256]).unwrap();
    let (values, halves) = (gpu.upload(input).unwrap(), gpu.upload(halves).unwrap());
    let params =
        params::Check { out: out.address().cast(), in_: values.address().cast(), halves: halves.address(), len };
    let block = if kernel == "check_mma" { 32 } else { 64 };
    let shared = if kernel == "check_copies" || kernel == "check_mma" { 1024 } else { 256 };
    gpu.launch(kernel, Launch { grid: [1, 1, 1], block, shared }, &params).map_err(|e| e.to_string())?;
    Ok(gpu.download(&out, 256).unwrap())
}

#[test]
fn wrong_kernels_are_reported_with_kernel_block_and_thread() {
    let input = vec![1.0; 64];
    for (kernel, len, expected) in [
        ("check_divergent_barrier", 0, "waits at __syncthreads, which thread 37 never reaches"),
        ("check_unwritten_shared", 0, "thread 20: read of shared memory at byte 80, which nothing wrote"),
        ("check_outside_shared", 0, "thread 63: write of 4 bytes at 256 of 256 bytes of shared memory"),
        ("check_missing_barrier", 0, "read of shared memory at byte 128, which nothing wrote"),
        ("check_overwritten_early", 0, "read without a barrier in between"),
        ("check_read_beyond", 1, "thread 63: access outside of every device buffer"),
        ("check_read_beyond", 1 << 40, "access outside of every device buffer"),
        ("check_write_beyond", 193, "thread 63: access outside of every device buffer"),
        ("check_misaligned", 0, "not a multiple of that"),
        ("check_lonely_shuffle", 0, "which not all lanes of its warp reach (arrived: 0x0000ffff)"),
        ("check_unwaited_copy", 0, "which nothing wrote"),
    ] {
        let error = run(kernel, &input, &[], len).expect_err(kernel);
        assert!(error.contains(&format!("kernel {kernel}, block (0, 0, 0), thread")), "{error}");
        assert!(error.contains(expected), "{error}");
    }
    // The device is as good as new afterwards.
    run("check_collectives", &input, &[], 0).unwrap();
}

#[test]
fn launches_that_cannot_be_are_refused() {
    let gpu = Gpu::emulated();
    let error = |kernel: &str, launch: Launch, big: bool| {
        let result = if big {
            gpu.launch(kernel, launch, &[0u64; 9])
        } else {
            gpu.launch(kernel, launch, &params::Check::default())
        };
        result.unwrap_err().to_string()
    };
    let launch = Launch::linear(1, 64);
    assert!(error("no_such", launch, false).contains("no such kernel"));
    assert!(error("check_mma", launch, false).contains("32 at most"));
    assert!(error("check_copies", launch, true).contains("parameters of 72 bytes, the kernel takes 32"));
    assert!(error("check_copies", Launch { shared: 100 * 1024, ..launch }, false).contains("are the most"));
    assert!(error("check_copies", Launch { grid: [1, 70_000, 1], ..launch }, false).contains("65535"));
}

#[test]
fn memory_that_is_not_there_is_an_error_with_its_remedy() {
    let gpu = Gpu::emulated();
    let kept = gpu.take(3 << 20).unwrap();
    let text = gpu.take(1 << 60).err().unwrap().to_string();
    assert!(text.contains("MiB more (3.0 MiB in use)") && text.contains("use a smaller data.batch_size"), "{text}");
    drop(kept);
    assert_eq!(gpu.memory().0, 0);
}

#[test]
fn bytes_that_vector_accesses_move_are_counted() {
    let gpu = Gpu::emulated();
    let x = gpu.upload(&[1.0f32; 1000]).unwrap();
    let dropout = params::Dropout { scale: 1.0, ..params::Dropout::default() };
    let params = params::DropoutApply { to: x.address(), from: x.address(), len: 1000, dropout };
    gpu.launch("dropout_apply_f32", Launch::linear(4, 256), &params).unwrap();
    assert_eq!(gpu.bytes_moved(), Some(2 * 4 * 1000));
}

#[test]
fn collectives_and_copies_are_the_gpu_s() {
    let input: Vec<f32> = (0..64).map(|i| (i * 37 % 11) as f32 - 5.0).collect();
    let out = run("check_collectives", &input, &[], 0).unwrap();
    let sum = |values: &[f32]| values.iter().sum::<f32>();
    for i in 0..64 {
        let warp = &input[i / 32 * 32..][..32];
        assert_eq!(out[i], sum(warp));
        assert_eq!(out[64 + i], sum(&input));
        assert_eq!(out[128 + i], input[if i % 32 == 0 { i } else { i - 1 }]);
        let ballot = warp.iter().enumerate().map(|(lane, x)| u32::from(*x > 0.0) << lane).sum::<u32>();
        assert_eq!(out[192 + i], ballot as f32);
    }
    let input: Vec<f32> = (0..204).map(|i| i as f32).collect();
    let out = run("check_copies", &input, &[], 200).unwrap();
    let expected: Vec<f32> = (0..256).map(|i| if i < 200 { (i + 4) as f32 } else { 0.0 }).collect();
    assert_eq!(out, expected);
}

#[test]
fn tensor_core_products_are_those_of_the_ptx_manual() {
    let value = |i: usize| bf16::from_f32(((i * 29 % 17) as f32 - 8.0) / 4.0);
    let a: Vec<bf16> = (0..256).map(value).collect();
    let b: Vec<bf16> = (0..128).map(|i| value(i + 5)).collect();
    let expected: Vec<f32> =
        (0..128).map(|i| (0..16).map(|k| a[i / 8 * 16 + k].to_f32() * b[k * 8 + i % 8].to_f32()).sum()).collect();
    let transposed: Vec<bf16> = (0..128).map(|i| b[i % 16 * 8 + i / 16]).collect();
    for (second, len) in [(&b, 0), (&transposed, 1)] {
        let halves = [a.as_slice(), second].concat();
        assert_eq!(run("check_mma", &[0.0], &halves, len).unwrap()[..128], expected);
    }
}
