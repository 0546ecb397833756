//! What a service's trait may look like, and several of them at one endpoint.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use shmrpc::prelude::*;

use crate::ground::Ground;
use crate::support::{Gate, Place, gate};

#[shmrpc::service]
pub(crate) trait Left {
    fn name(&self, of: &str) -> String;
    fn wait(&self) -> u32;
    #[oneway]
    fn note(&self, number: u32);
    fn noted(&self) -> Vec<u32>;
}

/// Has the same methods, in another order and of other types, and others between them.
#[shmrpc::service]
pub(crate) trait Right {
    #[oneway]
    fn note(&self, text: &str);
    fn noted(&self) -> Vec<String>;
    fn forget(&self);
    fn name(&self, of: u64) -> u64;
    #[oneway]
    fn drop_one(&self);
}

/// The left one as another program knows it. It meets the server at another endpoint.
mod turned {
    #[shmrpc::service]
    pub(super) trait Left {
        fn noted(&self) -> Vec<u32>;
        fn forget(&self);
        #[oneway]
        fn note(&self, number: u32);
        fn name(&self, of: &str) -> String;
    }
}

struct Both {
    gate: Gate,
    numbers: Mutex<Vec<u32>>,
    texts: Mutex<Vec<String>>,
}

impl Left for Both {
    fn name(&self, of: &str) -> String {
        format!("left {of}")
    }
    fn wait(&self) -> u32 {
        self.gate.pass();
        1
    }
    fn note(&self, number: u32) {
        self.numbers.lock().unwrap().push(number);
    }
    fn noted(&self) -> Vec<u32> {
        self.numbers.lock().unwrap().clone()
    }
}

impl Right for Both {
    fn note(&self, text: &str) {
        self.texts.lock().unwrap().push(text.into());
    }
    fn noted(&self) -> Vec<String> {
        self.texts.lock().unwrap().clone()
    }
    fn forget(&self) {
        self.texts.lock().unwrap().clear();
    }
    fn name(&self, of: u64) -> u64 {
        of + 1
    }
    fn drop_one(&self) {
        self.texts.lock().unwrap().pop();
    }
}

pub(crate) fn services_of_one_endpoint_are_not_mixed_up(ground: Ground) {
    const CALLS: u32 = 100;
    let (place, elsewhere, (gate, keeper)) = (Place::new(), Place::new(), gate());
    let both = Arc::new(Both { gate, numbers: Mutex::default(), texts: Mutex::default() });
    let server =
        ground.server().service(LeftServer::from_arc(both.clone())).service(RightServer::from_arc(both));
    let server = server.listen(ground.endpoint(&place)).listen(ground.endpoint(&elsewhere)).start().unwrap();
    let [at, other] = [0, 1].map(|number| server.endpoints()[number].to_string());
    let left = ground.client::<LeftClient>().connect(&at).unwrap();
    let right = ground.client::<RightClient>().connect(&at).unwrap();
    let turned = ground.client::<turned::LeftClient>().connect(&other).unwrap();
    thread::scope(|scope| {
        // One is in its handler while the others are served.
        let call = scope.spawn(|| left.wait());
        keeper.entered();
        let answers = (right.name(1), turned.name("a"));
        keeper.release();
        assert_eq!((call.join().unwrap(), answers), (Ok(1), (Ok(2), Ok("left a".into()))));
        scope.spawn(|| {
            for call in 0..CALLS {
                left.note(2 * call).unwrap();
                assert_eq!(left.name("b"), Ok("left b".into()));
            }
        });
        scope.spawn(|| {
            for call in 0..CALLS {
                right.note(&format!("right {call}")).unwrap();
                right.note("too much").unwrap();
                right.drop_one().unwrap();
                assert_eq!(right.name(call.into()), Ok(u64::from(call) + 1));
            }
        });
        scope.spawn(|| {
            for call in 0..CALLS {
                turned.note(2 * call + 1).unwrap();
                assert_eq!(turned.name("c"), Ok("left c".into()));
                let error = turned.forget().unwrap_err();
                assert!(
                    matches!(&error, CallError::UnknownMethod(name) if name.contains("forget")),
                    "{error:?}"
                );
            }
        });
    });
    let mut numbers = left.noted().unwrap();
    assert_eq!(turned.noted(), Ok(numbers.clone()), "they are clients of one service");
    numbers.sort_unstable();
    assert_eq!(numbers, (0..2 * CALLS).collect::<Vec<_>>());
    assert_eq!(right.noted(), Ok((0..CALLS).map(|call| format!("right {call}")).collect()));
    assert_eq!((right.forget(), right.noted()), (Ok(()), Ok(vec![])));
    assert_eq!(left.noted().unwrap().len() as u32, 2 * CALLS);
}

