//! What the attributes are told: `#[shmrpc::service(..)]` and `#[shmrpc::message(..)]`.

use proc_macro2::TokenStream;
use syn::meta::ParseNestedMeta;
use syn::parse::Parser;
use syn::{Path, Token, parse_quote, token};

use crate::errors::Errors;

/// Arguments of either attribute.
#[derive(Debug, Clone)]
pub(crate) struct Args {
    /// Where generated code finds shmrpc.
    pub(crate) krate: Path,
    /// Whether that was said.
    pub(crate) elsewhere: bool,
    /// Messages only: the type contains itself.
    pub(crate) recursive: bool,
}

/// Reads the arguments of `#[shmrpc::service(..)]`.
pub(crate) fn service(arguments: TokenStream, errors: &Errors) -> Args {
    read(
        arguments,
        errors,
        |_, meta| Err(meta.error("unknown argument: `service` knows only `crate = path`")),
    )
}

/// Reads the arguments of `#[shmrpc::message(..)]`.
pub(crate) fn message(arguments: TokenStream, errors: &Errors) -> Args {
    read(arguments, errors, |args, meta| {
        if !meta.path.is_ident("recursive") {
            return Err(meta.error("unknown argument: `message` knows only `recursive` and `crate = path`"));
        }
        // What is said wrong is meant all the same.
        let twice = std::mem::replace(&mut args.recursive, true);
        if meta.input.peek(Token![=]) || meta.input.peek(token::Paren) {
            return Err(meta.error("`recursive` takes no value"));
        }
        if twice {
            return Err(meta.error("`recursive` is given twice"));
        }
        Ok(())
    })
}

fn read(
    arguments: TokenStream,
    errors: &Errors,
    other: impl Fn(&mut Args, &ParseNestedMeta<'_>) -> syn::Result<()>,
) -> Args {
    let mut args = Args { krate: parse_quote!(::shmrpc), elsewhere: false, recursive: false };
    let parser = syn::meta::parser(|meta| {
        if !meta.path.is_ident("crate") {
            return other(&mut args, &meta);
        }
        if std::mem::replace(&mut args.elsewhere, true) {
            return Err(meta.error("`crate` is given twice"));
        }
        let path = meta.value().and_then(|value| value.call(Path::parse_mod_style));
        args.krate =
            path.map_err(|_| meta.error("name shmrpc's path without quotes: `crate = ::framework::shmrpc`"))?;
        Ok(())
    });
    if let Err(error) = parser.parse2(arguments) {
        errors.push(error);
    }
    args
}
