//! Docs, `#[cfg]`, default bodies and lints.

#![deny(missing_docs, warnings)]

use shmrpc::prelude::*;

/// Fields come and go.
#[derive(Debug, Clone, PartialEq, Default)]
#[shmrpc::message]
pub struct Settings {
    /// Always here.
    pub always: u32,
    /// Never here.
    #[cfg(any())]
    pub never: NoSuchType,
    /// Here.
    #[cfg(all())]
    pub here: String,
}

/// All fields went.
#[shmrpc::message]
pub struct Gone {
    #[cfg(any())]
    never: NoSuchType,
}

/// Variants come and go.
#[derive(Debug)]
#[shmrpc::message]
pub enum Choice {
    /// Never here.
    #[cfg(any())]
    Never(NoSuchType),
    /// Here, with less.
    Here {
        /// Never here.
        #[cfg(any())]
        never: NoSuchType,
        /// Here.
        here: u32,
    },
}

/// Parts grow old. To declare them is no use of them.
#[derive(Debug, Clone, PartialEq, Default)]
#[shmrpc::message]
pub struct Aging<T> {
    /// Old.
    #[deprecated]
    pub old: Vec<T>,
    /// New.
    pub new: u32,
}

/// Variants and their fields, too.
#[derive(Debug, Default)]
#[shmrpc::message]
pub enum Grown {
    /// New.
    #[default]
    New,
    /// Old.
    #[deprecated(note = "use `New`")]
    Old,
    /// With an old part.
    Part {
        /// Old.
        #[deprecated]
        old: u8,
    },
}

/// Of messages that contain themselves, too.
#[shmrpc::message(recursive)]
pub struct Ancient {
    /// Older ones.
    #[deprecated]
    pub older: Vec<Ancient>,
}

/// Takes them.
#[shmrpc::service]
pub trait Museum {
    /// Shows one.
    fn show(&self, aging: &Archived<Aging<String>>, grown: Grown) -> u32;
}

/// Whole items come and go.
#[shmrpc::message]
#[cfg(any())]
pub struct Never(NoSuchType);

/// Whole services come and go.
#[shmrpc::service]
#[cfg(any())]
pub trait NeverServed {
    /// Never here.
    fn get(&self) -> NoSuchType;
}

/// Methods come and go; positions stay.
#[shmrpc::service]
pub trait Kv {
    /// Never here.
    #[cfg(any())]
    fn never(&self, value: NoSuchType) -> NoSuchType;
    /// Here.
    #[cfg(all())]
    fn here(&self) -> u32;
    /// One of two.
    #[cfg(any())]
    fn one(&self) -> NoSuchType;
    /// One of two.
    #[cfg(not(any()))]
    fn one(&self) -> u32;
    /// Old.
    #[deprecated(note = "use `here`")]
    fn old(&self) -> u32 {
        let mut sum = 0;
        sum += self.here();
        sum
    }
    /// Changes its copy.
    fn change(&self, mut value: u32) -> u32 {
        value += 1;
        value
    }
    /// Used.
    #[must_use]
    fn used(&self) -> u32;
    #[doc(hidden)]
    fn hidden(&self) -> u32;
}

/// Old.
#[deprecated]
pub type Number = u64;

/// What is allowed here is allowed in what is generated of it.
#[allow(deprecated)]
#[shmrpc::service]
#[expect(non_snake_case, reason = "it is as old as its numbers")]
pub trait Numbers {
    /// Here.
    fn getAll(&self, number: Number) -> Result<Vec<Number>, Number>;
}

/// So it is where methods come and go.
#[shmrpc::service]
#[allow(deprecated, non_snake_case)]
pub trait SomeNumbers {
    /// Here.
    fn getAll(&self, number: Number) -> Result<Vec<Number>, Number>;
    /// Here.
    #[cfg(all())]
    fn getOne(&self, number: Number) -> Number;
}

/// What is expected of a method is allowed in the client.
#[shmrpc::service]
pub trait Expecting {
    /// Here.
    #[expect(non_snake_case)]
    fn getOne(&self) -> u64;
}

