//! One-way methods of every kind, and lifetimes that are not named.

#![deny(warnings)]

use shmrpc::prelude::*;

#[shmrpc::message]
#[derive(Debug)]
pub struct Entry {
    pub key: String,
}

#[shmrpc::service]
pub trait Notes {
    #[oneway]
    fn lend(&self, frame: Blob<f32>, more: Blob);
    #[oneway]
    fn nothing(&self) {}
    #[oneway]
    fn later(&self, entry: Entry) {
        let _ = entry.key;
    }
    #[oneway]
    fn text(&'_ self, text: &'_ str, bytes: &'_ [u8], entry: &'_ Archived<Entry>, ctx: &'_ Context);
    fn get(self: &'_ Self, key: &'_ str) -> Result<(), String>;
}

struct Server;

impl Notes for Server {
    fn lend(&self, frame: Blob<f32>, _: Blob) {
        let _ = frame.len();
    }
    fn text(&self, text: &str, bytes: &[u8], entry: &Archived<Entry>, ctx: &Context) {
        let _ = (text.len() + bytes.len() + entry.key.len(), ctx.peer().to_string());
    }
    fn get(&self, key: &str) -> Result<(), String> {
        Err(key.to_owned())
    }
}

fn call(client: &NotesClient, entry: Entry) -> Result<(), CallError> {
    client.nothing()?;
    client.lend(vec![1.0], vec![2])?;
    client.text("text", b"bytes", &Entry { key: "key".to_owned() })?;
    client.later(entry)
}

fn main() {
    let _ = (NotesServer::new(Server), call);
}
