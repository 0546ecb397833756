pub trait Files {
    fn open(&self, path: &str) -> Result<OwnedFd, OpenError>;
    fn copy(&self, from: OwnedFd, ctx: &Context, to: std::os::fd::OwnedFd) -> OwnedFd;
}
/// Blocking client of the [`Files`] service.
#[derive(::core::clone::Clone, ::core::fmt::Debug)]
pub struct FilesClient(::shmrpc::private::Channel);
impl ::shmrpc::Client for FilesClient
where
    OpenError: ::shmrpc::Message,
{
    type View = FilesView;
    fn from_channel(channel: ::shmrpc::private::Channel) -> Self {
        Self(channel)
    }
    fn channel(&self) -> &::shmrpc::private::Channel {
        &self.0
    }
    fn view(&self) -> FilesView {
        FilesView(::core::clone::Clone::clone(&self.0))
    }
    fn schema() -> ::shmrpc::private::ServiceSchema {
        ::shmrpc::private::ServiceSchema {
            name: "Files",
            methods: ::std::vec::Vec::from([
                {
                    type Arguments = (::std::string::String,);
                    type Answer = ::core::result::Result<
                        ::shmrpc::private::DescriptorWire,
                        OpenError,
                    >;
                    ::shmrpc::private::MethodSchema::unary::<
                        Arguments,
                        Answer,
                    >(0u16, "open")
                },
                {
                    type Arguments = (
                        ::shmrpc::private::DescriptorWire,
                        ::shmrpc::private::DescriptorWire,
                    );
                    type Answer = ::shmrpc::private::DescriptorWire;
                    ::shmrpc::private::MethodSchema::unary::<
                        Arguments,
                        Answer,
                    >(1u16, "copy")
                },
            ]),
        }
    }
}
#[allow(dead_code, reason = "a program may use a part of a service")]
impl FilesClient
where
    OpenError: ::shmrpc::Message,
{
    /// Connects to the first of the comma-separated endpoints that serves [`Files`].
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
    /// Calls `Files::open`.
    #[inline]
    pub fn open(
        &self,
        path: &str,
    ) -> ::core::result::Result<::std::os::fd::OwnedFd, ::shmrpc::CallError<OpenError>> {
        self.0.call_descriptor_fallible(0u16, &(::shmrpc::private::arg::Text(path),))
    }
    /// Calls `Files::copy`.
    #[inline]
    pub fn copy(
        &self,
        from: impl ::core::convert::Into<::std::os::fd::OwnedFd>,
        to: impl ::core::convert::Into<::std::os::fd::OwnedFd>,
    ) -> ::core::result::Result<::std::os::fd::OwnedFd, ::shmrpc::CallError> {
        self.0
            .call_descriptor(
                1u16,
                &(
                    ::shmrpc::private::Handed::new(from, 0u32),
                    ::shmrpc::private::Handed::new(to, 1u32),
                ),
            )
    }
}
/// Calls of the [`Files`] service whose results are read where they arrived.
#[derive(::core::clone::Clone, ::core::fmt::Debug)]
pub struct FilesView(::shmrpc::private::Channel);
#[allow(dead_code, reason = "a program may use a part of a service")]
impl FilesView
where
    OpenError: ::shmrpc::Message,
{
    /// Calls `Files::open`.
    #[inline]
    pub fn open(
        &self,
        path: &str,
    ) -> ::core::result::Result<::std::os::fd::OwnedFd, ::shmrpc::CallError<OpenError>> {
        self.0.call_descriptor_fallible(0u16, &(::shmrpc::private::arg::Text(path),))
    }
    /// Calls `Files::copy`.
    #[inline]
    pub fn copy(
        &self,
        from: impl ::core::convert::Into<::std::os::fd::OwnedFd>,
        to: impl ::core::convert::Into<::std::os::fd::OwnedFd>,
    ) -> ::core::result::Result<::std::os::fd::OwnedFd, ::shmrpc::CallError> {
        self.0
            .call_descriptor(
                1u16,
                &(
                    ::shmrpc::private::Handed::new(from, 0u32),
                    ::shmrpc::private::Handed::new(to, 1u32),
                ),
            )
    }
}
/// Serves an implementation of [`Files`], which it holds as it is, or in an `Arc`.
pub struct FilesServer<
    Implementation: ?::core::marker::Sized,
    Held: ?::core::marker::Sized = Implementation,
>(
    ::core::marker::PhantomData<fn() -> Implementation>,
    Held,
);
#[allow(dead_code, reason = "a program may use a part of a service")]
impl<Implementation: ?::core::marker::Sized> FilesServer<Implementation> {
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
    ) -> FilesServer<Implementation, ::std::sync::Arc<Implementation>> {
        FilesServer(::core::marker::PhantomData, service)
    }
}
impl<Implementation, Held> ::core::fmt::Debug for FilesServer<Implementation, Held>
where
    Implementation: ?::core::marker::Sized,
    Held: ?::core::marker::Sized,
{
    fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
        f.debug_struct(::core::stringify!(FilesServer)).finish_non_exhaustive()
    }
}
impl<Implementation, Held> ::shmrpc::Service for FilesServer<Implementation, Held>
where
    Implementation: Files + ::core::marker::Send + ::core::marker::Sync
        + ?::core::marker::Sized + 'static,
    Held: ::core::borrow::Borrow<Implementation> + ::core::marker::Send
        + ::core::marker::Sync + 'static,
    OpenError: ::shmrpc::Message,
{
    fn schema(&self) -> ::shmrpc::private::ServiceSchema {
        <FilesClient as ::shmrpc::Client>::schema()
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
                    .descriptor_fallible::<
                        Arguments,
                        _,
                    >(|args, _, _| ::core::result::Result::Ok(
                        <Implementation as Files>::open(
                            service,
                            ::shmrpc::private::arg::text(&args.0),
                        ),
                    ))
            }
            1u16 => {
                type Arguments = (
                    ::shmrpc::private::DescriptorWire,
                    ::shmrpc::private::DescriptorWire,
                );
                request
                    .descriptor::<
                        Arguments,
                    >(|args, ctx, _| ::core::result::Result::Ok(
                        <Implementation as Files>::copy(
                            service,
                            ::shmrpc::private::descriptor(&args.0, ctx)?,
                            ctx,
                            ::shmrpc::private::descriptor(&args.1, ctx)?,
                        ),
                    ))
            }
            _ => request.unknown_method(),
        }
    }
}
