//! `KvServer`: which method a request names, its arguments, and the call of the trait.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{format_ident, quote};
use syn::Index;

use crate::model::{Method, Param, ParamKind, Reply, Service};
use crate::schema;
use crate::syntax::fresh;

/// The server. It holds what it was given as `Held`: a server of `new` finds its service without a further load. What its
/// implementation lacks is said once, where it is served, and not where it is wrapped, too.
pub(crate) fn expand(service: &Service) -> TokenStream {
    let Service { krate, item, repeated, vis, name, methods } = service;
    let (server, client) = (format_ident!("{name}Server"), format_ident!("{name}Client"));
    let (implementation, held) = (fresh("Implementation", item), fresh("Held", item));
    let doc = format!(" Serves an implementation of [`{name}`], which it holds as it is, or in an `Arc`.");
    let (method, request, implemented) = (local("method"), local("request"), local("service"));
    let arms = methods.iter().map(|method| arm(service, method, &implementation, &request, &implemented));
    let messages = schema::messages(service, |_, part| Some(part));
    quote! {
        #(#repeated)*
        #[doc = #doc]
        #vis struct #server<#implementation: ?::core::marker::Sized, #held: ?::core::marker::Sized = #implementation>(
            ::core::marker::PhantomData<fn() -> #implementation>,
            #held,
        );

        #(#repeated)*
        #[allow(dead_code, reason = "a program may use a part of a service")]
        impl<#implementation: ?::core::marker::Sized> #server<#implementation> {
            /// Wraps `service` for a server to serve. For an `Arc` of it there is `from_arc`.
            #vis fn new(service: #implementation) -> Self
            where
                #implementation: ::core::marker::Sized,
            {
                Self(::core::marker::PhantomData, service)
            }

            /// Wraps a service that the rest of the program keeps, too.
            #vis fn from_arc(
                service: ::std::sync::Arc<#implementation>,
            ) -> #server<#implementation, ::std::sync::Arc<#implementation>> {
                #server(::core::marker::PhantomData, service)
            }
        }

        #(#repeated)*
        impl<#implementation, #held> ::core::fmt::Debug for #server<#implementation, #held>
        where
            #implementation: ?::core::marker::Sized,
            #held: ?::core::marker::Sized,
        {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                f.debug_struct(::core::stringify!(#server)).finish_non_exhaustive()
            }
        }

        #(#repeated)*
        impl<#implementation, #held> #krate::Service for #server<#implementation, #held>
        where
            #implementation: #name + ::core::marker::Send + ::core::marker::Sync + ?::core::marker::Sized + 'static,
            #held: ::core::borrow::Borrow<#implementation> + ::core::marker::Send + ::core::marker::Sync + 'static,
            #messages
        {
            fn schema(&self) -> #krate::private::ServiceSchema {
                <#client as #krate::Client>::schema()
            }

            fn dispatch(&self, #method: u16, #request: #krate::private::Request<'_>) -> #krate::private::Answered {
                let #implemented: &#implementation = ::core::borrow::Borrow::borrow(&self.1);
                match #method {
                    #(#arms)*
                    _ => #request.unknown_method(),
                }
            }
        }
    }
}