/// What is allowed of a message is allowed in what is generated of it.
#[allow(non_snake_case)]
#[derive(Debug, Clone, Default)]
#[shmrpc::message]
pub struct Foreign {
    /// As others write it.
    pub fooBar: u8,
    /// As everybody does.
    pub more_bars: Vec<u8>,
}

/// An old one.
#[derive(Debug, Clone)]
#[shmrpc::message]
#[expect(non_camel_case_types, reason = "it stands so in a header")]
pub enum enum_of_c {
    /// One.
    ENUM_ONE,
    /// With parts.
    #[allow(non_snake_case)]
    named {
        /// A part.
        aPart: u8,
    },
}

/// Of one variant.
#[derive(Debug, Clone)]
#[shmrpc::message]
pub enum OfC {
    /// One.
    #[allow(non_camel_case_types)]
    ONE_MORE,
    /// Two.
    #[expect(non_camel_case_types)]
    two(enum_of_c),
}

/// If a condition holds.
#[shmrpc::message]
#[cfg_attr(all(), allow(non_snake_case))]
pub struct Sometimes {
    /// As others write it.
    pub fooBar: u8,
}

/// Holds something old.
#[derive(Debug, Clone)]
#[shmrpc::message]
pub struct Counted<T> {
    /// How many.
    #[allow(deprecated)]
    pub number: Vec<Number>,
    /// What.
    #[expect(deprecated)]
    pub of: (Number, Vec<T>),
}

/// Holds something old, and is copied in one piece.
#[derive(Debug, Clone)]
#[shmrpc::message]
#[cfg_attr(all(), allow(deprecated))]
pub struct Pairs(pub [OldPair; 2]);

/// Old as a whole.
#[deprecated]
#[derive(Debug, Clone)]
#[shmrpc::message]
pub struct OldPair {
    /// One.
    pub one: u32,
    /// The other.
    pub other: u32,
}

/// Old as a whole.
#[derive(Debug, Clone)]
#[shmrpc::message]
#[deprecated(since = "1.0.0", note = "use another one")]
pub enum OldChoice<T> {
    /// One.
    One(T),
    /// None.
    None,
}

/// Old as a whole.
#[shmrpc::message(recursive)]
#[deprecated]
pub struct OldTree(Vec<OldTree>);

/// Old as a whole.
#[deprecated]
#[shmrpc::service]
pub trait OldKv {
    /// Gets.
    fn get(&self, pairs: &Archived<Pairs>) -> Counted<u8>;
    /// Gets.
    #[allow(deprecated)]
    fn get_old(&self, pair: OldPair) -> OldChoice<OldPair>;
}

/// Old as a whole, and its methods come and go.
#[shmrpc::service]
#[deprecated]
pub trait OlderKv {
    /// Gets.
    #[cfg(all())]
    fn get(&self, foreign: Foreign) -> OfC;
}

/// Old in part.
#[shmrpc::service]
pub trait PartlyOld {
    /// Gets.
    #[allow(deprecated)]
    fn get_old(&self, pair: &Archived<OldPair>) -> Result<OldChoice<OldPair>, OldTree>;
}

struct MyKv;

impl Kv for MyKv {
    fn here(&self) -> u32 {
        1
    }
    fn one(&self) -> u32 {
        2
    }
    fn used(&self) -> u32 {
        3
    }
    fn hidden(&self) -> u32 {
        4
    }
}

fn main() {
    let _ = KvServer::new(MyKv);
    let methods = <KvClient as Client>::schema().methods;
    let indices: Vec<_> = methods.iter().map(|method| (method.index, method.name)).collect();
    assert_eq!(indices, [(1, "here"), (3, "one"), (4, "old"), (5, "change"), (6, "used"), (7, "hidden")]);
    let old = <Archived<Aging<u8>> as std::any::Any>::type_id;
    let _: fn(&ArchivedAging<u8>) -> std::any::TypeId = old;
    let _: fn(&ArchivedForeign) -> u8 = |foreign| foreign.fooBar;
    let _: fn(&ArchivedOfC) -> bool = |of_c| matches!(of_c, ArchivedOfC::ONE_MORE);
    let (settings, choice) = (Settings::default(), Choice::Here { here: 1 });
    let Choice::Here { here } = choice;
    assert_eq!(settings.always + here, 1);
}
