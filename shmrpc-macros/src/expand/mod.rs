//! From tokens to tokens: leads through all steps. If anything was refused, the item itself is left in place, so that
//! one mistake does not become many.

mod client;
mod messages;
mod recheck;
mod refused;
mod server;

use proc_macro2::TokenStream;
use quote::quote;
use syn::Item;

use crate::errors::Errors;
use crate::{args, check, parse, schema};

/// All of `#[shmrpc::service]`.
pub(crate) fn service(arguments: TokenStream, tokens: TokenStream) -> TokenStream {
    let errors = Errors::new();
    let args = args::service(arguments, &errors);
    let written = whole(&tokens);
    let parsed = parse::service(args, tokens, &errors);
    if let Some(service) = &parsed {
        check::service(service, &errors);
    }
    let refused = errors.finish().err().map(|error| error.into_compile_error());
    let Some(service) = parsed else { return quote!(#written #refused) };
    let item = &service.item;
    let generated = if refused.is_none() {
        let client = client::expand(&service);
        let server = server::expand(&service);
        let sent = service.methods.iter().flat_map(|method| {
            let cfgs = [service.cfgs.clone(), method.cfgs.clone()].concat();
            method.messages().map(move |ty| (cfgs.clone(), ty))
        });
        let refused = schema::refuse_empty_elements(&service.krate, sent);
        quote!(#client #server #refused)
    } else {
        // With what rustc has to say of the other types, in the same go.
        refused::expand(&service)
    };
    quote!(#item #refused #generated)
}

/// All of `#[shmrpc::message]`.
pub(crate) fn message(arguments: TokenStream, tokens: TokenStream) -> TokenStream {
    let errors = Errors::new();
    let args = args::message(arguments, &errors);
    let written = whole(&tokens);
    let parsed = parse::message(args, tokens, &errors);
    if let Some(message) = &parsed {
        check::message(message, &errors);
    }
    let refused = errors.finish().err().map(|error| error.into_compile_error());
    let Some(message) = parsed else { return quote!(#written #refused) };
    if refused.is_some() {
        let item = messages::refused(&message);
        return quote!(#item #refused);
    }
    messages::expand(&message)
}

/// The item as written, if it is one: what does not parse is reported once.
fn whole(tokens: &TokenStream) -> Option<TokenStream> {
    syn::parse2::<Item>(tokens.clone()).is_ok().then(|| tokens.clone())
}

/// All of `#[derive(Recheck)]`.
pub(crate) fn recheck(tokens: TokenStream) -> TokenStream {
    recheck::expand(tokens).unwrap_or_else(|error| error.into_compile_error())
}

/// Expansions as rustc sees them, pinned because they are read: by users in `cargo expand`, by us in reviews.
/// `BLESS=1 cargo test -p shmrpc-macros` writes them anew.
#[cfg(test)]
mod tests {
    use std::path::Path;

    use proc_macro2::TokenStream;

    fn pinned(name: &str, arguments: &str, expand: fn(TokenStream, TokenStream) -> TokenStream) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/expansion");
        let written = std::fs::read_to_string(folder.join(format!("{name}.rs"))).unwrap();
        let expanded = expand(arguments.parse().unwrap(), written.parse().unwrap());
        let expanded = prettyplease::unparse(&syn::parse2(expanded).unwrap());
        let golden = folder.join(format!("{name}.expanded.rs"));
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&golden, &expanded).unwrap();
        }
        let golden = std::fs::read_to_string(golden).unwrap_or_default();
        assert!(golden == expanded, "the expansion changed; see BLESS above\n{expanded}");
    }

    #[test]
    fn service() {
        pinned("service", "", super::service);
    }

    #[test]
    fn message_struct() {
        pinned("message_struct", "", super::message);
    }

    #[test]
    fn message_enum() {
        pinned("message_enum", "", super::message);
    }

    #[test]
    fn recheck() {
        pinned("recheck", "", |_, item| super::recheck(item));
    }

    #[test]
    fn message_recursive() {
        pinned("message_recursive", "recursive", super::message);
    }
}
