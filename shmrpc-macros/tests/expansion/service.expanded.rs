/// A key-value store.
#[expect(clippy::too_many_arguments, reason = "no fewer would do")]
#[warn(clippy::pedantic)]
pub trait Kv {
    /// Reads an entry, which is not to [`Self::touch`] it.
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
#[allow(clippy::too_many_arguments, reason = "no fewer would do")]
/// Blocking client of the [`Kv`] service.
#[derive(::core::clone::Clone, ::core::fmt::Debug)]
pub struct KvClient(::shmrpc::private::Channel);
#[allow(clippy::too_many_arguments, reason = "no fewer would do")]
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
                {
                    type Arguments = (::std::string::String,);
                    type Answer = ::core::result::Result<Entry, KvError>;
                    ::shmrpc::private::MethodSchema::unary::<
                        Arguments,
                        Answer,
                    >(0u16, "get")
                },
                {
                    type Arguments = (::std::string::String, ::std::vec::Vec<u8>);
                    type Answer = u64;
                    ::shmrpc::private::MethodSchema::unary::<
                        Arguments,
                        Answer,
                    >(1u16, "put")
                },
                {
                    type Arguments = (Entry,);
                    type Answer = u64;
                    ::shmrpc::private::MethodSchema::unary::<
                        Arguments,
                        Answer,
                    >(2u16, "put_entry")
                },
                {
                    type Arguments = (Entry, u64);
                    type Answer = ::core::result::Result<u64, KvError>;
                    ::shmrpc::private::MethodSchema::unary::<
                        Arguments,
                        Answer,
                    >(3u16, "compare_and_put")
                },
                {
                    type Arguments = (::std::string::String,);
                    ::shmrpc::private::MethodSchema::oneway::<Arguments>(4u16, "touch")
                },
                {
                    type Arguments = ();
                    type Answer = ();
                    ::shmrpc::private::MethodSchema::unary::<
                        Arguments,
                        Answer,
                    >(5u16, "clear")
                },
            ]),
        }
    }
}
#[allow(clippy::too_many_arguments, reason = "no fewer would do")]
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
        endpoint: impl ::core::convert::AsRef<::core::primitive::str>,
    ) -> ::core::result::Result<Self, ::shmrpc::ConnectError> {
        ::shmrpc::ClientBuilder::<Self>::new().connect(endpoint)
    }
    /// Sets options before connecting.
    pub fn builder() -> ::shmrpc::ClientBuilder<Self> {
        ::shmrpc::ClientBuilder::new()
    }
    /// Reads an entry, which is not to [`Self::touch`] it.
    #[inline]
    pub fn get(
        &self,
        key: &str,
    ) -> ::core::result::Result<Entry, ::shmrpc::CallError<KvError>> {
        self.0.call_fallible(0u16, &(::shmrpc::private::arg::Text(key),))
    }
    /// Calls `Kv::put`.
    #[inline]
    pub fn put(
        &self,
        key: &str,
        value: &[u8],
    ) -> ::core::result::Result<u64, ::shmrpc::CallError> {
        self.0
            .call(
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
        self.0.call(2u16, &(::shmrpc::private::arg::Ref(entry),))
    }
    /// Calls `Kv::compare_and_put`.
    #[inline]
    pub fn compare_and_put(
        &self,
        entry: Entry,
        expected: u64,
    ) -> ::core::result::Result<u64, ::shmrpc::CallError<KvError>> {
        self.0
            .call_fallible(
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
        self.0.call(5u16, &())
    }
}
#[allow(clippy::too_many_arguments, reason = "no fewer would do")]
/// Calls of the [`Kv`] service whose results are read where they arrived.
#[derive(::core::clone::Clone, ::core::fmt::Debug)]
pub struct KvView(::shmrpc::private::Channel);
#[allow(clippy::too_many_arguments, reason = "no fewer would do")]
#[allow(dead_code, reason = "a program may use a part of a service")]
#[allow(rustdoc::broken_intra_doc_links, reason = "one-way methods are not among these")]
impl KvView
where
    Entry: ::shmrpc::Message,
    KvError: ::shmrpc::Message,
    u64: ::shmrpc::Message,
    (): ::shmrpc::Message,
{
    /// Reads an entry, which is not to [`Self::touch`] it.
    #[inline]
    pub fn get(
        &self,
        key: &str,
    ) -> ::core::result::Result<::shmrpc::View<Entry>, ::shmrpc::CallError<KvError>> {
        self.0.call_view_fallible(0u16, &(::shmrpc::private::arg::Text(key),))
    }
    /// Calls `Kv::put`.
    #[inline]
    pub fn put(
        &self,
        key: &str,
        value: &[u8],
    ) -> ::core::result::Result<::shmrpc::View<u64>, ::shmrpc::CallError> {
        self.0
            .call_view(
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
        self.0.call_view(2u16, &(::shmrpc::private::arg::Ref(entry),))
    }
    /// Calls `Kv::compare_and_put`.
    #[inline]
    pub fn compare_and_put(
        &self,
        entry: Entry,
        expected: u64,
    ) -> ::core::result::Result<::shmrpc::View<u64>, ::shmrpc::CallError<KvError>> {
        self.0
            .call_view_fallible(
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
        self.0.call_view(5u16, &())
    }
}
#[allow(clippy::too_many_arguments, reason = "no fewer would do")]
/// Serves an implementation of [`Kv`], which it holds as it is, or in an `Arc`.
pub struct KvServer<
    Implementation: ?::core::marker::Sized,
    Held: ?::core::marker::Sized = Implementation,
>(
    ::core::marker::PhantomData<fn() -> Implementation>,
    Held,
);
#[allow(clippy::too_many_arguments, reason = "no fewer would do")]
#[allow(dead_code, reason = "a program may use a part of a service")]
impl<Implementation: ?::core::marker::Sized> KvServer<Implementation> {
    /// Wraps `service` for a server to serve. For an `Arc` of it there is `from_arc`.
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
#[allow(clippy::too_many_arguments, reason = "no fewer would do")]
impl<Implementation, Held> ::core::fmt::Debug for KvServer<Implementation, Held>
where
    Implementation: ?::core::marker::Sized,
    Held: ?::core::marker::Sized,
{
    fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
        f.debug_struct(::core::stringify!(KvServer)).finish_non_exhaustive()
    }
}
#[allow(clippy::too_many_arguments, reason = "no fewer would do")]
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
                type Arguments = (::std::string::String,);
                request
                    .fallible::<
                        Arguments,
                        _,
                        _,
                    >(|args, _, _| ::core::result::Result::Ok(
                        <Implementation as Kv>::get(
                            service,
                            ::shmrpc::private::arg::text(&args.0),
                        ),
                    ))
            }
            1u16 => {
                type Arguments = (::std::string::String, ::std::vec::Vec<u8>);
                request
                    .unary::<
                        Arguments,
                        _,
                    >(|args, _, _| ::core::result::Result::Ok(
                        <Implementation as Kv>::put(
                            service,
                            ::shmrpc::private::arg::text(&args.0),
                            ::shmrpc::private::arg::slice(&args.1),
                        ),
                    ))
            }
            2u16 => {
                type Arguments = (Entry,);
                request
                    .unary::<
                        Arguments,
                        _,
                    >(|args, _, _| ::core::result::Result::Ok(
                        <Implementation as Kv>::put_entry(service, &args.0),
                    ))
            }
            3u16 => {
                type Arguments = (Entry, u64);
                request
                    .fallible::<
                        Arguments,
                        _,
                        _,
                    >(|args, ctx, values| ::core::result::Result::Ok(
                        <Implementation as Kv>::compare_and_put(
                            service,
                            ctx,
                            ::shmrpc::private::arg::owned(&args.0, values)?,
                            ::shmrpc::private::arg::owned(&args.1, values)?,
                        ),
                    ))
            }
            4u16 => {
                type Arguments = (::std::string::String,);
                request
                    .oneway::<
                        Arguments,
                    >(|args, _, _| {
                        <Implementation as Kv>::touch(
                            service,
                            ::shmrpc::private::arg::text(&args.0),
                        );
                        ::core::result::Result::Ok(())
                    })
            }
            #[allow(deprecated, reason = "old callers still call it")]
            5u16 => {
                type Arguments = ();
                request
                    .unary::<
                        Arguments,
                        _,
                    >(|_, _, _| ::core::result::Result::Ok(
                        <Implementation as Kv>::r#clear(service),
                    ))
            }
            _ => request.unknown_method(),
        }
    }
}
