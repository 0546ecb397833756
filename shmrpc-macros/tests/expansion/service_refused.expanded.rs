/// A key-value store.
pub trait Kv {
    fn put(&self, key: &str) -> u64;
    fn resize(&self, size: usize, _: (u8, u8)) -> Result<Vec<usize>, String>;
}
const _: () = {
    ::core::compile_error! {
        "a parameter of a service is a plain name: take it apart in the method's body"
    }
};
const _: () = {
    ::core::compile_error! {
        "`usize` would be cut to 32 bits on its way: use `u64`"
    }
};
const _: () = {
    ::core::compile_error! {
        "`usize` would be cut to 32 bits on its way: use `u64`"
    }
};
#[allow(missing_docs, unused_variables, dead_code, reason = "it was refused")]
#[derive(::core::clone::Clone, ::core::fmt::Debug)]
pub struct KvClient(::shmrpc::private::Channel);
#[allow(missing_docs, unused_variables, dead_code, reason = "it was refused")]
#[derive(::core::clone::Clone, ::core::fmt::Debug)]
pub struct KvView(::shmrpc::private::Channel);
#[allow(missing_docs, unused_variables, dead_code, reason = "it was refused")]
#[derive(::core::fmt::Debug)]
pub struct KvServer<
    Implementation: ?::core::marker::Sized,
    Held: ?::core::marker::Sized = Implementation,
>(
    ::core::marker::PhantomData<fn() -> Implementation>,
    Held,
);
impl ::shmrpc::Client for KvClient {
    type View = KvView;
    fn from_channel(channel: ::shmrpc::private::Channel) -> Self {
        Self(channel)
    }
    fn channel(&self) -> &::shmrpc::private::Channel {
        &self.0
    }
    fn view(&self) -> KvView {
        KvView(::core::clone::Clone::clone(&self.0))
    }
    fn schema() -> ::shmrpc::private::ServiceSchema {
        ::shmrpc::private::ServiceSchema {
            name: "",
            methods: ::std::vec::Vec::new(),
        }
    }
}
#[allow(missing_docs, unused_variables, dead_code, reason = "it was refused")]
impl KvClient {
    /// Connects to the first of the comma-separated endpoints that serves [`Kv`].
    ///
    /// # Errors
    /// If no endpoint can be reached, or if what serves it is not this service.
    pub fn connect(
        endpoint: impl ::core::convert::AsRef<::core::primitive::str>,
    ) -> ::core::result::Result<Self, ::shmrpc::ConnectError> {
        ::shmrpc::ClientBuilder::<Self>::new().connect(endpoint)
    }
    /// Sets options before connecting.
    pub fn builder() -> ::shmrpc::ClientBuilder<Self> {
        ::shmrpc::ClientBuilder::new()
    }
}
#[allow(missing_docs, unused_variables, dead_code, reason = "it was refused")]
impl KvClient
where
    u64: ::shmrpc::Message,
    u8: ::shmrpc::Message,
    String: ::shmrpc::Message,
{
    /// Calls `Kv::put`.
    #[inline]
    pub fn put(&self, key: &str) -> ::core::result::Result<u64, ::shmrpc::CallError> {
        self.0.call(0u16, &(::shmrpc::private::arg::Text(key),))
    }
    pub fn resize(
        &self,
        _0: impl ::core::marker::Sized,
        _1: impl ::core::marker::Sized,
    ) -> ::core::result::Result<Vec<usize>, ::shmrpc::CallError<String>> {
        ::core::unreachable!()
    }
}
#[allow(missing_docs, unused_variables, dead_code, reason = "it was refused")]
impl KvView
where
    u64: ::shmrpc::Message,
    u8: ::shmrpc::Message,
    String: ::shmrpc::Message,
{
    /// Calls `Kv::put`.
    #[inline]
    pub fn put(
        &self,
        key: &str,
    ) -> ::core::result::Result<::shmrpc::View<u64>, ::shmrpc::CallError> {
        self.0.call_view(0u16, &(::shmrpc::private::arg::Text(key),))
    }
    pub fn resize(
        &self,
        _0: impl ::core::marker::Sized,
        _1: impl ::core::marker::Sized,
    ) -> ::core::result::Result<Vec<usize>, ::shmrpc::CallError<String>> {
        ::core::unreachable!()
    }
}
#[allow(missing_docs, unused_variables, dead_code, reason = "it was refused")]
impl<Implementation: ?::core::marker::Sized> KvServer<Implementation> {
    pub fn new(service: Implementation) -> Self
    where
        Implementation: ::core::marker::Sized,
    {
        Self(::core::marker::PhantomData, service)
    }
    pub fn from_arc(
        service: ::std::sync::Arc<Implementation>,
    ) -> KvServer<Implementation, ::std::sync::Arc<Implementation>> {
        KvServer(::core::marker::PhantomData, service)
    }
}
#[allow(missing_docs, unused_variables, dead_code, reason = "it was refused")]
impl<Implementation, Held> ::shmrpc::Service for KvServer<Implementation, Held>
where
    Implementation: ?::core::marker::Sized + 'static,
    Held: ::core::marker::Send + ::core::marker::Sync + 'static,
{
    fn schema(&self) -> ::shmrpc::private::ServiceSchema {
        ::shmrpc::private::ServiceSchema {
            name: "",
            methods: ::std::vec::Vec::new(),
        }
    }
    fn dispatch(
        &self,
        _: u16,
        _: ::shmrpc::private::Request<'_>,
    ) -> ::shmrpc::private::Answered {
        ::core::unreachable!()
    }
}
