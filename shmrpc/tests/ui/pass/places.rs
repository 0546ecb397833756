//! Messages and services wherever an item can stand: in modules, in functions, made by macros.

#![deny(warnings)]
#![allow(non_camel_case_types, reason = "keywords")]

use shmrpc::prelude::*;
pub mod a {
    #[shmrpc::message(recursive)]
    #[derive(Debug, Clone)]
    pub struct r#Struct {
        pub r#type: u8,
        pub inner: Vec<super::b::E>,
        pub o: Option<crate::b::E>,
    }
    #[shmrpc::service]
    pub(crate) trait Crate {
        fn get(&self) -> Struct;
    }
    #[shmrpc::service]
    pub(in crate::a) trait InA {
        fn get(&self, s: Struct) -> super::b::E;
    }
    pub fn f() {
        struct X;
        impl InA for X {
            fn get(&self, _: Struct) -> super::b::E {
                super::b::E::r#fn
            }
        }
        let _ = InAServer::new(X);
        let _ = InAClient::connect("x");
        struct Y;
        impl Crate for Y {
            fn get(&self) -> Struct {
                todo!()
            }
        }
        let _ = CrateServer::new(Y);
        let _ = CrateClient::connect("x");
    }
}
pub mod b {
    #[shmrpc::message(recursive)]
    #[derive(Debug, Clone)]
    pub enum E {
        r#fn,
        B { r#in: Vec<super::a::Struct>, n: u8 },
        C(Box<[u8]>, [super::P; 3]),
    }
}
#[shmrpc::message]
#[derive(Debug, Clone)]
pub struct P(pub u8);
#[allow(non_camel_case_types)]
#[shmrpc::service]
pub trait r#trait {
    fn r#fn(&self, r#type: u8) -> u8;
}
fn main() {
    #[shmrpc::message]
    #[derive(Debug, Clone)]
    struct Local {
        p: Vec<P>,
        q: (P, String),
    }
    #[shmrpc::message(recursive)]
    #[derive(Debug, Clone)]
    enum LocalE {
        A { p: Local, more: Vec<LocalE> },
        B(Vec<LocalE>, Inner),
    }
    #[derive(Debug, Clone)]
    #[shmrpc::message]
    struct Inner {
        q: P,
        n: u64,
    }
    #[shmrpc::service]
    trait S {
        fn get(&self, l: Local, e: &Archived<LocalE>) -> Inner;
    }
    struct My;
    impl S for My {
        fn get(&self, l: Local, _: &Archived<LocalE>) -> Inner {
            Inner { q: l.p[0].clone(), n: 1 }
        }
    }
    let _ = SServer::new(My);
    let _ = (SClient::connect("x"), a::f());
    let _ = LocalE::A { p: Local { p: vec![], q: (P(1), String::new()) }, more: vec![] };
}
macro_rules! m {
    ($n:ident, $t:ty, $u:ty, $l:literal) => {
        #[shmrpc::message]
        #[derive(Debug)]
        pub struct $n {
            pub a: $t,
            pub b: Vec<$t>,
            pub c: [$u; $l],
        }
        #[shmrpc::message]
        #[derive(Debug)]
        pub enum Enum {
            A($t),
            B {
                x: Option<$u>,
                #[cfg(all())]
                y: $t,
            },
        }
        pub mod svc {
            use super::*;
            #[shmrpc::service]
            pub trait Svc {
                fn f(&self, a: $t, b: &[$u], c: &Archived<$n>) -> Result<$t, Enum>;
            }
        }
    };
}

m!(Made, P, u32, 2);
