//! From the model to tokens. If anything was refused, the item itself is left in place, so that one mistake does not become many.

mod client;
mod messages;
mod server;

use proc_macro2::TokenStream;
use quote::quote;

use crate::errors::Errors;
use crate::{args, check, parse};

/// All of `#[shmrpc::service]`.
pub(crate) fn service(arguments: TokenStream, tokens: TokenStream) -> TokenStream {
    let errors = Errors::new();
    let args = args::service(arguments, &errors);
    let parsed = parse::service(args, tokens, &errors);
    if let Some(service) = &parsed {
        check::service(service, &errors);
    }
    let refused = errors.finish().err().map(|error| error.into_compile_error());
    let Some(service) = parsed else { return quote!(#refused) };
    let item = &service.item;
    let generated = if refused.is_none() {
        let client = client::expand(&service);
        let server = server::expand(&service);
        quote!(#client #server)
    } else {
        TokenStream::new()
    };
    quote!(#item #refused #generated)
}

/// All of `#[shmrpc::message]`.
pub(crate) fn message(arguments: TokenStream, tokens: TokenStream) -> TokenStream {
    let errors = Errors::new();
    let args = args::message(arguments, &errors);
    let parsed = parse::message(args, tokens, &errors);
    if let Some(message) = &parsed {
        check::message(message, &errors);
    }
    let refused = errors.finish().err().map(|error| error.into_compile_error());
    let Some(message) = parsed else { return quote!(#refused) };
    if refused.is_some() {
        let item = messages::without_rkyv(&message);
        return quote!(#item #refused);
    }
    messages::expand(&message)
}
