//! The `emberformer` binary.

fn main() -> std::process::ExitCode {
    emberformer::cli::main()
}
