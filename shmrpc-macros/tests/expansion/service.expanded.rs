#[diagnostic::on_unimplemented(
    note = "an `Arc` of what implements `Kv` is served by `KvServer::from_arc`"
)]
/// A key-value store.
pub trait Kv {
    /// Reads an entry.
    fn get(&self, key: &str) -> Result<Entry, KvError>;
    fn put(&self, key: &str, value: &[u8]) -> u64;
    fn put_entry(&self, entry: &Archived<Entry>) -> u64;
    fn compare_and_put(
        &self,
        ctx: &Context,
        entry: Entry,
        expected: u64,
    ) -> Result<u64, KvError>;
    fn touch(&self, key: &str);
    #[deprecated]
    fn r#clear(&self) {
        let _ = self;
    }
}
/// Blocking client of the [`Kv`] service.
#[derive(::core::clone::Clone, ::core::fmt::Debug)]
pub struct KvClient(::shmrpc::private::Channel);
impl ::shmrpc::Client for KvClient
where
    Entry: ::shmrpc::Message,
    KvError: ::shmrpc::Message,
    u64: ::shmrpc::Message,
    (): ::shmrpc::Message,
{
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
            name: "Kv",
            methods: ::std::vec::Vec::from([
                ::shmrpc::private::MethodSchema::fallible::<
                    (::std::string::String,),
                    Entry,
                    KvError,
                >(0u16, "get"),
                ::shmrpc::private::MethodSchema::unary::<
                    (::std::string::String, ::std::vec::Vec<u8>),
                    u64,
                >(1u16, "put"),
                ::shmrpc::private::MethodSchema::unary::<
                    (Entry,),
                    u64,
                >(2u16, "put_entry"),
                ::shmrpc::private::MethodSchema::fallible::<
                    (Entry, u64),
                    u64,
                    KvError,
                >(3u16, "compare_and_put"),
                ::shmrpc::private::MethodSchema::oneway::<
                    (::std::string::String,),
                >(4u16, "touch"),
                ::shmrpc::private::MethodSchema::unary::<(), ()>(5u16, "clear"),
            ]),
        }
    }
}
#[allow(dead_code, reason = "a program may use a part of a service")]
impl KvClient
where
    Entry: ::shmrpc::Message,
    KvError: ::shmrpc::Message,
    u64: ::shmrpc::Message,
    (): ::shmrpc::Message,
{
    /// Connects to the first of the comma-separated endpoints that serves [`Kv`].
    ///
    /// # Errors
    /// If no endpoint can be reached, or if what serves it is not this service.
    pub fn connect(
        endpoint: impl ::core::convert::AsRef<str>,
    ) -> ::core::result::Result<Self, ::shmrpc::ConnectError> {
        ::shmrpc::ClientBuilder::<Self>::new().connect(endpoint)
    }
    /// Sets options before connecting.
    pub fn builder() -> ::shmrpc::ClientBuilder<Self> {
        ::shmrpc::ClientBuilder::new()
    }
    /// Reads an entry.
    #[inline]
    pub fn get(
        &self,
        key: &str,
    ) -> ::core::result::Result<Entry, ::shmrpc::CallError<KvError>> {
        self.0
            .call_fallible::<
                _,
                Entry,
                KvError,
            >(0u16, &(::shmrpc::private::arg::Text(key),))
    }
    /// Calls `Kv::put`.
    #[inline]
    pub fn put(
        &self,
        key: &str,
        value: &[u8],
    ) -> ::core::result::Result<u64, ::shmrpc::CallError> {
        self.0
            .call::<
                _,
                u64,
            >(
                1u16,
                &(
                    ::shmrpc::private::arg::Text(key),
                    ::shmrpc::private::arg::Slice(value),
                ),
            )
    }
    /// Calls `Kv::put_entry`.
    #[inline]
    pub fn put_entry(
        &self,
        entry: &Entry,
    ) -> ::core::result::Result<u64, ::shmrpc::CallError> {
        self.0.call::<_, u64>(2u16, &(::shmrpc::private::arg::Ref(entry),))
    }
    /// Calls `Kv::compare_and_put`.
    #[inline]
    pub fn compare_and_put(
        &self,
        entry: Entry,
        expected: u64,
    ) -> ::core::result::Result<u64, ::shmrpc::CallError<KvError>> {
        self.0
            .call_fallible::<
                _,
                u64,
                KvError,
            >(
                3u16,
                &(
                    ::shmrpc::private::arg::Ref(&entry),
                    ::shmrpc::private::arg::Ref(&expected),
                ),
            )
    }
    /// Calls `Kv::touch`.
    #[inline]
    pub fn touch(&self, key: &str) -> ::core::result::Result<(), ::shmrpc::CallError> {
        self.0.send(4u16, &(::shmrpc::private::arg::Text(key),))
    }
    /// Calls `Kv::clear`.
    #[deprecated]
    #[inline]
    pub fn r#clear(&self) -> ::core::result::Result<(), ::shmrpc::CallError> {
        self.0.call::<_, ()>(5u16, &())
    }
}
/// Calls of the [`Kv`] service whose results are read where they arrived.
#[derive(::core::clone::Clone, ::core::fmt::Debug)]
pub struct KvView(::shmrpc::private::Channel);
#[allow(dead_code, reason = "a program may use a part of a service")]
impl KvView
where
    Entry: ::shmrpc::Message,
    KvError: ::shmrpc::Message,
    u64: ::shmrpc::Message,
    (): ::shmrpc::Message,
{
    /// Reads an entry.
    #[inline]
    pub fn get(
        &self,
        key: &str,
    ) -> ::core::result::Result<::shmrpc::View<Entry>, ::shmrpc::CallError<KvError>> {
        self.0
            .view_fallible::<
                _,
                Entry,
                KvError,
            >(0u16, &(::shmrpc::private::arg::Text(key),))
    }
    /// Calls `Kv::put`.
    #[inline]
    pub fn put(
        &self,
        key: &str,
        value: &[u8],
    ) -> ::core::result::Result<::shmrpc::View<u64>, ::shmrpc::CallError> {
        self.0
            .view::<
                _,
                u64,
            >(
                1u16,
                &(
                    ::shmrpc::private::arg::Text(key),
                    ::shmrpc::private::arg::Slice(value),
                ),
            )
    }
    /// Calls `Kv::put_entry`.
    #[inline]
    pub fn put_entry(
        &self,
        entry: &Entry,
    ) -> ::core::result::Result<::shmrpc::View<u64>, ::shmrpc::CallError> {
        self.0.view::<_, u64>(2u16, &(::shmrpc::private::arg::Ref(entry),))
    }
    /// Calls `Kv::compare_and_put`.
    #[inline]
    pub fn compare_and_put(
        &self,
        entry: Entry,
        expected: u64,
    ) -> ::core::result::Result<::shmrpc::View<u64>, ::shmrpc::CallError<KvError>> {
        self.0
            .view_fallible::<
                _,
                u64,
                KvError,
            >(
                3u16,
                &(
                    ::shmrpc::private::arg::Ref(&entry),
                    ::shmrpc::private::arg::Ref(&expected),
                ),
            )
    }
    /// Calls `Kv::clear`.
    #[deprecated]
    #[inline]
    pub fn r#clear(
        &self,
    ) -> ::core::result::Result<::shmrpc::View<()>, ::shmrpc::CallError> {
        self.0.view::<_, ()>(5u16, &())
    }
}
/// Serves an implementation of [`Kv`], which it holds as it is, or in an `Arc`.
pub struct KvServer<
    Implementation: ?::core::marker::Sized,
    Held: ?::core::marker::Sized = Implementation,
