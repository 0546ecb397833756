//! A service may be private, and then so is all that belongs to it.

#![deny(missing_docs, warnings, unreachable_pub)]

use shmrpc::prelude::*;

#[derive(Debug)]
#[shmrpc::message]
struct Private {
    value: u32,
    other: Shape,
}

#[derive(Debug)]
#[shmrpc::message]
enum Shape {
    Round { radius: f32 },
    Square(f32),
}

#[shmrpc::service]
trait Hidden {
    fn get(&self) -> Private;
}

mod inner {
    #[shmrpc::message]
    pub(super) struct Inside(pub(super) u32);

    #[shmrpc::service]
    pub(super) trait Within {
        fn get(&self, inside: Inside) -> super::Private;
    }

    #[shmrpc::service]
    pub(crate) trait Everywhere: Send + Sync {
        fn get(&self) -> u32;
    }
}

struct Mine;

impl Hidden for Mine {
    fn get(&self) -> Private {
        Private { value: 1, other: Shape::Square(1.0) }
    }
}

impl inner::Within for Mine {
    fn get(&self, inside: inner::Inside) -> Private {
        Private { value: inside.0, other: Shape::Round { radius: 1.0 } }
    }
}

impl inner::Everywhere for Mine {
    fn get(&self) -> u32 {
        1
    }
}

fn main() {
    let _ = (HiddenServer::new(Mine), inner::WithinServer::new(Mine), inner::EverywhereServer::new(Mine));
    assert_eq!(inner::WithinClient::schema().methods.len(), 1);
}
