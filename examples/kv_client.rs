//! One call to the key-value store that `kv_server` runs in another terminal.
//!
//! ```text
//! cargo run --release --bin kv_client -- put a 1
//! cargo run --release --bin kv_client -- get a
//! ```

#![forbid(unsafe_code)]

use kv_service::KvClient;
use std::env;
use std::error::Error;
use std::process::ExitCode;

use command::Command;

#[path = "kv/command.rs"]
mod command;
#[path = "kv/endpoint.rs"]
mod endpoint;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (endpoint, words) = endpoint::take(&arguments);
    let command = match Command::parse(words) {
        Ok(command) => command,
        Err(reason) => {
            eprintln!("usage: kv_client [--endpoint ENDPOINT] COMMAND\n\n{reason}");
            return ExitCode::from(2);
        }
    };
    match run(endpoint, &command) {
        Ok(answer) => {
            println!("{answer}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(endpoint: &str, command: &Command) -> Result<String, Box<dyn Error>> {
    let kv = KvClient::connect(endpoint)?;
    command.run(&kv)
}