/// With names that are keywords, and those that clients, their trait and the standard library have.
#[shmrpc::service]
pub(crate) trait Odd {
    #[cfg(not(test))]
    fn never(&self, value: NoSuchType) -> NoSuchType;
    fn r#type(&self, r#match: u32) -> u32;
    /// Has a body.
    fn twice(&self, value: u32) -> u32 {
        2 * self.r#type(value)
    }
    #[cfg(test)]
    fn here(&self, text: &str) -> String {
        text.to_uppercase()
    }
    /// One of two.
    #[cfg(not(test))]
    fn one(&self) -> NoSuchType;
    /// One of two.
    #[cfg(test)]
    fn one(&self, mut value: u64) -> u64 {
        value += 1;
        value
    }
    /// Has a body, and another one.
    fn own(&self) -> u32 {
        1
    }
    fn view(&self, view: u32) -> u32;
    fn clone(&self) -> u32;
    fn blob(&self, blob: Blob) -> u64;
    fn with_timeout(&self, ctx: &Context) -> bool;
    #[cfg(not(test))]
    #[oneway]
    fn gone(&self);
    #[oneway]
    fn r#loop(&self, r#fn: &[u32]) {
        self.r#type(r#fn.iter().sum());
    }
    /// The greatest that `type` was given.
    fn drop(&self) -> Option<u32>;
}

#[derive(Default)]
struct Strange(AtomicU32);

impl Odd for Strange {
    fn r#type(&self, r#match: u32) -> u32 {
        self.0.fetch_max(r#match, Ordering::SeqCst);
        r#match + 10
    }
    fn own(&self) -> u32 {
        2
    }
    fn view(&self, view: u32) -> u32 {
        view + 20
    }
    fn clone(&self) -> u32 {
        30
    }
    fn blob(&self, blob: Blob) -> u64 {
        blob.len() as u64
    }
    fn with_timeout(&self, ctx: &Context) -> bool {
        ctx.timeout().is_some()
    }
    fn drop(&self) -> Option<u32> {
        Some(self.0.load(Ordering::SeqCst)).filter(|greatest| *greatest > 0)
    }
}

/// Served without its type, beside one that has no methods.
pub(crate) fn methods_with_bodies_cfgs_and_odd_names(ground: Ground) {
    let place = Place::new();
    let strange: Arc<dyn Odd + Send + Sync> = Arc::new(Strange::default());
    let server = ground.server().service(SilentServer::new(())).service(OddServer::from_arc(strange));
    let server = server.listen(ground.endpoint(&place)).start().unwrap();
    let at = server.endpoints()[0].to_string();
    let silent = ground.client::<SilentClient>().connect(&at).unwrap();
    let odd = ground.client::<OddClient>().connect(&at).unwrap();
    assert_eq!(odd.drop(), Ok(None));
    assert_eq!((odd.r#type(1), odd.twice(2), odd.own(), odd.one(4)), (Ok(11), Ok(24), Ok(2), Ok(5)));
    assert_eq!(odd.here("text"), Ok("TEXT".into()));
    assert_eq!((odd.view(5), odd.clone()), (Ok(25), Ok(30)));
    assert_eq!((odd.blob(vec![1; 6]), odd.with_timeout()), (Ok(6), Ok(true)));
    odd.r#loop(&[40, 2]).unwrap();
    assert_eq!(odd.drop(), Ok(Some(42)));
    // The client's own are there by their trait's name.
    let (view, other) = (Client::view(&odd), Clone::clone(&odd));
    assert_eq!(view.r#type(7).map(|found| found.to_native()), Ok(17));
    assert_eq!(other.blob(Client::blob(&odd, 100).unwrap()), Ok(100));
    assert_eq!(Client::with_timeout(&odd, std::time::Duration::MAX).with_timeout(), Ok(false));
    assert_eq!(silent.transport().endpoint(), at);
}

/// Nothing to call.
#[shmrpc::service]
pub(crate) trait Silent {}

impl Silent for () {}
