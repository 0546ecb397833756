//! Prints how far shmrpc is from the limits of this machine. See the crate's documentation.

use std::process::ExitCode;

fn main() -> ExitCode {
    shmrpc_benches::report::main()
}
