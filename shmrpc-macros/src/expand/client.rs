//! `KvClient` and `KvView`: one method per method of the trait.
//!
//! Their bodies have no locals of their own, so no name of a parameter can collide with one.

use proc_macro2::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::Type;
use syn::spanned::Spanned;

use crate::model::{Method, Param, ParamKind, Reply, Service};
use crate::schema;
use crate::syntax::wire_name;

/// The client and its view.
pub(crate) fn expand(service: &Service) -> TokenStream {
    let client = client(service);
    let view = view(service);
    quote!(#client #view)
}

fn client(service: &Service) -> TokenStream {
    let Service { krate, item: _, repeated, vis, name, methods } = service;
    let (client, view) = (format_ident!("{name}Client"), format_ident!("{name}View"));
    let doc = format!(" Blocking client of the [`{name}`] service.");
    let connecting = connecting(service);
    let calls = methods.iter().map(|method| call(service, method));
    let schema = schema::service(service);
    let bounds = bounds(service);
    quote! {
        #(#repeated)*
        #[doc = #doc]
        #[derive(::core::clone::Clone, ::core::fmt::Debug)]
        #vis struct #client(#krate::private::Channel);

        #(#repeated)*
        impl #krate::Client for #client #bounds {
            type View = #view;

            fn from_channel(channel: #krate::private::Channel) -> Self {
                Self(channel)
            }

            fn channel(&self) -> &#krate::private::Channel {
                &self.0
            }

            fn view(&self) -> #view {
                #view(::core::clone::Clone::clone(&self.0))
            }

            fn schema() -> #krate::private::ServiceSchema {
                #schema
            }
        }

        #(#repeated)*
        #[allow(dead_code, reason = "a program may use a part of a service")]
        impl #client #bounds {
            #connecting

            #(#calls)*
        }
    }
}

/// How a client comes to be.
pub(crate) fn connecting(service: &Service) -> TokenStream {
    let Service { krate, item: _, repeated: _, vis, name, methods: _ } = service;
    let connect_doc =
        format!(" Connects to the first of the comma-separated endpoints that serves [`{name}`].");
    quote! {
        #[doc = #connect_doc]
        ///
        /// # Errors
        /// If no endpoint can be reached, or if what serves it is not this service.
        #vis fn connect(
            endpoint: impl ::core::convert::AsRef<::core::primitive::str>,
        ) -> ::core::result::Result<Self, #krate::ConnectError> {
            #krate::ClientBuilder::<Self>::new().connect(endpoint)
        }

        /// Sets options before connecting.
        #vis fn builder() -> #krate::ClientBuilder<Self> {
            #krate::ClientBuilder::new()
        }
    }
}

fn view(service: &Service) -> TokenStream {
    let Service { krate, item: _, repeated, vis, name, methods } = service;
    let view = format_ident!("{name}View");
    let doc = format!(" Calls of the [`{name}`] service whose results are read where they arrived.");
    let calls = methods.iter().map(|method| view_call(service, method));
    let lacks_some = methods.iter().any(|method| matches!(method.reply, Reply::OneWay));
    let links = lacks_some.then(
        || quote!(#[allow(rustdoc::broken_intra_doc_links, reason = "one-way methods are not among these")]),
    );
    let bounds = bounds(service);
    quote! {
        #(#repeated)*
        #[doc = #doc]
        #[derive(::core::clone::Clone, ::core::fmt::Debug)]
        #vis struct #view(#krate::private::Channel);

        #(#repeated)*
        #[allow(dead_code, reason = "a program may use a part of a service")]
        #links
        impl #view #bounds {
            #(#calls)*
        }
    }
}

