//! `emberformer verify`

use crate::cli::{print, print_json};
use crate::device::Device;
use crate::tensor::DType;
use crate::verify::{Check, EMBEDDED, read, run_case};
use crate::{Error, Result};
use serde::Serialize;
use std::path::PathBuf;

/// Checks this machine's numerics against golden cases: logits, loss, counts, every gradient, Adam steps.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: emberformer verify --device cpu\n         emberformer verify my_case.safetensors --json\n\n\
    Exits 1 where an error is beyond its tolerance. The format of a case: tests/golden/README.md."
)]
pub struct Args {
    /// Device to check: auto, cpu, cuda:N, or emulated (the GPU path on the host)
    #[arg(long, default_value = "auto")]
    device: String,
    /// Golden cases to run [default: those that come with the program]
    #[arg(value_name = "CASE.safetensors")]
    cases: Vec<PathBuf>,
    /// Print every comparison, not the worst of each kind
    #[arg(long)]
    all: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct CaseResult {
    case: String,
    precision: DType,
    passed: bool,
    checks: Vec<Check>,
}

pub fn run(args: Args) -> Result<()> {
    let device = Device::parse(&args.device)?;
    let files = args.cases.iter().map(|path| Ok((path.display().to_string(), read(path)?)));
    let files = files.collect::<Result<Vec<_>>>()?;
    let cases: Vec<(&str, &[u8])> = match files.is_empty() {
        true => EMBEDDED.to_vec(),
        false => files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect(),
    };
    let mut results = Vec::new();
    for (case, bytes) in cases {
        let precisions = match device {
            Device::Cpu(_) => [DType::F64, DType::F32],
            Device::Gpu(_) => [DType::F32, DType::BF16],
        };
        for precision in precisions {
            let checks = run_case(case, bytes, &device, precision)?;
            let passed = checks.iter().all(Check::passes);
            results.push(CaseResult { case: case.to_string(), precision, passed, checks });
        }
    }
    let failed = results.iter().filter(|result| !result.passed).count();
    if args.json {
        print_json(&serde_json::json!({ "device": device.describe(), "passed": failed == 0, "cases": results }))?;
    } else {
        print(&device.describe())?;
        for result in &results {
            show(result, args.all)?;
        }
        print(&format!("{} of {} cases within tolerance", results.len() - failed, results.len()))?;
    }
    match failed {
        0 => Ok(()),
        _ => Err(Error::failed(
            "verify",
            format_args!("{failed} cases beyond their tolerance"),
            "do not trust this machine's results; please report the table above",
        )),
    }
}

/// A table of a case: the worst comparison of each kind, or all.
fn show(result: &CaseResult, all: bool) -> Result<()> {
    print(&format!(
        "\n{} in {:?}: {}",
        result.case,
        result.precision,
        if result.passed { "passed" } else { "FAILED" }
    ))?;
    let mut rows: Vec<&Check> = result.checks.iter().collect();
    if !all {
        let kind = |check: &Check| check.quantity.split('.').next().map(str::to_string);
        rows.sort_by(|a, b| kind(a).cmp(&kind(b)).then((b.error / b.tolerance).total_cmp(&(a.error / a.tolerance))));
        rows.dedup_by_key(|check| kind(check));
    }
    for check in rows {
        let verdict = if check.passes() { "" } else { "  BEYOND" };
        print(&format!("  {:<72} {:>8.1e}  tolerance {:.0e}{verdict}", check.quantity, check.error, check.tolerance))?;
    }
    Ok(())
}
