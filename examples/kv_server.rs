//! A key-value store that runs until SIGINT or SIGTERM. Talk to it with `kv_client`, from another terminal.
//!
//! ```text
//! cargo run --release --bin kv_server [-- --endpoint shm:NAME]
//! ```

#![forbid(unsafe_code)]

use kv_service::KvServer;
use std::env;
use std::process::ExitCode;

use store::Store;

#[path = "kv/endpoint.rs"]
mod endpoint;
#[path = "kv/store.rs"]
mod store;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (endpoint, []) = endpoint::take(&arguments) else {
        eprintln!("usage: kv_server [--endpoint ENDPOINT]      (shm:kv if left out)");
        return ExitCode::from(2);
    };
    eprintln!("going to serve at {endpoint} until Ctrl-C");
    match shmrpc::serve(endpoint, KvServer::new(Store::default())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