/// One method of the client.
pub(crate) fn call(service: &Service, method: &Method) -> TokenStream {
    let krate = &service.krate;
    let Method { index, name: _, cfgs: _, attrs: _, deprecated: _, refused: _, params: _, reply } = method;
    let head = head(service, method);
    let arguments = arguments(service, method);
    let (result, body) = match reply {
        Reply::OneWay => (quote!((), #krate::CallError), quote!(send(#index, #arguments))),
        Reply::Plain(ok) => (quote!(#ok, #krate::CallError), quote!(call(#index, #arguments))),
        Reply::Blob { number, err } => blob_call(service, method, number, err.as_deref()),
        Reply::Descriptor { err } => descriptor_call(service, method, err.as_deref()),
        Reply::Fallible { ok, err } => {
            (quote!(#ok, #krate::CallError<#err>), quote!(call_fallible(#index, #arguments)))
        }
    };
    quote!(#head -> ::core::result::Result<#result> { self.0.#body })
}

/// What a call that returns a blob has, and how it is made.
fn blob_call(
    service: &Service,
    method: &Method,
    number: &Type,
    err: Option<&Type>,
) -> (TokenStream, TokenStream) {
    let (krate, index) = (&service.krate, method.index);
    let arguments = arguments(service, method);
    match err {
        None => (quote!(#krate::Blob<#number>, #krate::CallError), quote!(call_blob(#index, #arguments))),
        Some(err) => (
            quote!(#krate::Blob<#number>, #krate::CallError<#err>),
            quote!(call_blob_fallible(#index, #arguments)),
        ),
    }
}

/// What a call that returns a descriptor has, and how it is made.
fn descriptor_call(service: &Service, method: &Method, err: Option<&Type>) -> (TokenStream, TokenStream) {
    let (krate, index) = (&service.krate, method.index);
    let arguments = arguments(service, method);
    match err {
        None => {
            (quote!(::std::os::fd::OwnedFd, #krate::CallError), quote!(call_descriptor(#index, #arguments)))
        }
        Some(err) => (
            quote!(::std::os::fd::OwnedFd, #krate::CallError<#err>),
            quote!(call_descriptor_fallible(#index, #arguments)),
        ),
    }
}

/// One method of the view. A one-way method has no result to look at.
pub(crate) fn view_call(service: &Service, method: &Method) -> Option<TokenStream> {
    let krate = &service.krate;
    let Method { index, name: _, cfgs: _, attrs: _, deprecated: _, refused: _, params: _, reply } = method;
    let head = head(service, method);
    let arguments = arguments(service, method);
    let (result, body) = match reply {
        Reply::OneWay => return None,
        // It is read where it arrived in any case.
        Reply::Blob { number, err } => blob_call(service, method, number, err.as_deref()),
        // There is nothing to look at.
        Reply::Descriptor { err } => descriptor_call(service, method, err.as_deref()),
        Reply::Plain(ok) => {
            (quote!(#krate::View<#ok>, #krate::CallError), quote!(call_view(#index, #arguments)))
        }
        Reply::Fallible { ok, err } => (
            quote!(#krate::View<#ok>, #krate::CallError<#err>),
            quote!(call_view_fallible(#index, #arguments)),
        ),
    };
    Some(quote!(#head -> ::core::result::Result<#result> { self.0.#body }))
}

fn bounds(service: &Service) -> Option<TokenStream> {
    schema::messages(service, |_, part| Some(part)).map(|bounds| quote!(where #bounds))
}

/// Docs, attributes and signature up to the result.
fn head(service: &Service, method: &Method) -> TokenStream {
    let Service { krate: _, item: _, repeated: _, vis, name: service_name, methods: _ } = service;
    let Method { index: _, name, cfgs, attrs, deprecated: _, refused: _, params, reply: _ } = method;
    let doc = (!attrs.iter().any(|attr| attr.path().is_ident("doc"))).then(|| {
        let doc = format!(" Calls `{service_name}::{}`.", wire_name(name));
        quote!(#[doc = #doc])
    });
    let params = params.iter().filter_map(|Param { name, kind, written }| match kind {
        ParamKind::Context => None,
        ParamKind::Archived(inner) => Some(quote!(#name: &#inner)),
        ParamKind::Blob(number) => {
            let krate = &service.krate;
            Some(quote!(#name: impl ::core::convert::Into<#krate::Blob<#number>>))
        }
        ParamKind::Descriptor(_) => Some(quote!(#name: impl ::core::convert::Into<::std::os::fd::OwnedFd>)),
        ParamKind::Text | ParamKind::Numbers(_) | ParamKind::Owned | ParamKind::Borrowed(_) => {
            Some(quote!(#name: #written))
        }
    });
    quote!(#(#cfgs)* #doc #(#attrs)* #[inline] #vis fn #name(&self #(, #params)*))
}

/// What is encoded: a tuple of what is sent, each in a wrapper that says how.
fn arguments(service: &Service, method: &Method) -> TokenStream {
    let krate = &service.krate;
    let arguments = method.sent().map(|Param { name, kind, written }| {
        if let ParamKind::Blob(number) = kind {
            return quote!(self.0.loan::<#number>(#name));
        }
        if let ParamKind::Descriptor(place) = kind {
            return quote!(#krate::private::Handed::new(#name, #place));
        }
        let (wrapper, name) = match kind {
            ParamKind::Text => (quote!(Text), quote!(#name)),
            ParamKind::Numbers(_) => (quote!(Slice), quote!(#name)),
            ParamKind::Archived(_) => (quote!(Ref), quote!(#name)),
            ParamKind::Owned
            | ParamKind::Borrowed(_)
            | ParamKind::Blob(_)
            | ParamKind::Descriptor(_)
            | ParamKind::Context => (quote!(Ref), quote_spanned!(name.span()=> &#name)),
        };
        let call = quote!(#krate::private::arg::#wrapper(#name));
        schema::on(written.span(), call)
    });
    let span = schema::arguments_span(method);
    quote_spanned!(span=> &(#(#arguments,)*))
}