>(
    ::core::marker::PhantomData<fn() -> Implementation>,
    Held,
);
#[allow(dead_code, reason = "a program may use a part of a service")]
impl<Implementation: ?::core::marker::Sized> KvServer<Implementation> {
    /// Wraps `service` for a server to serve.
    pub fn new(service: Implementation) -> Self
    where
        Implementation: ::core::marker::Sized,
    {
        Self(::core::marker::PhantomData, service)
    }
    /// Wraps a service that the rest of the program keeps, too.
    pub fn from_arc(
        service: ::std::sync::Arc<Implementation>,
    ) -> KvServer<Implementation, ::std::sync::Arc<Implementation>> {
        KvServer(::core::marker::PhantomData, service)
    }
}
impl<Implementation, Held> ::core::fmt::Debug for KvServer<Implementation, Held>
where
    Implementation: ?::core::marker::Sized,
    Held: ?::core::marker::Sized,
{
    fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
        f.debug_struct(::core::stringify!(KvServer)).finish_non_exhaustive()
    }
}
impl<Implementation, Held> ::shmrpc::Service for KvServer<Implementation, Held>
where
    Implementation: Kv + ::core::marker::Send + ::core::marker::Sync
        + ?::core::marker::Sized + 'static,
    Held: ::core::borrow::Borrow<Implementation> + ::core::marker::Send
        + ::core::marker::Sync + 'static,
    Entry: ::shmrpc::Message,
    KvError: ::shmrpc::Message,
    u64: ::shmrpc::Message,
    (): ::shmrpc::Message,
{
    fn schema(&self) -> ::shmrpc::private::ServiceSchema {
        <KvClient as ::shmrpc::Client>::schema()
    }
    fn dispatch(
        &self,
        method: u16,
        request: ::shmrpc::private::Request<'_>,
    ) -> ::shmrpc::private::Answered {
        let service: &Implementation = ::core::borrow::Borrow::borrow(&self.1);
        match method {
            0u16 => {
                request
                    .fallible::<
                        (::std::string::String,),
                        Entry,
                        KvError,
                    >(|args, _| ::core::result::Result::Ok(
                        <Implementation as Kv>::get(
                            service,
                            ::shmrpc::private::arg::text(&args.0),
                        ),
                    ))
            }
            1u16 => {
                request
                    .unary::<
                        (::std::string::String, ::std::vec::Vec<u8>),
                        u64,
                    >(|args, _| ::core::result::Result::Ok(
                        <Implementation as Kv>::put(
                            service,
                            ::shmrpc::private::arg::text(&args.0),
                            ::shmrpc::private::arg::slice(&args.1),
                        ),
                    ))
            }
            2u16 => {
                request
                    .unary::<
                        (Entry,),
                        u64,
                    >(|args, _| ::core::result::Result::Ok(
                        <Implementation as Kv>::put_entry(service, &args.0),
                    ))
            }
            3u16 => {
                request
                    .fallible::<
                        (Entry, u64),
                        u64,
                        KvError,
                    >(|args, ctx| ::core::result::Result::Ok(
                        <Implementation as Kv>::compare_and_put(
                            service,
                            ctx,
                            ::shmrpc::private::arg::owned::<Entry>(&args.0)?,
                            ::shmrpc::private::arg::owned::<u64>(&args.1)?,
                        ),
                    ))
            }
            4u16 => {
                request
                    .oneway::<
                        (::std::string::String,),
                    >(|args, _| {
                        <Implementation as Kv>::touch(
                            service,
                            ::shmrpc::private::arg::text(&args.0),
                        );
                        ::core::result::Result::Ok(())
                    })
            }
            #[allow(deprecated, reason = "old callers still call it")]
            5u16 => {
                request
                    .unary::<
                        (),
                        (),
                    >(|_, _| ::core::result::Result::Ok(
                        <Implementation as Kv>::r#clear(service),
                    ))
            }
            _ => request.unknown_method(),
        }
    }
}
