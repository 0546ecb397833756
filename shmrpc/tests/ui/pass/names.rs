//! No name of the user's collides with one of the macro's.

#![deny(missing_docs, warnings)]

use shmrpc::prelude::*;

/// A message with the name that the macro gives its type parameter.
#[derive(Debug, Clone)]
#[shmrpc::message]
pub struct Implementation {
    /// A keyword.
    pub r#type: u32,
}

/// As short as a type parameter.
#[derive(Debug, Clone)]
#[shmrpc::message]
pub struct T(u8);

/// A message whose name begins that of another one.
#[derive(Debug, Clone)]
#[shmrpc::message]
pub struct Host(u8);

/// Looks for hosts.
#[derive(Debug, Clone)]
#[shmrpc::message]
pub enum HostResolver {
    /// By its number.
    Number(u8),
}

/// Looks for those who look.
#[shmrpc::service]
pub trait HostResolverResolver {
    /// A name.
    fn resolve(&self, resolver: &Archived<HostResolver>) -> Host;
}

/// Methods that the client, its trait or the standard library has too.
#[shmrpc::service]
pub trait Methods {
    /// A name.
    fn view(&self, view: u32) -> u32;
    /// A name.
    fn call(&self, call: u32) -> u32;
    /// A name.
    fn send(&self) -> u32;
    /// A name.
    fn channel(&self, channel: u32) -> u32;
    /// A name.
    fn new(&self, new: T) -> Implementation;
    /// A name.
    fn clone(&self, implementation: Implementation) -> T;
    /// A name.
    fn with_timeout(&self, timeout: &[u64]) -> u32;
    /// A name.
    fn schema(&self) -> u32;
    /// A name.
    fn dispatch(&self, method: u16) -> u32;
    /// A name.
    fn from_channel(&self) -> u32;
    /// A name.
    fn fmt(&self) -> u32;
    /// A keyword.
    fn r#type(&self, r#match: u32) -> u32;
    /// All locals of generated code.
    #[allow(clippy::too_many_arguments)]
    fn locals(
        &self,
        request: u32,
        args: &str,
        ctx: u32,
        method: &[u8],
        self_: u32,
        channel: &Archived<Implementation>,
        service: &Context,
        f: u32,
        to: u32,
        endpoint: u32,
    ) -> u32;
}

/// One name for everything.
#[shmrpc::service]
pub trait Same {
    /// One name.
    fn same(&self, same: u32) -> u32;
}

/// The service of the other module has the same name.
pub mod other {
    /// One name for everything.
    #[shmrpc::service]
    pub trait Same {
        /// One name.
        fn same(&self, same: u32) -> u32;
    }
}

/// Modules with the names of crates and of rustc's tools.
pub mod tools {
    #![allow(dead_code, reason = "only their names matter")]
    mod alloc {}
    mod clippy {}
    mod core {}
    mod diagnostic {}
    mod rkyv {}
    mod rustdoc {}
    mod rustfmt {}
    mod std {}

    /// One.
    #[derive(Debug, Clone)]
    #[shmrpc::message]
    pub struct Tool(pub u8);

    /// One of some.
    #[derive(Debug, Clone)]
    #[shmrpc::message]
    pub enum Kind {
        /// One.
        Of(Vec<Tool>),
        /// With a name.
        Named {
            /// Which.
            tool: Option<Tool>,
        },
    }

    /// Has them.
    #[shmrpc::service]
    pub trait Box {
        /// One.
        fn take(&self, kind: &super::Archived<Kind>) -> Result<Tool, Kind>;
        /// By their paths.
        fn name(&self, name: &::core::primitive::str, more: &::std::primitive::str) -> u32;
        /// As a whole.
        fn hold(&self, name: ::std::boxed::Box<::std::primitive::str>) -> Vec<::std::boxed::Box<::core::primitive::str>>;
    }
}

/// Beside a type with a primitive's name.
pub mod primitive {
    /// Not the primitive.
    #[allow(non_camel_case_types, reason = "that name is tested")]
    #[derive(Debug)]
    pub struct str;

    /// Has no text.
    #[shmrpc::service]
    pub trait Numbers {
        /// A number.
        fn number(&self, number: u32) -> u32;
    }
}

fn main() {
    let names: Vec<_> = <MethodsClient as Client>::schema().methods.iter().map(|method| method.name).collect();
    assert!(names.contains(&"type"));
    let view: fn(&MethodsClient, u32) -> Result<u32, CallError> = MethodsClient::view;
    let _ = (view, <MethodsClient as Client>::view, <MethodsClient as Clone>::clone);
}