fn arm(
    service: &Service,
    method: &Method,
    implementation: &Ident,
    request: &Ident,
    implemented: &Ident,
) -> TokenStream {
    let Service { krate: _, item: _, repeated: _, vis: _, name: trait_name, methods: _ } = service;
    let Method { index, name, cfgs, attrs: _, deprecated, refused: _, params, reply } = method;
    let (args, ctx, values) = (local("args"), local("ctx"), local("values"));
    let wire = schema::alias("Arguments", service, method);
    let sent = schema::arguments(&service.krate, method);
    let blobs = blobs(service, method, &args, &ctx);
    let passed = passed(service, params, &args, &ctx, &values);
    let args = if method.sent().next().is_none() { quote!(_) } else { quote!(#args) };
    let asks = |kind: &_| matches!(kind, ParamKind::Context | ParamKind::Blob(_) | ParamKind::Descriptor(_));
    let ctx = if params.iter().any(|param| asks(&param.kind)) { quote!(#ctx) } else { quote!(_) };
    let owned = |kind: &_| matches!(kind, ParamKind::Owned | ParamKind::Borrowed(_));
    let values = if params.iter().any(|param| owned(&param.kind)) { quote!(#values) } else { quote!(_) };
    let call = quote!(<#implementation as #trait_name>::#name(#implemented #(, #passed)*));
    let body = match &blobs[..] {
        [] => quote!(::core::result::Result::Ok(#call)),
        blobs => quote!({
            #(#blobs)*
            ::core::result::Result::Ok(#call)
        }),
    };
    let (run, body) = match reply {
        Reply::OneWay => (
            quote!(oneway::<#wire>),
            quote!({
                #(#blobs)*
                #call;
                ::core::result::Result::Ok(())
            }),
        ),
        Reply::Plain(_) => (quote!(unary::<#wire, _>), body),
        Reply::Fallible { .. } => (quote!(fallible::<#wire, _, _>), body),
        Reply::Descriptor { err: None } => (quote!(descriptor::<#wire>), body),
        Reply::Descriptor { err: Some(_) } => (quote!(descriptor_fallible::<#wire, _>), body),
        Reply::Blob { number: _, err: None } => (quote!(blob::<#wire, _>), body),
        Reply::Blob { number: _, err: Some(_) } => (quote!(blob_fallible::<#wire, _, _>), body),
    };
    let allow = deprecated.then(|| quote!(#[allow(deprecated, reason = "old callers still call it")]));
    quote! {
        #(#cfgs)* #allow #index => {
            type #wire = #sent;
            #request.#run(|#args, #ctx, #values| #body)
        }
    }
}

/// Receives all blobs of a call before any of them, or of the other arguments, may end it: each is to be given back.
fn blobs(service: &Service, method: &Method, args: &Ident, ctx: &Ident) -> Vec<TokenStream> {
    let krate = &service.krate;
    let blobs = method.sent().enumerate().filter_map(|(position, param)| {
        let ParamKind::Blob(number) = &param.kind else { return None };
        let (name, index) = (blob(position), Index::from(position));
        Some(quote!(let #name = #krate::private::blob::<#number>(&#args.#index, #ctx);))
    });
    blobs.collect()
}

/// What holds the blob that is this argument, or why it cannot be had.
fn blob(position: usize) -> Ident {
    local(&format!("blob_{position}"))
}

/// What the trait's method is given for each parameter.
fn passed<'a>(
    service: &'a Service,
    params: &'a [Param],
    args: &'a Ident,
    ctx: &'a Ident,
    values: &'a Ident,
) -> impl Iterator<Item = TokenStream> + 'a {
    let krate = &service.krate;
    let mut position = 0;
    params.iter().map(move |Param { name: _, kind, written: _ }| {
        if let ParamKind::Context = kind {
            return quote!(#ctx);
        }
        let index = Index::from(position);
        position += 1;
        match kind {
            ParamKind::Context => quote!(#ctx),
            ParamKind::Text => quote!(#krate::private::arg::text(&#args.#index)),
            ParamKind::Numbers(_) => quote!(#krate::private::arg::slice(&#args.#index)),
            ParamKind::Archived(_) => quote!(&#args.#index),
            ParamKind::Blob(_) => {
                let blob = blob(position - 1);
                quote!(#blob?)
            }
            ParamKind::Descriptor(_) => quote!(#krate::private::descriptor(&#args.#index, #ctx)?),
            ParamKind::Owned | ParamKind::Borrowed(_) => {
                quote!(#krate::private::arg::owned(&#args.#index, #values)?)
            }
        }
    })
}

/// A local variable that no name of the user's can mean.
fn local(name: &str) -> Ident {
    Ident::new(name, Span::mixed_site())
}
