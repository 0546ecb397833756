//! From tokens to tokens: leads through all steps. If anything was refused, the item itself is left in place, so that
//! one mistake does not become many.

mod refused;
mod client;
mod server;
mod refused_message;
mod stand;
mod messages;
mod recheck;

use proc_macro2::{Ident, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::parse::ParseStream;
use syn::spanned::Spanned;
use syn::{Block, Item, ItemEnum, Path, Token, parse_quote};

use crate::args::Args;
use crate::check::WITHOUT_VARIANTS;
use crate::errors::Errors;
use crate::model::{Message, Method, Service};
use crate::{args, check, parse, schema};

/// All of `#[shmrpc::service]`.
pub(crate) fn service(arguments: TokenStream, tokens: TokenStream) -> TokenStream {
    let errors = Errors::new();
    let args = args::service(arguments, &errors);
    let written = tokens.clone();
    let parsed = parse::service(args, tokens, &errors);
    if let Some(service) = &parsed {
        check::service(service, &errors);
    }
    let refused = errors.finish();
    let Some(service) = parsed else { return with_errors(written, refused) };
    if let Err(error) = refused {
        // With what rustc has to say of the other types, in the same go.
        let (item, refused, stubs) = (refused::item(&service), reported(error), refused::expand(&service));
        return quote!(#item #refused #stubs);
    }
    let item = &service.item;
    let sometimes = service.methods.iter().any(|method| !method.cfgs.is_empty());
    let generated = if sometimes { when_cfgs_are_known(&service, &written) } else { generated(&service) };
    quote!(#item #generated)
}

/// Client, view and server of a service whose methods are all there.
fn generated(service: &Service) -> TokenStream {
    let client = client::expand(service);
    let server = server::expand(service);
    let sent = service.methods.iter().flat_map(Method::messages).map(|ty| (service.repeated.clone(), ty));
    let refused = schema::refuse_empty_elements(&service.krate, sent);
    quote!(#client #server #refused)
}

/// The same later, by a derive, since a bound cannot have a `#[cfg]`.
fn when_cfgs_are_known(service: &Service, written: &TokenStream) -> TokenStream {
    let Service { krate, item: _, repeated, vis: _, name, methods } = service;
    let variants = methods.iter().map(|method| {
        let (cfgs, variant) = (&method.cfgs, variant_of(method));
        quote!(#(#cfgs)* #variant)
    });
    quote! {
        #(#repeated)*
        #[derive(#krate::private::Methods)]
        #[service(#krate; #written)]
        #[#krate::private::discard]
        enum #name {
            #(#variants,)*
        }
    }
}

fn variant_of(method: &Method) -> Ident {
    format_ident!("Method{}", method.index)
}

/// All of `#[derive(Methods)]`.
pub(crate) fn methods(tokens: TokenStream) -> TokenStream {
    let read = || {
        let item: ItemEnum = syn::parse2(tokens)?;
        let said = item.attrs.iter().find(|attr| attr.path().is_ident("service"));
        let said = said.ok_or_else(|| syn::Error::new_spanned(&item.ident, "no service"))?;
        let (krate, written) = said.parse_args_with(|input: ParseStream<'_>| {
            let krate = Path::parse_mod_style(input)?;
            input.parse::<Token![;]>()?;
            Ok((krate, input.parse::<TokenStream>()?))
        })?;
        let errors = Errors::new();
        let service = parse::service(Args { krate, elsewhere: true, recursive: false }, written, &errors);
        errors.finish()?;
        let mut service = service.ok_or_else(|| syn::Error::new_spanned(&item.ident, "no service"))?;
        service.repeated.retain(|attr| !attr.path().is_ident("cfg"));
        service.methods.retain(|method| item.variants.iter().any(|left| left.ident == variant_of(method)));
        service.methods.iter_mut().for_each(|method| method.cfgs.clear());
        Ok(generated(&service))
    };
    read().unwrap_or_else(reported)
}

/// All of `#[shmrpc::message]`.
pub(crate) fn message(arguments: TokenStream, tokens: TokenStream) -> TokenStream {
    let errors = Errors::new();
    let args = args::message(arguments.clone(), &errors);
    let (written, elsewhere) = (tokens.clone(), args.elsewhere.then(|| args.krate.clone()));
    let parsed = parse::message(args.clone(), tokens, &errors);
    if let Some(message) = &parsed {
        check::message(message, &errors);
    }
    let refused = errors.finish();
    let Some(message) = parsed else {
        let Some(union) = refused_message::union(args, written.clone()) else {
            return with_errors(written, refused);
        };
        let refused = refused.err().map(reported);
        return quote!(#union #refused);
    };
    if refused.is_err() || check::repeats_itself(&message) {
        let refused = refused.err().map(reported);
        let item = refused_message::expand(&message);
        return quote!(#item #refused);
    }
    match elsewhere {
        // If there is no such crate, rustc says so of this path, and of none of the many in what is generated.
        Some(krate) => {
            let found = quote_spanned!(krate.span()=> private::message_found);
            quote!(#[#krate::#found(#arguments)] #written)
        }
        None => accepted(&message),
    }
}

/// The same, once the crate is found that a message was told of.
pub(crate) fn message_found(arguments: TokenStream, tokens: TokenStream) -> TokenStream {
    let errors = Errors::new();
    let parsed = parse::message(args::message(arguments, &errors), tokens, &errors);
    match (errors.finish(), parsed) {
        (Ok(()), Some(message)) => accepted(&message),
        (refused, _) => refused.err().map(reported).unwrap_or_default(),
    }
}

/// A message of which nothing is refused, unless it is an enum without variants where `#[cfg]` takes them all.
fn accepted(message: &Message) -> TokenStream {
    let message = &message.by_name();
    let Some(condition) = message.has_variants() else { return messages::expand(message) };
    let none = message.under(&quote!(not(#condition)));
    let (some, none) =
        (messages::expand(&message.under(&condition)), refused_message::without_variants(&none));
    let (repeated, name) = (&message.repeated, &message.name);
    let refused = quote_spanned!(name.span()=> ::core::compile_error!(#WITHOUT_VARIANTS););
    quote! {
        #some
        #none
        #(#repeated)*
        #[cfg(not(#condition))]
        const _: () = { #refused };
    }
}

/// Errors, in the order of the user's source. Each is in a constant: as items of the module, they would make rustc say
/// nothing of names in it that it does not find.
fn reported(errors: syn::Error) -> TokenStream {
    let each = errors.into_iter().map(|error| {
        let error = error.into_compile_error();
        quote!(const _: () = { #error };)
    });
    each.collect()
}

/// An item that is neither a service nor a message, with what was said of it. It may stand in an `impl` or in an `extern`
/// block, where a constant has to have a name: so it is in a body, if the item has one. One that does not parse is left out,
/// since that is reported once.
fn with_errors(written: TokenStream, refused: Result<(), syn::Error>) -> TokenStream {
    let item = syn::parse2::<Item>(written.clone());
    let Err(errors) = refused else { return written };
    let plain = errors.to_compile_error();
    match item {
        Err(_) => plain,
        Ok(Item::Fn(mut item)) => {
            let said: Block = parse_quote!({ #plain });
            item.block.stmts.splice(0..0, said.stmts);
            quote!(#item)
        }
        Ok(Item::Const(_) | Item::Static(_) | Item::Verbatim(_) | Item::Macro(_)) => quote!(#written #plain),
        Ok(_) => {
            let errors = reported(errors);
            quote!(#written #errors)
        }
    }
}

/// All of `#[derive(Recheck)]`.
pub(crate) fn recheck(tokens: TokenStream) -> TokenStream {
    recheck::expand(tokens).unwrap_or_else(reported)
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

    /// Methods that are there sometimes: a derive sees which.
    #[test]
    fn service_cfg() {
        pinned("service_cfg", "", super::service);
    }

    #[test]
    fn service_refused() {
        pinned("service_refused", "", super::service);
    }

    #[test]
    fn descriptors() {
        pinned("descriptors", "", super::service);
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
